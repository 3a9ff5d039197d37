//! What the engine does for the source's machine: one step at a time, in order; messages at once.

use std::collections::VecDeque;

use drover_model::{Bytes, Explained, Mode, Outcome, PageCount, Round};
use drover_protocol::{
    Decided, Entry, Mark, Part, Source, SourceInput, SourceOutput, ToSource, ToTarget, Verdict, decode, encode,
};

use crate::content::{FILES, PAGES};
use crate::mutant::Mutant;
use crate::network::{Data, Frame};
use crate::node::{Number, container, migration, name};
use crate::world::{Event, World};

/// A migration that leaves a node.
#[derive(Debug)]
pub(crate) struct Lead {
    pub number: Number,
    pub target: usize,
    pub machine: Source,
    pub waiting: VecDeque<SourceOutput>,
    pub busy: bool,
    pub link: Option<usize>,
    /// Whether wishes for pages are answered over the link.
    pub serving: bool,
    /// Whether all pages have crossed once.
    pub crossed: bool,
    /// Whether all files have.
    pub files_crossed: bool,
    pub outcome: Option<Outcome>,
}

impl Lead {
    pub fn new(number: Number, target: usize, machine: Source) -> Self {
        Self {
            number,
            target,
            machine,
            waiting: VecDeque::new(),
            busy: false,
            link: None,
            serving: false,
            crossed: false,
            files_crossed: false,
            outcome: None,
        }
    }
}

/// Something that a step does, perhaps in two parts with time between them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LeadStep {
    Order(SourceOutput),
    /// The second part of a round: pages are read that were written before its first part.
    Read {
        pages: [bool; PAGES],
        files: [bool; FILES],
        memory: bool,
        snapshot: Option<[u32; PAGES]>,
    },
}

pub(crate) fn chance_failed() -> Explained {
    Explained { reason: "chance".into(), hint: None }
}

/// Pages and files of which each stands for many, so that rounds are worth their while.
const PAGES_EACH: u64 = 2_000;
const BYTES_EACH: u64 = 4 << 20;

impl World {
    pub(crate) fn lead(&mut self, node: usize, number: Number) -> Option<&mut Lead> {
        self.nodes[node].agent.as_mut()?.leads.iter_mut().find(|lead| lead.number == number)
    }

    /// Tells the machine, and does what it orders.
    pub(crate) fn tell_lead(&mut self, node: usize, number: Number, input: SourceInput) {
        let input = match (self.mutant, input) {
            (Some(Mutant::UnknownIsNo), SourceInput::CommitUnknown(why)) => SourceInput::StepFailed(why),
            (Some(Mutant::LossIsNotTold), SourceInput::Lost(_)) => SourceInput::Progressed,
            (Some(Mutant::DestroyOnResumed), SourceInput::Heard(ToSource::Resumed)) => {
                SourceInput::Heard(ToSource::Committed)
            }
            (_, input) => input,
        };
        let moment = self.nodes[node].moment(self.now);
        if self.lead(node, number).is_none() {
            return;
        }
        self.trace.note(self.now, format_args!("{} leads {number:02x}: {input:?}", name(node)));
        if let Some(lead) = self.lead(node, number) {
            lead.machine.handle(moment, input);
        }
        self.drive_lead(node, number);
    }

    /// Does what the machine orders until a step is under way.
    pub(crate) fn drive_lead(&mut self, node: usize, number: Number) {
        while let Some(output) = self.lead(node, number).and_then(|lead| lead.machine.poll()) {
            match output {
                SourceOutput::Send(message) => {
                    let skipped = self.mutant == Some(Mutant::NoRecall)
                        && matches!(
                            &message,
                            ToTarget::Abort { .. } | ToTarget::Resume { verdict: Verdict::Abort, .. }
                        );
                    let link = self.lead(node, number).and_then(|lead| lead.link);
                    if let Some(link) = link.filter(|_| !skipped) {
                        self.send(link, node, Frame::Message(encode(&message)));
                    }
                }
                SourceOutput::Serve => {
                    if let Some(lead) = self.lead(node, number) {
                        lead.serving = true;
                    }
                }
                SourceOutput::Conclude(result) => {
                    self.trace
                        .note(self.now, format_args!("{} concludes {number:02x}: {:?}", name(node), result.outcome));
                    self.endings.push(result.outcome);
                    if let Some(lead) = self.lead(node, number) {
                        lead.outcome = Some(result.outcome);
                    }
                }
                SourceOutput::Finish => return self.finish_lead(node, number),
                step => {
                    if let Some(lead) = self.lead(node, number) {
                        lead.waiting.push_back(step);
                    }
                }
            }
        }
        let Some(lead) = self.lead(node, number).filter(|lead| !lead.busy) else { return };
        if let Some(step) = lead.waiting.pop_front() {
            lead.busy = true;
            if self.mutant == Some(Mutant::CommitBeforeRecord)
                && matches!(step, SourceOutput::RecordCommit(_))
                && let Some(link) = self.lead(node, number).and_then(|lead| lead.link)
            {
                self.send(link, node, Frame::Message(encode(&ToTarget::Commit)));
            }
            let after = self.step_time(node) + reconnect_pause(&step);
            self.after(
                after,
                Event::LeadStep { node, life: self.nodes[node].life, number, step: LeadStep::Order(step) },
            );
        }
    }

    fn finish_lead(&mut self, node: usize, number: Number) {
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        let Some(at) = agent.leads.iter().position(|lead| lead.number == number) else { return };
        let lead = agent.leads.remove(at);
        if let Some(link) = lead.link {
            self.send(link, node, Frame::Closed);
        }
        if lead.outcome.is_some_and(Outcome::stays) {
            let _ = self.write_mark(node, number, lead.target, Mark::Aborted, None);
        }
    }

    /// Appends to a node's journal, which may cost it its power.
    pub(crate) fn write_mark(
        &mut self,
        node: usize,
        number: Number,
        peer: usize,
        mark: Mark,
        decided: Option<Decided>,
    ) -> Result<(), Explained> {
        let (migration, container) = (migration(number), container());
        let entry = Entry { migration, container, peer: name(peer), mark, decided, began_at: None };
        let Some(agent) = self.nodes[node].agent.as_mut() else { return Err(chance_failed()) };
        let written = agent.journal.append(entry).map_err(|_| chance_failed());
        self.writes.push(self.handled);
        self.trace.note(self.now, format_args!("{} writes {number:02x} {mark:?}: {}", name(node), written.is_ok()));
        self.see_power(node);
        written
    }

    /// Does a step, or a part of it, and has the machine told of its end later.
    pub(crate) fn lead_step(&mut self, node: usize, number: Number, step: LeadStep) {
        if self.lead(node, number).is_none() {
            return;
        }
        self.trace.note(self.now, format_args!("{} does {number:02x}: {step:?}", name(node)));
        let Some(input) = self.do_lead_step(node, number, step) else { return };
        let after = self.step_time(node);
        self.after(after, Event::LeadDone { node, life: self.nodes[node].life, number, input });
    }

    fn do_lead_step(&mut self, node: usize, number: Number, step: LeadStep) -> Option<SourceInput> {
        let link = self.lead(node, number).and_then(|lead| lead.link);
        let step = match step {
            LeadStep::Read { pages, files, memory, snapshot } => {
                return Some(self.read_round(node, number, pages, files, memory, snapshot));
            }
            LeadStep::Order(step) => step,
        };
        let may_fail = !matches!(
            step,
            SourceOutput::Thaw
                | SourceOutput::ReadCommit
                | SourceOutput::RecordReturned { .. }
                | SourceOutput::Reconnect(_)
        );
        if may_fail && self.goes_wrong() {
            return Some(SourceInput::StepFailed(chance_failed()));
        }
        Some(match step {
            SourceOutput::AwaitFilled => SourceInput::Filled,
            SourceOutput::Connect | SourceOutput::Reconnect(_) => self.connect_lead(node, number),
            SourceOutput::SendImage(_) => {
                self.send_data(link, node, Data::Image);
                SourceInput::ImageSent
            }
            SourceOutput::SendRound { memory } => {
                self.begin_round(node, number, memory);
                return None;
            }
            SourceOutput::Survey => {
                let dirty = |flags: &[bool]| flags.iter().filter(|dirty| **dirty).count() as u64;
                let (pages, files) = (dirty(&self.nodes[node].dirty_pages), dirty(&self.nodes[node].dirty_files));
                SourceInput::Surveyed { pages: PageCount(pages * PAGES_EACH), files: Bytes(files * BYTES_EACH) }
            }
            SourceOutput::Slow(_) => SourceInput::Slowed,
            SourceOutput::Freeze => {
                self.freeze(node);
                SourceInput::Frozen
            }
            SourceOutput::Checkpoint { follows } => self.checkpoint(node, number, link, follows),
            SourceOutput::Transfer => {
                self.send_data(link, node, Data::StreamsEnd);
                SourceInput::Transferred
            }
            SourceOutput::RecordCommit(mode) => self.record_commit(node, number, mode),
            SourceOutput::ReadCommit => self.read_commit(node, number),
            SourceOutput::RecordReturned { heard } => {
                let target = self.lead(node, number)?.target;
                let mark = if heard { Mark::Aborted } else { Mark::Began };
                match self.write_mark(node, number, target, mark, None) {
                    Ok(()) => SourceInput::ReturnRecorded,
                    Err(why) => SourceInput::StepFailed(why),
                }
            }
            SourceOutput::Thaw => {
                self.go_on(node, "thaws");
                SourceInput::Thawed
            }
            SourceOutput::Destroy => {
                self.nodes[node].processes = None;
                self.nodes[node].place = None;
                SourceInput::Destroyed
            }
            SourceOutput::RecordSettled => {
                let target = self.lead(node, number)?.target;
                match self.write_mark(node, number, target, Mark::Settled, None) {
                    Ok(()) => SourceInput::SettledRecorded,
                    Err(why) => SourceInput::StepFailed(why),
                }
            }
            SourceOutput::Send(_) | SourceOutput::Serve | SourceOutput::Conclude(_) | SourceOutput::Finish => {
                return None;
            }
        })
    }

    fn connect_lead(&mut self, node: usize, number: Number) -> SourceInput {
        let target = 1 - node;
        let Some(link) = self.connect(node, target) else { return SourceInput::LinkLost(chance_failed()) };
        let before = self.lead(node, number).and_then(|lead| lead.link.replace(link));
        if let Some(lead) = self.lead(node, number) {
            lead.serving = false;
        }
        if let Some(before) = before {
            self.send(before, node, Frame::Closed);
        }
        SourceInput::Connected
    }

    /// Takes what is to be sent, so that what is written from now on is noticed, and reads it a little later.
    fn begin_round(&mut self, node: usize, number: Number, memory: bool) {
        let forgets = self.mutant == Some(Mutant::RoundForgetsWrites);
        let Some(lead) = self.lead(node, number) else { return };
        let (all, all_files) = (!lead.crossed, !std::mem::replace(&mut lead.files_crossed, true));
        let own = &mut self.nodes[node];
        let pages = if memory && all {
            [true; PAGES]
        } else if memory {
            own.dirty_pages
        } else {
            [false; PAGES]
        };
        let files = if all_files { [true; FILES] } else { own.dirty_files };
        if memory {
            own.dirty_pages = [false; PAGES];
        }
        own.dirty_files = [false; FILES];
        let content = own.processes.map(|processes| processes.pages.map(Option::unwrap_or_default));
        let snapshot = content.filter(|_| forgets);
        let (life, after) = (own.life, self.step_time(node));
        let step = LeadStep::Read { pages, files, memory, snapshot };
        self.after(after, Event::LeadStep { node, life, number, step });
    }

    fn read_round(
        &mut self,
        node: usize,
        number: Number,
        pages: [bool; PAGES],
        files: [bool; FILES],
        memory: bool,
        snapshot: Option<[u32; PAGES]>,
    ) -> SourceInput {
        let refused = (memory && self.chance.one_in(12)).then(chance_failed);
        let takes = memory && refused.is_none();
        let link = self.lead(node, number).and_then(|lead| lead.link);
        if refused.is_some() {
            self.nodes[node].dirty_pages = [true; PAGES];
        } else if snapshot.is_some() {
            // The broken way: what was written meanwhile is marked as sent.
            self.nodes[node].dirty_pages = [false; PAGES];
        }
        let count = pages.iter().filter(|page| **page && takes).count() as u64;
        let mut left = count;
        for index in (0..PAGES).filter(|index| pages[*index] && takes) {
            let page = self.nodes[node].processes.and_then(|processes| processes.pages[index]);
            let page = snapshot.map_or(page, |snapshot| Some(snapshot[index]));
            left -= 1;
            let lost = self.mutant == Some(Mutant::PagesLostInRound) && left == 0;
            if let Some(version) = page.filter(|_| !lost) {
                self.send_data(link, node, Data::Page(index, version));
            }
        }
        self.send_files(node, link, files);
        // Of a round that is refused the end may have been sent all the same.
        let memory_ends = takes || memory && self.chance.one_in(2);
        self.send_data(link, node, Data::RoundEnds { memory: memory_ends });
        if let Some(lead) = self.lead(node, number) {
            lead.crossed |= takes;
        }
        let round = Round {
            pages: PageCount(count * PAGES_EACH),
            bytes: Bytes(count * PAGES_EACH * 4096),
            ms: 100.0,
            ..Round::default()
        };
        SourceInput::RoundSent { round, refused }
    }

    fn send_files(&mut self, node: usize, link: Option<usize>, files: [bool; FILES]) {
        let Some(place) = self.nodes[node].place else { return };
        for index in (0..FILES).filter(|index| files[*index]) {
            self.send_data(link, node, Data::File(index, place.files[index]));
        }
    }

    /// What is left crosses, or is named.
    fn checkpoint(&mut self, node: usize, number: Number, link: Option<usize>, follows: bool) -> SourceInput {
        let Some(Lead { crossed, files_crossed, .. }) = self.lead(node, number) else {
            return SourceInput::StepFailed(chance_failed());
        };
        let (crossed, files_crossed) = (*crossed, *files_crossed);
        let own = &self.nodes[node];
        let Some(processes) = own.processes else { return SourceInput::StepFailed(chance_failed()) };
        let rest: Vec<_> = (0..PAGES).filter(|index| !crossed || own.dirty_pages[*index]).collect();
        let files = if files_crossed { own.dirty_files } else { [true; FILES] };
        if follows {
            self.send_data(link, node, Data::Follow(rest));
        } else {
            for index in rest {
                let Some(version) = processes.pages[index] else { return SourceInput::StepFailed(chance_failed()) };
                self.send_data(link, node, Data::Page(index, version));
            }
        }
        if self.mutant != Some(Mutant::LastFilesForgotten) {
            self.send_files(node, link, files);
        }
        self.send_data(link, node, Data::FilesEnd);
        SourceInput::Checkpointed
    }

    fn record_commit(&mut self, node: usize, number: Number, mode: Mode) -> SourceInput {
        let Some(target) = self.lead(node, number).map(|lead| lead.target) else {
            return SourceInput::StepFailed(chance_failed());
        };
        let decided = Decided { mode, began_at: String::new(), at: String::new() };
        match self.write_mark(node, number, target, Mark::Commit, Some(decided)) {
            Ok(()) => SourceInput::CommitRecorded,
            Err(why) => SourceInput::CommitUnknown(why),
        }
    }

    fn read_commit(&mut self, node: usize, number: Number) -> SourceInput {
        let without_sync = self.mutant == Some(Mutant::ReadBackWithoutSync);
        let disk = self.nodes[node].disk.clone();
        let Some(agent) = self.nodes[node].agent.as_mut() else { return SourceInput::CommitRead(None) };
        let read = if without_sync {
            let written = drover_protocol::Storage::read(&mut { disk });
            written.ok().map(|bytes| String::from_utf8_lossy(&bytes).contains("\"commit\""))
        } else {
            agent.journal.read_back(&migration(number), Mark::Commit).ok()
        };
        self.see_power(node);
        SourceInput::CommitRead(read)
    }

    /// The link has brought something to the source.
    pub(crate) fn lead_hears(&mut self, node: usize, number: Number, frame: Frame) {
        match frame {
            Frame::Message(bytes) => match decode(&bytes) {
                Ok(message) => self.tell_lead(node, number, SourceInput::Heard(message)),
                Err(_) => self.violate("a message that cannot be read"),
            },
            Frame::Data(Data::Wish(index)) => self.answer_wish(node, number, index),
            Frame::Data(_) => {}
            Frame::Closed => {
                if let Some(lead) = self.lead(node, number) {
                    lead.link = None;
                }
                self.tell_lead(node, number, SourceInput::LinkLost(chance_failed()));
            }
        }
    }

    fn answer_wish(&mut self, node: usize, number: Number, index: usize) {
        let Some(link) = self.lead(node, number).filter(|lead| lead.serving).and_then(|lead| lead.link) else { return };
        match self.nodes[node].processes.and_then(|processes| processes.pages[index]) {
            Some(version) => {
                self.send_data(Some(link), node, Data::Answer(index, version));
                self.tell_lead(node, number, SourceInput::Progressed);
            }
            None => self.tell_lead(node, number, SourceInput::Lost(chance_failed())),
        }
    }
}

fn reconnect_pause(step: &SourceOutput) -> u64 {
    match step {
        SourceOutput::Reconnect(pause) => u64::try_from(pause.as_micros()).unwrap_or(0),
        _ => 0,
    }
}

/// Which parts of a round the target has once it has ended.
pub(crate) fn parts(memory: bool) -> &'static [Part] {
    if memory { &[Part::Files, Part::Memory] } else { &[Part::Files] }
}
