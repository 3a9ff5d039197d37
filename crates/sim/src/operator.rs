//! Those who order: moves, cancels and resolves; and what comes and goes: agents, power, links.

use drover_model::{ContainerSpec, Digest, Fallback, Limits, Mode, Outcome, ProcessSpec, RestartPolicy, Settings};
use drover_protocol::{
    Entry, FixedPart, Journal, Mark, Offer, OfferedImage, Ownership, Past, Source, SourceInput, TargetInput, ToTarget,
    Verdict, decode, encode, ends_recall,
};

use crate::disk::Health;
use crate::fault::Fault;
use crate::lead::{Lead, chance_failed};
use crate::mutant::Mutant;
use crate::network::Frame;
use crate::node::{Agent, Node, Number, Recall, container, index, migration, name, number};
use crate::session::Session;
use crate::world::{Event, World};

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Moves the container away from wherever it runs.
    Move,
    Cancel,
    /// Says whose the container is, for its other node is lost.
    Resolve,
    /// Has an agent started anew.
    Restart(usize),
}

/// How many moves are ordered at most, and within what time.
const MOVES: u64 = 4;
const WHILE: u64 = 3_000_000;
/// When an operator looks after a node was lost, counted from when the rest is healed.
const RESOLVES: [u64; 3] = [100_000_000, 400_000_000, 900_000_000];
/// Within what time a storm strikes.
const STORM: u64 = 100_000;
/// Between two attempts to tell a target of a rollback.
const RECALL_PAUSE: u64 = 500_000;

impl World {
    pub(crate) fn plan_orders(&mut self) {
        self.after(1_000, Event::Operator(Order::Move));
        for _ in 0..self.chance.below(MOVES) {
            let pause = self.chance.below(WHILE);
            self.after(pause, Event::Operator(Order::Move));
        }
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.trace.note(self.now, format_args!("ordered: {order:?}"));
        match order {
            Order::Move => self.order_move(),
            Order::Cancel => {
                for node in 0..2 {
                    let leads = self.nodes[node].agent.iter().flat_map(|agent| &agent.leads);
                    for number in leads.map(|lead| lead.number).collect::<Vec<Number>>() {
                        self.tell_lead(node, number, SourceInput::Cancelled);
                    }
                }
            }
            Order::Resolve => {
                for node in 0..2 {
                    self.resolve(node);
                }
            }
            Order::Restart(node) => {
                self.nodes[node].agent = None;
                self.start_agent(node);
            }
        }
    }

    fn order_move(&mut self) {
        let Some(node) = (0..2).find(|node| self.nodes[*node].runs() && self.nodes[*node].agent.is_some()) else {
            return;
        };
        let own = &self.nodes[node];
        let Some(agent) = &own.agent else { return };
        // One at a time: as long as a migration may still call it back nobody else moves it.
        let held = agent.leads.iter().any(|lead| lead.outcome.is_none())
            || agent.sessions.iter().any(|session| session.has_place);
        if held {
            return;
        }
        self.migrations += 1;
        let number = self.migrations;
        let mode = if self.chance.one_in(2) { Mode::Auto } else { self.chance.one_of(&Mode::ALL) };
        let fallback = self.chance.one_in(3).then(|| self.chance.one_of(&Fallback::ALL));
        let settings = Settings { mode, fallback, sync: self.chance.one_in(25), ..Settings::default() };
        if settings.check().is_err() || self.write_mark(node, number, 1 - node, Mark::Began, None).is_err() {
            return;
        }
        let moment = self.nodes[node].moment(self.now);
        let offer = offer(number, settings);
        let machine = Source::new(moment, name(node), name(1 - node), offer, FixedPart::default());
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        agent.leads.push(Lead::new(number, 1 - node, machine));
        self.drive_lead(node, number);
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, format_args!("fault: {fault:?}"));
        match fault {
            Fault::AgentDies { node, back } => {
                self.lose_agent(node);
                self.after(back, Event::AgentStarts { node });
            }
            Fault::PowerFails { node, back } => {
                self.lose_power(node);
                self.after(back, Event::PowerReturns { node });
            }
            Fault::PowerFailsInWrite { node } => self.nodes[node].disk.lose_power_in_write(),
            Fault::NodeIsLost { node } => {
                self.lose_power(node);
                self.nodes[node].gone = true;
                // What else goes wrong is for other runs.
                self.faults.clear();
            }
            Fault::Cut { heals } => {
                self.cut = true;
                self.break_links();
                self.after(heals, Event::CutHeals);
            }
            Fault::Reset => self.break_links(),
            Fault::Unruly { ends } => {
                self.unruly = true;
                self.after(ends, Event::OrderReturns);
            }
            Fault::DiskFails { node, health, heals } => {
                self.nodes[node].disk.set_health(health);
                self.after(heals, Event::DiskHeals { node });
            }
            Fault::ClockJumps { node, by } => self.nodes[node].offset += by,
            Fault::Hangs { node, extra } => self.nodes[node].hang = extra,
            Fault::Storm { node, heals } => {
                self.nodes[node].disk.set_health(Health::Lies);
                self.after(heals, Event::DiskHeals { node });
                let end = match self.chance.one_in(2) {
                    true => Fault::AgentDies { node, back: heals },
                    false => Fault::PowerFails { node, back: heals },
                };
                for fault in [Fault::Cut { heals }, end] {
                    let pause = self.chance.below(STORM);
                    self.after(pause, Event::Strikes(fault));
                }
            }
            Fault::Cancel => self.order(Order::Cancel),
        }
    }

    fn lose_agent(&mut self, node: usize) {
        self.nodes[node].agent = None;
        self.break_links();
    }

    fn lose_power(&mut self, node: usize) {
        self.lose_agent(node);
        let own = &mut self.nodes[node];
        own.power = false;
        own.disk.lose_power();
        let processes = own.processes.take();
        self.memory_lost |= processes.is_some();
        // It has run here, and nobody will know.
        let ran = processes.is_some_and(|processes| processes.running) || own.place.is_some_and(|place| place.ended);
        self.excused |= ran && own.disk.has_promise();
        if let Some(place) = own.place.as_mut().filter(|place| !place.durable) {
            place.files = Default::default();
            place.ended = false;
        }
    }

    pub(crate) fn return_power(&mut self, node: usize) {
        if !self.nodes[node].gone {
            self.nodes[node].power = true;
            self.start_agent(node);
        }
    }

    /// An agent starts, and takes up what it finds.
    pub(crate) fn start_agent(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if !own.power || own.agent.is_some() {
            return;
        }
        own.life += 1;
        let opened = Journal::open(own.disk.clone());
        self.see_power(node);
        let Ok(journal) = opened else {
            // Whoever watches over it starts it again.
            return self.after(2_000_000, Event::AgentStarts { node });
        };
        if !self.nodes[node].power {
            return;
        }
        let unfinished = journal.unfinished();
        let newest = journal.newest(&container());
        self.trace.note(self.now, format_args!("{} starts its agent: {unfinished:?}", name(node)));
        self.nodes[node].agent = Some(Agent { journal, leads: vec![], sessions: vec![], recalls: vec![] });
        let open = newest.as_ref().filter(|newest| unfinished.contains(newest)).map(|entry| entry.mark);
        self.take_up(node, open);
        for entry in unfinished {
            self.finish(node, entry, newest.as_ref());
        }
    }

    fn ownership(&self, node: usize, mark: Option<Mark>) -> Option<Ownership> {
        let own = &self.nodes[node];
        let place = own.place?;
        let found = Ownership::of(mark, place.arriving, own.processes.is_some() || place.ended);
        Some(match (self.mutant, found) {
            (Some(Mutant::RestartIgnoresCommit), Ownership::Leaves) => Ownership::Stays,
            (Some(Mutant::AcceptedIsGivenBack), Ownership::Accepted) if own.processes.is_none() => Ownership::GivenBack,
            (Some(Mutant::RestartDropsPromise), Ownership::Awaits) => Ownership::Discarded,
            _ => found,
        })
    }

    fn take_up(&mut self, node: usize, mark: Option<Mark>) {
        match self.ownership(node, mark) {
            Some(Ownership::Discarded) => {
                self.nodes[node].processes = None;
                self.nodes[node].place = None;
            }
            Some(Ownership::Stays) => self.go_on(node, "thaws"),
            _ => {}
        }
    }

    fn finish(&mut self, node: usize, entry: Entry, newest: Option<&Entry>) {
        let number = number(&entry.migration);
        if entry.mark == Mark::Began {
            if let Some(agent) = self.nodes[node].agent.as_mut() {
                agent.recalls.push(Recall { entry, link: None });
            }
            return self.after(1_000, Event::Recall { node, life: self.nodes[node].life, number });
        }
        let peer = index(&entry.peer);
        if newest.is_some_and(|newest| *newest != entry) {
            let _ = self.write_mark(node, number, peer, entry.mark.closed(), None);
            return;
        }
        match (entry.mark, self.ownership(node, Some(entry.mark))) {
            (Mark::Commit, Some(_)) => {
                let past = Past {
                    mode: entry.decided.as_ref().map_or(Mode::PostCopy, |decided| decided.mode),
                    began: std::time::Duration::ZERO,
                    decided: std::time::Duration::ZERO,
                };
                let moment = self.nodes[node].moment(self.now);
                let machine = Source::recovered(moment, name(node), name(peer), entry.migration.clone(), past);
                if let Some(agent) = self.nodes[node].agent.as_mut() {
                    agent.leads.push(Lead::new(number, peer, machine));
                }
                self.drive_lead(node, number);
            }
            (_, Some(ownership)) => {
                let key = self.fresh_key();
                let session = Session::recovered(key, &entry, number, ownership, node);
                if let Some(agent) = self.nodes[node].agent.as_mut() {
                    agent.sessions.push(session);
                }
                self.drive_session(node, key);
            }
            // It was destroyed or discarded, and only the last line was not written.
            (mark, None) => {
                let _ = self.write_mark(node, number, peer, mark.closed(), None);
            }
        }
    }

    /// Tells a target of a rollback that a stopped agent owed it.
    pub(crate) fn try_recall(&mut self, node: usize, number: Number) {
        let id = migration(number);
        let owed = |agent: &Agent| agent.recalls.iter().any(|recall| recall.entry.migration == id);
        if !self.nodes[node].agent.as_ref().is_some_and(owed) {
            return;
        }
        if let Some(link) = self.connect(node, 1 - node) {
            let agent = self.nodes[node].agent.as_mut();
            let recall = agent.and_then(|agent| agent.recalls.iter_mut().find(|recall| recall.entry.migration == id));
            let before = recall.and_then(|recall| recall.link.replace(link));
            if let Some(before) = before {
                self.send(before, node, Frame::Closed);
            }
            let resume = ToTarget::Resume { migration: id, verdict: Verdict::Abort };
            self.send(link, node, Frame::Message(encode(&resume)));
        }
        let pause = RECALL_PAUSE + self.chance.below(5_000_000);
        self.after(pause, Event::Recall { node, life: self.nodes[node].life, number });
    }

    pub(crate) fn recall_hears(&mut self, node: usize, link: usize, frame: Frame) {
        let Frame::Message(bytes) = frame else { return };
        let heard = decode(&bytes).is_ok_and(|answer| ends_recall(&answer));
        let Some(agent) = self.nodes[node].agent.as_mut().filter(|_| heard) else { return };
        let Some(at) = agent.recalls.iter().position(|recall| recall.link == Some(link)) else { return };
        let Recall { entry, .. } = agent.recalls.remove(at);
        let number = number(&entry.migration);
        let _ = self.write_mark(node, number, index(&entry.peer), Mark::Aborted, None);
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.trace.note(self.now, format_args!("all is healed"));
        self.healed = Some(self.now);
        self.cut = false;
        self.unruly = false;
        if self.nodes.iter().any(|node| node.gone) {
            for pause in RESOLVES {
                self.after(pause, Event::Operator(Order::Resolve));
            }
        }
        for node in 0..2 {
            self.nodes[node].disk.set_health(Health::Well);
            self.nodes[node].hang = 0;
            if !self.nodes[node].gone {
                self.nodes[node].power = true;
                self.start_agent(node);
            }
        }
    }

    /// Whether every machine is done, on every node that there is.
    pub(crate) fn rests(&mut self) -> bool {
        let lost = self.nodes.iter().any(|node| node.gone);
        self.nodes.iter().filter(|node| !node.gone).all(|node| {
            // Who owes a node something that is lost for ever owes it for ever.
            let ended = |agent: &Agent| {
                agent.sessions.is_empty() && agent.leads.iter().all(|lead| lead.outcome.is_some_and(Outcome::stays))
            };
            node.rests() || lost && node.agent.as_ref().is_some_and(ended)
        })
    }

    /// A rollback whose last line could not be written is told again by the next agent: has one started, if it owes that.
    /// Whether it did.
    pub(crate) fn restart_who_owes(&mut self) -> bool {
        if self.nodes.iter().any(|node| node.gone) {
            return false;
        }
        let owes =
            |node: &Node| node.rests() && node.agent.as_ref().is_some_and(|own| !own.journal.unfinished().is_empty());
        let owing = self.nodes.iter().position(owes);
        owing.into_iter().for_each(|node| self.order(Order::Restart(node)));
        owing.is_some()
    }

    /// A node is lost for ever: the operator says whose the container is.
    fn resolve(&mut self, node: usize) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let leads: Vec<Number> =
            agent.leads.iter().filter(|lead| lead.machine.awaits_target()).map(|lead| lead.number).collect();
        let promised: Vec<u64> =
            agent.sessions.iter().filter(|session| session.machine.promised()).map(|session| session.key).collect();
        let waits: Vec<u64> = agent
            .sessions
            .iter()
            .filter(|session| session.machine.may_follow() && !session.machine.promised())
            .map(|session| session.key)
            .collect();
        // What has run where it is lost is lost.
        self.excused |= !leads.is_empty() || !promised.is_empty();
        for number in leads {
            self.trace.note(self.now, format_args!("ordered: resolve {number:02x} for the source"));
            self.tell_lead(node, number, SourceInput::Resolved(Verdict::Abort));
        }
        for key in promised {
            self.trace.note(self.now, format_args!("ordered: resolve {key} for the target"));
            self.tell_session(node, key, TargetInput::Reconnected(Verdict::Commit));
        }
        for key in waits {
            self.trace.note(self.now, format_args!("ordered: give up what follows {key}"));
            self.tell_session(node, key, TargetInput::Heard(ToTarget::Lost { why: chance_failed() }));
        }
    }
}

fn offer(number: Number, settings: Settings) -> Offer {
    let process = ProcessSpec {
        args: vec!["sleep".into()],
        env: vec![],
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        terminal: false,
        stdin_open: false,
    };
    let spec = ContainerSpec {
        id: container(),
        name: "web".parse().expect("a name"),
        owner: None,
        image: "redis".into(),
        image_digest: Digest::from_sha256([0; 32]),
        process,
        limits: Limits::default(),
        interface: None,
        hostname: "web".into(),
        restart: RestartPolicy::Always,
        volumes: vec![],
        created_at: String::new(),
        exposed_ports: Vec::new(),
        stop_signal: None,
    };
    Offer {
        migration: migration(number),
        spec,
        image: OfferedImage::default(),
        generation: 1,
        restarts: 0,
        started_at: None,
        settings,
        criu: "4.2".into(),
        kernel: String::new(),
        architecture: "x86_64".into(),
        memory: 0,
        resident: 0,
        upper: 0,
        processor: None,
        shared: vec![],
    }
}
