//! What the engine does for the target's machine: in order, and what is said waits for what is done before it.

use std::collections::VecDeque;

use drover_protocol::{
    Entry, Mark, Ownership, Target, TargetInput, TargetOutput, ToSource, ToTarget, Verdict, WantedLayer, answer,
    decode, encode,
};

use crate::content::{PAGES, Place, Processes};
use crate::lead::{chance_failed, parts};
use crate::mutant::Mutant;
use crate::network::{Data, Frame};
use crate::node::{Number, index, name, number};
use crate::world::{Event, World};

/// A migration towards a node.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its own number among all sessions, for the migration is not known at once.
    pub key: u64,
    pub number: Option<Number>,
    pub source: usize,
    pub machine: Target,
    pub queue: VecDeque<TargetOutput>,
    pub busy: bool,
    pub link: Option<usize>,
    /// Whether it has made the container's place.
    pub has_place: bool,
    /// Whether an agent has found it that was started anew.
    pub recovered: bool,
    /// Whether the image has come, is waited for, and the same of the ends of all streams.
    pub image: bool,
    pub awaits_image: bool,
    pub streams: bool,
    pub awaits_streams: bool,
    /// Pages that follow.
    pub follow: [bool; PAGES],
    /// Whether it waits for the last page.
    pub awaits_pages: bool,
}

impl Session {
    pub fn new(key: u64, source: usize, machine: Target, link: Option<usize>) -> Self {
        Self {
            key,
            number: None,
            source,
            machine,
            queue: VecDeque::new(),
            busy: false,
            link,
            has_place: false,
            recovered: false,
            image: false,
            awaits_image: false,
            streams: false,
            awaits_streams: false,
            follow: [false; PAGES],
            awaits_pages: false,
        }
    }

    /// What a restarted agent has found.
    pub fn recovered(key: u64, entry: &Entry, number: Number, ownership: Ownership, node: usize) -> Self {
        Self {
            number: Some(number),
            has_place: true,
            recovered: true,
            ..Self::new(key, index(&entry.peer), Target::recovered(name(node), ownership), None)
        }
    }
}

impl World {
    pub(crate) fn session(&mut self, node: usize, key: u64) -> Option<&mut Session> {
        self.nodes[node].agent.as_mut()?.sessions.iter_mut().find(|session| session.key == key)
    }

    pub(crate) fn tell_session(&mut self, node: usize, key: u64, input: TargetInput) {
        if self.session(node, key).is_none() {
            return;
        }
        self.trace.note(self.now, format_args!("{} takes {key}: {input:?}", name(node)));
        let moment = self.nodes[node].moment(self.now);
        let mutant = self.mutant;
        let Some(session) = self.session(node, key) else { return };
        let promised = session.machine.promised();
        match (mutant, &input) {
            (Some(Mutant::TargetGoesOnAlone), TargetInput::LinkLost) if promised => {
                session.machine.handle(moment, TargetInput::Reconnected(Verdict::Commit));
            }
            (Some(Mutant::ResumeWithoutVerdict), TargetInput::PromiseRecorded) => {
                session.machine.handle(moment, input);
                session.machine.handle(moment, TargetInput::Reconnected(Verdict::Commit));
            }
            _ => session.machine.handle(moment, input),
        }
        self.drive_session(node, key);
    }

    pub(crate) fn drive_session(&mut self, node: usize, key: u64) {
        let mut cut = false;
        loop {
            let Some(session) = self.session(node, key) else { return };
            while let Some(output) = session.machine.poll() {
                if output == TargetOutput::Discard {
                    // What was still to be done is pointless, and whoever waits for streams hears their end.
                    session.queue.retain(|waiting| matches!(waiting, TargetOutput::Send(_)));
                    cut = true;
                }
                session.queue.push_back(output);
            }
            if std::mem::take(&mut cut)
                && std::mem::take(&mut session.awaits_image) | std::mem::take(&mut session.awaits_streams)
            {
                self.session_done(node, key, TargetInput::StepFailed(chance_failed()));
                continue;
            }
            let stored = |output: &TargetOutput| matches!(output, TargetOutput::Send(ToSource::Stored { .. }));
            if session.busy && !session.queue.front().is_some_and(stored) {
                return;
            }
            let Some(output) = session.queue.pop_front() else { return };
            match output {
                TargetOutput::Send(message) => {
                    if let Some(link) = session.link {
                        self.send(link, node, Frame::Message(encode(&message)));
                    }
                }
                TargetOutput::AwaitArrival => {
                    session.awaits_pages = true;
                    self.relay(node, key);
                    self.see_arrival(node, key);
                }
                TargetOutput::Finish(runs) => return self.finish_session(node, key, runs),
                step => {
                    session.busy = true;
                    let (life, after) = (self.nodes[node].life, self.step_time(node));
                    self.after(after, Event::SessionStep { node, life, key, step });
                }
            }
        }
    }

    fn finish_session(&mut self, node: usize, key: u64, runs: bool) {
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        let Some(at) = agent.sessions.iter().position(|session| session.key == key) else { return };
        let session = agent.sessions.remove(at);
        if runs && self.nodes[node].processes.is_none() && self.nodes[node].place.is_some() {
            // Its program has ended: its restart policy has it begin anew.
            self.begin_anew(node);
        }
        if let Some(link) = session.link {
            self.send(link, node, Frame::Closed);
        }
    }

    pub(crate) fn session_step(&mut self, node: usize, key: u64, step: TargetOutput) {
        if self.session(node, key).is_none() {
            return;
        }
        self.trace.note(self.now, format_args!("{} does {key}: {step:?}", name(node)));
        let Some(input) = self.do_session_step(node, key, step) else { return };
        self.session_done(node, key, input);
    }

    fn session_done(&mut self, node: usize, key: u64, input: TargetInput) {
        let (life, after) = (self.nodes[node].life, self.step_time(node));
        self.after(after, Event::SessionDone { node, life, key, input });
    }

    fn do_session_step(&mut self, node: usize, key: u64, step: TargetOutput) -> Option<TargetInput> {
        let may_fail = !matches!(step, TargetOutput::Discard | TargetOutput::Kill(_));
        if may_fail && self.goes_wrong() {
            return Some(TargetInput::StepFailed(chance_failed()));
        }
        Some(match step {
            TargetOutput::Prepare(offer) => {
                self.session(node, key)?.number = Some(number(&offer.migration));
                return Some(self.prepare(node, key));
            }
            TargetOutput::ReceiveImage => {
                let session = self.session(node, key)?;
                match (session.image, session.link) {
                    (true, _) => TargetInput::ImageReceived,
                    (false, None) => TargetInput::StepFailed(chance_failed()),
                    (false, Some(_)) => {
                        session.awaits_image = true;
                        return None;
                    }
                }
            }
            TargetOutput::Restore => {
                let session = self.session(node, key)?;
                match (session.streams, session.link) {
                    (true, _) => self.restore(node, key),
                    (false, None) => TargetInput::StepFailed(chance_failed()),
                    (false, Some(_)) => {
                        session.awaits_streams = true;
                        return None;
                    }
                }
            }
            TargetOutput::RecordPromise if self.mutant == Some(Mutant::PromiseNotRecorded) => {
                TargetInput::PromiseRecorded
            }
            TargetOutput::RecordPromise => self.mark(node, key, Mark::Promised, TargetInput::PromiseRecorded),
            TargetOutput::Resume => self.resume(node, key),
            TargetOutput::RecordAccepted => {
                if let Some(place) = &mut self.nodes[node].place {
                    place.durable = true;
                }
                self.mark(node, key, Mark::Accepted, TargetInput::AcceptRecorded)
            }
            TargetOutput::RecordReturned => self.mark(node, key, Mark::Discarded, TargetInput::ReturnRecorded),
            TargetOutput::Kill(_) => {
                self.end(node);
                self.see_arrival(node, key);
                TargetInput::Killed
            }
            TargetOutput::RecordOwned => {
                if let Some(place) = &mut self.nodes[node].place {
                    place.arriving = false;
                }
                self.mark(node, key, Mark::Owned, TargetInput::OwnedRecorded)
            }
            TargetOutput::Discard => {
                if self.session(node, key)?.has_place {
                    self.nodes[node].processes = None;
                    self.nodes[node].place = None;
                    let _ = self.mark(node, key, Mark::Discarded, TargetInput::Discarded);
                }
                TargetInput::Discarded
            }
            TargetOutput::Send(_) | TargetOutput::AwaitArrival | TargetOutput::Finish(_) => return None,
        })
    }

    fn mark(&mut self, node: usize, key: u64, mark: Mark, well: TargetInput) -> TargetInput {
        let Some((number, source)) = self.session(node, key).and_then(|own| Some((own.number?, own.source))) else {
            return TargetInput::StepFailed(chance_failed());
        };
        self.write_mark(node, number, source, mark, None).map_or_else(TargetInput::StepFailed, |()| well)
    }

    /// Nothing is taken where the container is already.
    fn prepare(&mut self, node: usize, key: u64) -> TargetInput {
        if self.nodes[node].place.is_some() {
            return TargetInput::StepFailed(chance_failed());
        }
        self.nodes[node].place = Some(Place { arriving: true, files: [0; 3], durable: false, ended: false });
        self.nodes[node].stored = [None; PAGES];
        let lacks = self.chance.one_in(3);
        if let Some(session) = self.session(node, key) {
            session.has_place = true;
        }
        let layer = || WantedLayer { diff_id: drover_model::Digest::from_sha256([1; 32]), offset: 0 };
        TargetInput::Prepared { missing: lacks.then(layer).into_iter().collect() }
    }

    fn restore(&mut self, node: usize, key: u64) -> TargetInput {
        let Some(session) = self.session(node, key) else { return TargetInput::StepFailed(chance_failed()) };
        let follow = session.follow;
        let stored = self.nodes[node].stored;
        // What was stored of a page that follows is old.
        let pages: [_; PAGES] = std::array::from_fn(|page| stored[page].filter(|_| !follow[page]));
        let lost = (0..PAGES).any(|page| pages[page].is_none() && !follow[page]);
        if lost && self.mutant != Some(Mutant::PagesLostInRound) {
            return TargetInput::StepFailed(chance_failed());
        }
        // Nothing there: zeros, as of memory that was never written.
        let pages = std::array::from_fn(|page| if follow[page] { None } else { Some(pages[page].unwrap_or_default()) });
        self.nodes[node].processes = Some(Processes { running: false, pages });
        TargetInput::Restored
    }

    fn resume(&mut self, node: usize, key: u64) -> TargetInput {
        let recovered = self.session(node, key).is_some_and(|session| session.recovered);
        let ended = recovered && self.nodes[node].place.is_some_and(|place| place.ended);
        if self.nodes[node].processes.is_some() {
            self.go_on(node, "resumes");
        } else if !ended {
            return TargetInput::Gone;
        }
        TargetInput::Resumed
    }

    /// Asks for the pages that follow, over the link that there is.
    pub(crate) fn relay(&mut self, node: usize, key: u64) {
        let Some(processes) = self.nodes[node].processes else { return };
        let Some(link) = self.session(node, key).and_then(|session| session.link) else { return };
        for page in (0..PAGES).filter(|page| processes.pages[*page].is_none()) {
            self.send_data(Some(link), node, Data::Wish(page));
        }
    }

    /// Says so when no page is missing, or nobody is left who could need one.
    fn see_arrival(&mut self, node: usize, key: u64) {
        let missing = self.nodes[node].processes.is_some_and(|processes| processes.pages.contains(&None));
        let Some(session) = self.session(node, key).filter(|session| session.awaits_pages && !missing) else { return };
        session.awaits_pages = false;
        let (life, after) = (self.nodes[node].life, self.step_time(node));
        self.after(after, Event::Happened { node, life, key, input: TargetInput::Arrived });
    }

    /// A link that came has brought its first message.
    pub(crate) fn serve(&mut self, node: usize, link: usize, bytes: &[u8]) {
        let source = self.links[link].ends[0];
        match decode(bytes) {
            Ok(ToTarget::Resume { migration, verdict }) => {
                let number = number(&migration);
                let Some(agent) = &self.nodes[node].agent else { return };
                let session = agent.sessions.iter().find(|session| session.number == Some(number));
                if let Some(key) = session.map(|session| session.key) {
                    return self.reconnect(node, key, link, verdict);
                }
                let mark = agent.journal.latest(&migration).map(|entry| entry.mark);
                let mark = match mark.filter(|mark| !mark.is_last() && self.nodes[node].place.is_none()) {
                    // It is not here any more, and only the last line was not written.
                    Some(open) => match self.write_mark(node, number, source, open.closed(), None) {
                        Ok(()) => Some(open.closed()),
                        Err(_) => return self.send(link, node, Frame::Closed),
                    },
                    None => mark,
                };
                let said = match self.mutant {
                    Some(Mutant::OwnedIsUnknown) => Some(ToSource::Unknown),
                    _ => answer(mark, verdict),
                };
                self.trace.note(self.now, format_args!("{} answers {migration} {verdict:?}: {said:?}", name(node)));
                if let Some(said) = said {
                    self.send(link, node, Frame::Message(encode(&said)));
                }
                self.send(link, node, Frame::Closed);
            }
            Ok(hello @ ToTarget::Hello { .. }) => {
                let machine = Target::new(self.nodes[node].moment(self.now), name(node));
                let key = self.fresh_key();
                let Some(agent) = &mut self.nodes[node].agent else { return };
                agent.sessions.push(Session::new(key, source, machine, Some(link)));
                self.tell_session(node, key, TargetInput::Heard(hello));
            }
            Ok(_) => self.send(link, node, Frame::Closed),
            Err(_) => self.violate("a message that cannot be read"),
        }
    }

    fn reconnect(&mut self, node: usize, key: u64, link: usize, verdict: Verdict) {
        let Some(session) = self.session(node, key) else { return };
        session.link = Some(link);
        if session.machine.may_follow() {
            self.relay(node, key);
        }
        self.tell_session(node, key, TargetInput::Reconnected(verdict));
    }

    /// The link has brought something to a session.
    pub(crate) fn session_hears(&mut self, node: usize, key: u64, frame: Frame) {
        match frame {
            Frame::Message(bytes) => match decode(&bytes) {
                Ok(message) => self.tell_session(node, key, TargetInput::Heard(message)),
                Err(_) => self.violate("a message that cannot be read"),
            },
            Frame::Data(data) => self.receive(node, key, data),
            Frame::Closed => {
                let Some(session) = self.session(node, key) else { return };
                session.link = None;
                // Whoever waits for bytes hears the end with the link's.
                let waited = std::mem::take(&mut session.awaits_image) | std::mem::take(&mut session.awaits_streams);
                self.tell_session(node, key, TargetInput::LinkLost);
                if waited {
                    self.session_done(node, key, TargetInput::StepFailed(chance_failed()));
                }
            }
        }
    }

    fn receive(&mut self, node: usize, key: u64, data: Data) {
        match data {
            Data::Image => {
                let Some(session) = self.session(node, key) else { return };
                session.image = true;
                if std::mem::take(&mut session.awaits_image) {
                    self.session_done(node, key, TargetInput::ImageReceived);
                }
            }
            Data::Page(page, version) => self.nodes[node].stored[page] = Some(version),
            Data::File(file, version) => {
                if let Some(place) = self.nodes[node].place.as_mut().filter(|place| place.arriving) {
                    place.files[file] = version;
                }
            }
            Data::RoundEnds { memory } => {
                for part in parts(memory) {
                    self.tell_session(node, key, TargetInput::RoundStored(*part));
                }
            }
            Data::Follow(pages) => {
                if let Some(session) = self.session(node, key) {
                    pages.into_iter().for_each(|page| session.follow[page] = true);
                }
            }
            Data::FilesEnd => self.tell_session(node, key, TargetInput::RoundStored(drover_protocol::Part::Files)),
            Data::StreamsEnd => {
                let Some(session) = self.session(node, key) else { return };
                session.streams = true;
                if std::mem::take(&mut session.awaits_streams) {
                    let restored = self.restore(node, key);
                    self.session_done(node, key, restored);
                }
            }
            Data::Answer(page, version) => {
                if let Some(processes) = &mut self.nodes[node].processes {
                    processes.pages[page].get_or_insert(version);
                }
                self.see_arrival(node, key);
            }
            Data::Wish(_) => {}
        }
    }
}
