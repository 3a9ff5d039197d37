//! How the links of one node share what it may send: pure, all times are arguments.
//!
//! What is urgent goes first. Within one urgency each link gets bytes by its weight: start-time fair queueing (Goyal, Vin
//! and Cheng, 1996), in which a link that had nothing to send neither saves up nor loses. Without a bound on the whole
//! nobody knows what there is to be shared, and links of one urgency do not wait for each other: the network divides.
//! Whoever has waited long goes all the same, one piece at a time: a link that stands still would count as broken.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_model::{Bandwidth, Moment};

use crate::pace::Cap;

/// How long a link waits for more urgent ones before it sends a piece all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// How urgent it is that something is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The container runs, with all its memory.
    #[default]
    Running,
    /// The container stands still, or runs without some of its memory.
    Waiting,
    /// A program has touched memory that is not there yet.
    Awaited,
}

/// A link among those that share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member(u64);

#[derive(Debug, Clone, Copy)]
struct Flow {
    weight: f64,
    /// What it has been given, as a point in virtual time.
    tag: f64,
    urgency: Urgency,
    /// Since when it has something to send that it may not send yet.
    waits: Option<Moment>,
    /// Whether it is sending a piece.
    sends: bool,
}

/// What is shared.
#[derive(Debug, Clone, Default)]
pub struct Share {
    cap: Option<Cap>,
    flows: BTreeMap<Member, Flow>,
    /// The point in virtual time of what was sent last.
    clock: f64,
    next: u64,
}

impl Share {
    /// What links share from `now` on: this bandwidth, or what the network gives.
    #[must_use]
    pub fn new(bandwidth: Option<Bandwidth>, now: Moment) -> Self {
        Self { cap: bandwidth.map(|bandwidth| Cap::new(bandwidth, now)), ..Self::default() }
    }

    /// A link that takes part.
    pub fn join(&mut self, weight: u32) -> Member {
        let member = Member(self.next);
        self.next += 1;
        let weight = f64::from(weight.max(1));
        let flow = Flow { weight, tag: 0.0, urgency: Urgency::Running, waits: None, sends: false };
        self.flows.insert(member, flow);
        member
    }

    /// It takes part no more.
    pub fn leave(&mut self, member: Member) {
        self.flows.remove(&member);
    }

    /// Whether there is a bound that pieces must be small for.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.cap.is_some()
    }

    /// A link wants to send a piece. Zero: it does, and says so with `sent` when it has. Otherwise how long it waits at most
    /// before it asks again; it asks earlier when another one has sent something or has nothing more to send.
    pub fn ask(&mut self, now: Moment, member: Member, urgency: Urgency, bytes: usize) -> Duration {
        let clock = self.clock;
        let Some(flow) = self.flows.get_mut(&member) else { return Duration::ZERO };
        flow.urgency = urgency;
        let since = *flow.waits.get_or_insert_with(|| {
            flow.tag = flow.tag.max(clock);
            now
        });
        let overdue = PATIENCE.saturating_sub(now.since(since));
        if !self.is_first(now, member) {
            return overdue.max(Duration::from_millis(1));
        }
        let wait = self.cap.as_mut().map_or(Duration::ZERO, |cap| cap.wait(now));
        if !wait.is_zero() {
            return wait;
        }
        if let Some(cap) = &mut self.cap {
            cap.spend(now, bytes);
        }
        let Some(flow) = self.flows.get_mut(&member) else { return Duration::ZERO };
        self.clock = self.clock.max(flow.tag);
        flow.tag += bytes as f64 / flow.weight;
        (flow.waits, flow.sends) = (None, true);
        Duration::ZERO
    }

    /// The piece was sent, or could not be.
    pub fn sent(&mut self, member: Member) {
        if let Some(flow) = self.flows.get_mut(&member) {
            flow.sends = false;
        }
    }

    /// It has nothing more to send, and waits for nothing.
    pub fn idle(&mut self, member: Member) {
        if let Some(flow) = self.flows.get_mut(&member) {
            (flow.waits, flow.sends) = (None, false);
        }
    }

    /// What goes without being asked for, such as messages, counts all the same.
    pub fn spent(&mut self, now: Moment, bytes: usize) {
        if let Some(cap) = &mut self.cap {
            cap.spend(now, bytes);
        }
    }

    /// What a link gets of the bound, in bytes per second, if there is one.
    #[must_use]
    pub fn rate(&self, member: Member) -> Option<u64> {
        let rate = self.cap.as_ref()?.rate() as f64;
        let own = self.flows.get(&member)?.weight;
        let busy = self.flows.iter().filter(|(other, flow)| **other == member || flow.sends || flow.waits.is_some());
        let all: f64 = busy.map(|(_, flow)| flow.weight).sum();
        Some((rate * own / all) as u64)
    }

    /// Whether nobody goes before it.
    fn is_first(&self, now: Moment, member: Member) -> bool {
        let own = self.flows[&member];
        let rank = |flow: &Flow| {
            let overdue = flow.waits.is_some_and(|since| now.since(since) >= PATIENCE);
            if overdue { None } else { Some(std::cmp::Reverse(flow.urgency)) }
        };
        // What is overdue comes first (`None` is the least), then the most urgent.
        let others = self.flows.iter().filter(|(other, _)| **other != member);
        if self.cap.is_none() {
            let mut busy = others.filter(|(_, flow)| flow.sends || flow.waits.is_some());
            return rank(&own).is_none() || busy.all(|(_, flow)| flow.urgency <= own.urgency);
        }
        let place = |member: Member, flow: &Flow| (rank(flow), flow.tag, member);
        let first = place(member, &own);
        let mut waiting = others.filter(|(_, flow)| flow.waits.is_some());
        waiting.all(|(other, flow)| {
            let second = place(*other, flow);
            first.0.cmp(&second.0).then(first.1.total_cmp(&second.1)).then(first.2.cmp(&second.2)).is_lt()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pace::CAPPED_PIECE;

    fn at(ms: f64) -> Moment {
        Moment(Duration::from_secs_f64(ms / 1e3))
    }

    /// Links that always have something to send; the bytes that each sent in so many milliseconds.
    fn sent(share: &mut Share, links: &[(Member, Urgency)], ms: u32) -> Vec<u64> {
        let mut sent = vec![0; links.len()];
        for step in 0..ms * 4 {
            let now = at(f64::from(step) / 4.0);
            loop {
                let mut any = false;
                for (index, (member, urgency)) in links.iter().enumerate() {
                    if share.ask(now, *member, *urgency, CAPPED_PIECE).is_zero() {
                        share.sent(*member);
                        sent[index] += CAPPED_PIECE as u64;
                        any = true;
                    }
                }
                if !any {
                    break;
                }
            }
        }
        sent
    }

    #[test]
    fn who_stands_still_goes_first_and_nobody_stands_still_for_ever() {
        let mut share = Share::new(Some(Bandwidth(800_000_000)), at(0.0));
        let links = [Urgency::Running, Urgency::Waiting].map(|urgency| (share.join(4), urgency));
        let all = sent(&mut share, &links, 5000);
        assert!(all[1] > all[0] * 100, "{all:?}");
        // A piece in each second at least.
        assert!(all[0] >= 4 * CAPPED_PIECE as u64, "{all:?}");
        // A program that waits for a page waits for one piece of somebody else's at most.
        let awaited = share.join(1);
        let now = at(5000.0);
        assert!(!share.ask(now, links[1].0, Urgency::Waiting, CAPPED_PIECE).is_zero());
        let wait = share.ask(now, awaited, Urgency::Awaited, 4096);
        assert!(wait <= Duration::from_millis(1), "{wait:?}");
    }

    #[test]
    fn without_a_bound_only_the_urgent_are_waited_for() {
        let mut share = Share::new(None, at(0.0));
        let [one, other, frozen] = [16, 1, 1].map(|weight| share.join(weight));
        for member in [one, other] {
            assert!(share.ask(at(0.0), member, Urgency::Running, 1).is_zero());
            share.sent(member);
        }
        assert!(share.ask(at(0.0), frozen, Urgency::Waiting, 1).is_zero());
        assert!(!share.ask(at(1.0), one, Urgency::Running, 1).is_zero(), "it is still being sent");
        assert!(share.ask(at(1001.0), one, Urgency::Running, 1).is_zero(), "it has waited long");
        share.sent(one);
        share.sent(frozen);
        assert!(share.ask(at(1002.0), other, Urgency::Running, 1).is_zero());
    }

    #[test]
    fn a_link_that_had_nothing_to_send_saves_nothing_up() {
        let mut share = Share::new(Some(Bandwidth(80_000_000)), at(0.0));
        let [busy, late] = [4, 4].map(|weight| share.join(weight));
        sent(&mut share, &[(busy, Urgency::Running)], 1000);
        let mut now = 1000.0;
        let mut both = [0_u32; 2];
        while now < 2000.0 {
            for (index, member) in [busy, late].into_iter().enumerate() {
                if share.ask(at(now), member, Urgency::Running, CAPPED_PIECE).is_zero() {
                    share.sent(member);
                    both[index] += 1;
                }
            }
            now += 0.25;
        }
        assert!(both[0].abs_diff(both[1]) <= 2, "{both:?}");
    }

    proptest! {
        #[test]
        fn each_gets_its_share_and_the_bound_holds_and_is_used(
            weights in proptest::collection::vec(1..=16_u32, 1..6),
            mbit in 200..2000_u64,
        ) {
            const MS: u32 = 900;
            let mut share = Share::new(Some(Bandwidth(mbit * 1_000_000)), at(0.0));
            let links: Vec<_> = weights.iter().map(|weight| (share.join(*weight), Urgency::Running)).collect();
            let sent = sent(&mut share, &links, MS);
            let (all, allowed) = (sent.iter().sum::<u64>(), mbit * 125 * u64::from(MS));
            let piece = CAPPED_PIECE as u64;
            prop_assert!(all <= allowed + 2 * piece, "{} of {}", all, allowed);
            prop_assert!(all + allowed / 20 + 2 * piece >= allowed, "{} of {}", all, allowed);
            let sum: u32 = weights.iter().sum();
            for (weight, sent) in weights.iter().zip(&sent) {
                let fair = all as f64 * f64::from(*weight) / f64::from(sum);
                // Start-time fair queueing is off by a piece of each at most.
                let off = (weights.len() + 1) as f64 * piece as f64;
                prop_assert!((*sent as f64 - fair).abs() <= off, "{:?} for {:?}", sent, weights);
            }
        }
    }
}
