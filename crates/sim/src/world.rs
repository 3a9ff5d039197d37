//! The world: what happens next, and whether all promises still hold.

use std::collections::BTreeMap;

use drover_model::{Moment, Outcome};
use drover_protocol::{SourceInput, TargetInput, TargetOutput};

use crate::chance::Chance;
use crate::content::{FILES, PAGES, Place, Processes, Truth};
use crate::fault::{Fault, When, plan};
use crate::lead::LeadStep;
use crate::mutant::Mutant;
use crate::network::{Data, Frame, Link};
use crate::node::{Micros, Node, Number, name};
use crate::operator::Order;
use crate::trace::Trace;
use crate::violation::Violation;

/// What happens at a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The container writes something, if it runs.
    Writes,
    /// The first thing on the way to this end of a link arrives.
    Arrives {
        link: usize,
        end: usize,
    },
    /// An end of a link hears that it is broken.
    Breaks {
        link: usize,
        end: usize,
    },
    LeadStep {
        node: usize,
        life: u64,
        number: Number,
        step: LeadStep,
    },
    LeadDone {
        node: usize,
        life: u64,
        number: Number,
        input: SourceInput,
    },
    SessionStep {
        node: usize,
        life: u64,
        key: u64,
        step: TargetOutput,
    },
    SessionDone {
        node: usize,
        life: u64,
        key: u64,
        input: TargetInput,
    },
    /// Of itself, beside the steps.
    Happened {
        node: usize,
        life: u64,
        key: u64,
        input: TargetInput,
    },
    Recall {
        node: usize,
        life: u64,
        number: Number,
    },
    AgentStarts {
        node: usize,
    },
    PowerReturns {
        node: usize,
    },
    CutHeals,
    OrderReturns,
    DiskHeals {
        node: usize,
    },
    Operator(Order),
    Strikes(Fault),
}

/// How a run ended, when nothing was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// How many migrations ended moved, rolled back or given back, and failed.
    pub moved: u32,
    /// See `moved`.
    pub rolled_back: u32,
    /// See `moved`.
    pub failed: u32,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    /// A hash of everything that happened.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// How it ended.
    pub ending: Result<Ending, Violation>,
    /// What happened, a line each, when that was wanted.
    pub lines: Vec<String>,
}

/// Runs the world of this seed to its end.
#[must_use]
pub fn run(seed: u64, mutant: Option<Mutant>, with_lines: bool) -> Run {
    let mut world = World::new(seed, mutant, with_lines);
    world.live();
    let count = |outcomes: &[Outcome]| {
        u32::try_from(world.endings.iter().filter(|ending| outcomes.contains(ending)).count()).unwrap_or(u32::MAX)
    };
    let ending = Ending {
        moved: count(&[Outcome::Moved]),
        rolled_back: count(&[Outcome::RolledBack]),
        failed: count(&[Outcome::Failed]),
    };
    let ending = world.violation.map_or(Ok(ending), Err);
    let (hash, events, lines) = world.trace.end();
    Run { hash, events, ending, lines }
}

/// More events than any run needs that ends.
const MOST_EVENTS: u64 = 30_000;
/// How long everything may take to end once all is healed.
const PATIENCE: Micros = 4 * 3600 * 1_000_000;
/// Between two writes of the container.
const WRITES: Micros = 9_000;
/// The clocks begin here, so that they can jump back.
const BEGIN: Micros = 1_000_000_000_000;

#[derive(Debug)]
pub(crate) struct World {
    pub chance: Chance,
    pub now: Micros,
    pub nodes: [Node; 2],
    pub links: Vec<Link>,
    queue: BTreeMap<(Micros, u64), Event>,
    serial: u64,
    pub truth: Truth,
    pub faults: Vec<(When, Fault)>,
    pub handled: u64,
    /// How much had been handled at each write to a journal.
    pub writes: Vec<u64>,
    pub cut: bool,
    pub unruly: bool,
    /// Whether nothing goes wrong any more, since when.
    pub healed: Option<Micros>,
    /// Whether a node lost power that had processes of the container, so that they may have to begin anew.
    pub memory_lost: bool,
    /// Whether one lost power on which the container ran while its files were not durable there.
    pub excused: bool,
    pub endings: Vec<Outcome>,
    pub migrations: Number,
    pub trace: Trace,
    pub mutant: Option<Mutant>,
    pub violation: Option<Violation>,
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>, with_lines: bool) -> Self {
        let mut chance = Chance::new(seed);
        let faults = plan(&mut chance);
        let disks = [Chance::new(seed ^ 0x0d15_0001), Chance::new(seed ^ 0x0d15_0002)];
        let truth = Truth::new();
        let mut world = Self {
            chance,
            now: BEGIN,
            nodes: disks.map(Node::new),
            links: Vec::new(),
            queue: BTreeMap::new(),
            serial: 0,
            truth,
            faults,
            handled: 0,
            writes: Vec::new(),
            cut: false,
            unruly: false,
            healed: None,
            memory_lost: false,
            excused: false,
            endings: Vec::new(),
            migrations: 0,
            trace: Trace::new(with_lines),
            mutant,
            violation: None,
        };
        let first = usize::from(world.chance.one_in(2));
        world.nodes[first].place = Some(Place { arriving: false, files: truth.files, durable: true, ended: false });
        world.nodes[first].processes = Some(Processes { running: true, pages: truth.whole() });
        for node in 0..2 {
            world.start_agent(node);
        }
        world.after(0, Event::Writes);
        world.plan_orders();
        world
    }

    fn live(&mut self) {
        while self.violation.is_none() && self.handled < MOST_EVENTS {
            // Where nothing would happen any more, what goes wrong does so now.
            let idle = self.next_event().is_none() && self.next_deadline().is_none();
            while let Some(due) = self.faults.iter().position(|(when, _)| self.is_due(*when)) {
                let (_, fault) = self.faults.remove(due);
                self.strike(fault);
            }
            if idle && !self.faults.is_empty() {
                let (_, fault) = self.faults.remove(0);
                self.strike(fault);
            }
            if self.is_over() {
                return self.check_end();
            }
            self.step();
            self.check();
        }
        if self.violation.is_none() {
            self.violate("it never ends");
        }
    }

    fn is_due(&self, when: When) -> bool {
        match when {
            When::Event(number) => number <= self.handled,
            When::Write(number, events) => {
                let write = usize::try_from(number).ok().and_then(|number| self.writes.get(number));
                write.is_some_and(|handled| handled + events <= self.handled)
            }
        }
    }

    /// Whether nothing is left to happen but the container's own writes.
    fn is_over(&mut self) -> bool {
        let pending = self.next_event().is_some() || self.next_deadline().is_some();
        // Whoever looks for a node that is lost does so for ever.
        let lost = self.nodes.iter().any(|node| node.gone);
        if !self.faults.is_empty() || pending && self.healed.is_none() && !lost {
            return false;
        }
        if self.healed.is_none() {
            self.heal();
            return false;
        }
        if self.healed.is_some_and(|healed| self.now > healed + PATIENCE) {
            self.violate("it does not end although everything is healed");
        }
        self.rests() && !self.restart_who_owes()
    }

    /// When something happens next but for the container's own writes.
    fn next_event(&self) -> Option<Micros> {
        self.queue.iter().find(|(_, event)| **event != Event::Writes).map(|((at, _), _)| *at)
    }

    /// Does what comes next: an event, or a deadline.
    fn step(&mut self) {
        let due = self.next_deadline();
        let next = self.queue.first_key_value().map(|((at, _), _)| *at);
        if let Some((at, node, machine)) = due
            && next.is_none_or(|next| at <= next)
        {
            self.now = self.now.max(at);
            self.handled += 1;
            match machine {
                Machine::Lead(number) => self.tell_lead(node, number, SourceInput::DeadlinePassed),
                Machine::Session(key) => self.tell_session(node, key, TargetInput::DeadlinePassed),
            }
            return;
        }
        if let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = self.now.max(at);
            self.handled += u64::from(event != Event::Writes);
            self.happen(event);
        }
    }

    fn next_deadline(&self) -> Option<(Micros, usize, Machine)> {
        let mut next: Option<(Micros, usize, Machine)> = None;
        for (node, own) in self.nodes.iter().enumerate() {
            let Some(agent) = &own.agent else { continue };
            let leads = agent.leads.iter().map(|lead| (lead.machine.deadline(), Machine::Lead(lead.number)));
            let sessions = agent.sessions.iter().map(|own| (own.machine.deadline(), Machine::Session(own.key)));
            for (deadline, machine) in leads.chain(sessions) {
                let Some(at) = deadline.map(|deadline: Moment| own.micros(deadline)) else { continue };
                if next.is_none_or(|(earliest, _, _)| at < earliest) {
                    next = Some((at, node, machine));
                }
            }
        }
        next
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Writes => self.write(),
            Event::Arrives { link, end } => self.arrive(link, end),
            Event::Breaks { link, end } => self.hear_break(link, end),
            Event::LeadStep { node, life, number, step } if self.lives(node, life) => {
                self.lead_step(node, number, step)
            }
            Event::LeadDone { node, life, number, input } if self.lives(node, life) => {
                if let Some(lead) = self.lead(node, number) {
                    lead.busy = false;
                }
                self.tell_lead(node, number, input);
            }
            Event::SessionStep { node, life, key, step } if self.lives(node, life) => {
                self.session_step(node, key, step)
            }
            Event::SessionDone { node, life, key, input } if self.lives(node, life) => {
                if let Some(session) = self.session(node, key) {
                    session.busy = false;
                }
                self.tell_session(node, key, input);
            }
            Event::Happened { node, life, key, input } if self.lives(node, life) => self.tell_session(node, key, input),
            Event::Recall { node, life, number } if self.lives(node, life) => self.try_recall(node, number),
            Event::AgentStarts { node } => self.start_agent(node),
            Event::PowerReturns { node } => self.return_power(node),
            Event::CutHeals => self.cut = false,
            Event::OrderReturns => self.unruly = false,
            Event::DiskHeals { node } => self.nodes[node].disk.set_health(crate::disk::Health::Well),
            Event::Operator(order) => self.order(order),
            // Once all is healed nothing goes wrong any more.
            Event::Strikes(fault) if self.healed.is_none() => self.strike(fault),
            // What an agent had begun that is not there any more.
            _ => {}
        }
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].agent.is_some() && self.nodes[node].life == life
    }

    /// Has something happen later.
    pub(crate) fn after(&mut self, pause: Micros, event: Event) {
        self.at(self.now + pause, event);
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.serial += 1;
        self.queue.insert((at, self.serial), event);
    }

    pub(crate) fn fresh_key(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// How long a step takes.
    pub(crate) fn step_time(&mut self, node: usize) -> Micros {
        let hang = std::mem::take(&mut self.nodes[node].hang);
        let longest = self.chance.one_of(&[300, 3_000, 40_000]);
        hang + self.chance.between(20, longest)
    }

    /// Whether a step fails of itself.
    pub(crate) fn goes_wrong(&mut self) -> bool {
        self.healed.is_none() && self.chance.one_in(80)
    }

    /// The running container writes a page and a file.
    fn write(&mut self) {
        let (page, file) = (self.chance.below(PAGES as u64) as usize, self.chance.below(FILES as u64) as usize);
        for node in &mut self.nodes {
            let (Some(processes), Some(place)) = (&mut node.processes, &mut node.place) else { continue };
            // Who needs a page that is not here waits for it.
            if !processes.running || processes.pages[page].is_none() {
                continue;
            }
            self.truth.pages[page] += 1;
            processes.pages[page] = Some(self.truth.pages[page]);
            node.dirty_pages[page] = true;
            self.truth.files[file] += 1;
            place.files[file] = self.truth.files[file];
            node.dirty_files[file] = true;
        }
        // It need not write all the time while nothing else happens for hours.
        let idle = self.next_event().map_or(0, |next| next.saturating_sub(self.now));
        self.after(WRITES.max(idle / 8), Event::Writes);
    }

    /// Makes a connection; `None` when the other side cannot be reached.
    pub(crate) fn connect(&mut self, source: usize, target: usize) -> Option<usize> {
        if self.cut || self.nodes[target].agent.is_none() {
            return None;
        }
        let holders = [self.nodes[source].life, self.nodes[target].life];
        let now = self.now;
        let on_the_way = Default::default();
        self.links.push(Link { ends: [source, target], holders, on_the_way, last: [now; 2], broken: false });
        Some(self.links.len() - 1)
    }

    /// Sends over a link; what is sent over a broken one is lost.
    pub(crate) fn send(&mut self, link: usize, from: usize, frame: Frame) {
        let end = usize::from(self.links[link].ends[0] == from);
        if self.links[link].broken {
            return;
        }
        if self.unruly && matches!(frame, Frame::Message(_)) {
            match self.chance.below(6) {
                0 => return,
                1 => self.push(link, end, frame.clone(), false),
                2 => return self.push(link, end, frame, true),
                _ => {}
            }
        }
        self.push(link, end, frame, false);
    }

    /// Puts something on the way to an end of a link, perhaps before what is there already.
    fn push(&mut self, link: usize, end: usize, frame: Frame, overtakes: bool) {
        let latency = self.chance.one_of(&[50, 400, 9_000]);
        let at = self.now.max(self.links[link].last[end]) + self.chance.between(1, latency);
        let own = &mut self.links[link];
        own.last[end] = at;
        let way = &mut own.on_the_way[end];
        let messages = way.iter().rev().take_while(|frame| matches!(frame, Frame::Message(_))).count();
        let place = if overtakes { way.len() - messages } else { way.len() };
        way.insert(place, frame);
        self.at(at, Event::Arrives { link, end });
    }

    pub(crate) fn send_data(&mut self, link: Option<usize>, from: usize, data: Data) {
        if let Some(link) = link {
            self.send(link, from, Frame::Data(data));
        }
    }

    fn arrive(&mut self, link: usize, end: usize) {
        let own = &mut self.links[link];
        let Some(frame) = own.on_the_way[end].pop_front().filter(|_| !own.broken) else { return };
        if frame == Frame::Closed {
            own.broken = true;
        }
        self.deliver(link, end, frame);
    }

    /// Gives what came over a link to whoever holds it.
    fn deliver(&mut self, link: usize, end: usize, frame: Frame) {
        let (node, holder) = (self.links[link].ends[end], self.links[link].holders[end]);
        let Some(agent) = self.nodes[node].agent.as_ref().filter(|_| self.nodes[node].life == holder) else { return };
        let lead = agent.leads.iter().find(|lead| lead.link == Some(link)).map(|lead| lead.number);
        let session = agent.sessions.iter().find(|session| session.link == Some(link)).map(|session| session.key);
        let recall = agent.recalls.iter().any(|recall| recall.link == Some(link));
        match (lead, session, frame) {
            (Some(number), _, frame) => self.lead_hears(node, number, frame),
            (_, Some(key), frame) => self.session_hears(node, key, frame),
            (_, _, frame) if recall => self.recall_hears(node, link, frame),
            // Nobody holds it yet: it has just come.
            (_, _, Frame::Message(bytes)) if end == 1 => self.serve(node, link, &bytes),
            _ => {}
        }
    }

    /// All links break; each end hears of it in its time.
    pub(crate) fn break_links(&mut self) {
        for link in 0..self.links.len() {
            if !std::mem::replace(&mut self.links[link].broken, true) {
                for end in 0..2 {
                    let scale = self.chance.one_of(&[1_000, 200_000, 20_000_000]);
                    let pause = self.chance.below(scale);
                    self.after(pause, Event::Breaks { link, end });
                }
            }
        }
    }

    fn hear_break(&mut self, link: usize, end: usize) {
        self.deliver(link, end, Frame::Closed);
    }

    pub(crate) fn violate(&mut self, what: &str) {
        let violation = Violation { at: self.now - BEGIN, what: what.to_owned() };
        self.trace.note(self.now, format_args!("BROKEN: {what}"));
        self.violation.get_or_insert(violation);
    }

    fn check(&mut self) {
        if self.nodes.iter().filter(|node| node.runs()).count() > 1 {
            self.violate("two copies run at once");
        }
    }

    /// Freezes what runs.
    pub(crate) fn freeze(&mut self, node: usize) {
        if let Some(processes) = &mut self.nodes[node].processes {
            processes.running = false;
        }
    }

    /// Ends what is there.
    pub(crate) fn end(&mut self, node: usize) {
        self.nodes[node].processes = None;
        if let Some(place) = &mut self.nodes[node].place {
            place.ended = true;
        }
    }

    /// What is frozen here goes on; what is not there any more begins anew.
    pub(crate) fn go_on(&mut self, node: usize, how: &str) {
        self.trace.note(self.now, format_args!("{} {how} the container", name(node)));
        let (Some(processes), Some(place)) = (self.nodes[node].processes, self.nodes[node].place) else {
            return self.begin_anew(node);
        };
        if processes.running {
            return;
        }
        self.forgive(processes.pages, place.files);
        let source = self.nodes[1 - node].processes;
        for page in 0..PAGES {
            let fetchable = source.and_then(|source| source.pages[page]);
            let version = processes.pages[page].or(fetchable);
            // What was lost with a node that went down is said to be lost later.
            if version != Some(self.truth.pages[page]) && !(version.is_none() && self.memory_lost) {
                self.violate("it goes on without the last version of a page");
            }
        }
        if place.files != self.truth.files {
            self.violate("it goes on without the last version of a file");
        }
        if let Some(processes) = &mut self.nodes[node].processes {
            processes.running = true;
        }
    }

    /// What ran for a moment on a node that lost power before its files were durable may be lost.
    fn forgive(&mut self, pages: [Option<u32>; PAGES], files: [u32; FILES]) {
        if std::mem::take(&mut self.excused) {
            for (truth, page) in self.truth.pages.iter_mut().zip(pages) {
                *truth = page.unwrap_or(*truth);
            }
            self.truth.files = files;
        }
    }

    /// The container's program is started again, from its files.
    pub(crate) fn begin_anew(&mut self, node: usize) {
        self.trace.note(self.now, format_args!("{} begins the container anew", name(node)));
        let Some(place) = self.nodes[node].place else { return self.violate("it begins anew where it is not") };
        if !self.memory_lost {
            self.violate("it begins anew although no node lost its memory");
        }
        self.forgive([None; PAGES], place.files);
        if place.files != self.truth.files {
            self.violate("it begins anew without the last version of a file");
        }
        self.truth.pages.iter_mut().for_each(|page| *page += 1);
        let own = &mut self.nodes[node];
        own.processes = Some(Processes { running: true, pages: self.truth.whole() });
        own.place = Some(Place { arriving: false, durable: true, ended: false, ..place });
        own.dirty_pages = [true; PAGES];
        own.dirty_files = [true; FILES];
    }

    /// Looks whether a write has cost the node its power.
    pub(crate) fn see_power(&mut self, node: usize) {
        if self.nodes[node].disk.has_lost_power() {
            let back = self.chance.between(1_000, 90_000_000);
            self.strike(Fault::PowerFails { node, back });
        }
    }

    /// What must be true in the end.
    fn check_end(&mut self) {
        let alive: Vec<usize> = (0..2).filter(|node| !self.nodes[*node].gone).collect();
        let running: Vec<usize> = alive.iter().copied().filter(|node| self.nodes[*node].runs()).collect();
        // Who had the only copy took it along.
        let taken_along = alive.len() == 1 && self.nodes[1 - alive[0]].place.is_some();
        match running[..] {
            [runs] => {
                for node in alive.iter().copied().filter(|node| *node != runs) {
                    if self.nodes[node].place.is_some() || self.nodes[node].processes.is_some() {
                        self.violate("something of the container is left where it does not run");
                    }
                }
                if self.nodes[runs].place.is_none_or(|place| place.arriving) {
                    self.violate("it runs where its record says that it has not arrived");
                }
            }
            _ if taken_along && self.nodes[alive[0]].place.is_none() => {}
            _ => self.violate("no copy runs in the end"),
        }
        for node in alive {
            let unfinished = self.nodes[node].agent.as_ref().map(|agent| agent.journal.unfinished().len());
            if unfinished != Some(0) && self.nodes.iter().all(|node| !node.gone) {
                self.violate("a journal is left with something to do");
            }
        }
    }
}

/// A machine that has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Lead(Number),
    Session(u64),
}
