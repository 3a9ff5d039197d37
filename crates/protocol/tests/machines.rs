//! Both machines against each other, step by step, with everything that can happen happening by chance.
//!
//! The world here is small: a container that runs on the source, on the target, or nowhere; a link that may break
//! between any two steps; steps that may fail. After every step the invariants of the crate are asked.

use std::collections::VecDeque;
use std::time::Duration;

use drover_model::{
    Bytes, ContainerSpec, Digest, Explained, Fallback, Limits, Mode, Moment, Outcome, PageCount, Phase, ProcessSpec,
    RestartPolicy, Round, Settings,
};
use drover_protocol::{
    FixedPart, Offer, OfferedImage, Part, Past, Source, SourceInput, SourceOutput, SourceResult, Target, TargetInput,
    TargetOutput, ToSource, ToTarget, Verdict, WantedLayer,
};
use proptest::prelude::*;

fn offer(settings: Settings) -> Offer {
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
        id: "c0".parse().unwrap(),
        name: "web".parse().unwrap(),
        image: "redis".into(),
        image_digest: Digest::from_sha256([0; 32]),
        process,
        limits: Limits::default(),
        interface: None,
        hostname: "web".into(),
        restart: RestartPolicy::No,
        volumes: vec![],
        created_at: String::new(),
        exposed_ports: Vec::new(),
        stop_signal: None,
    };
    Offer {
        migration: "a1".parse().unwrap(),
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
        shared: vec![],
    }
}

/// What a target lacks: all of an image of one layer, or nothing.
fn missing(all: bool) -> Vec<WantedLayer> {
    all.then(|| WantedLayer { diff_id: Digest::from_sha256([1; 32]), offset: 0 }).into_iter().collect()
}

/// A copy of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Running,
    Frozen,
    None,
}

/// Chance, taken from a list of bytes; when that is used up nothing bad happens any more.
struct Chance<'a>(std::slice::Iter<'a, u8>);

impl Chance<'_> {
    fn one_in(&mut self, n: u8) -> bool {
        self.0.next().is_some_and(|byte| byte % n == 0)
    }
}

fn why() -> Explained {
    Explained { reason: "chance".into(), hint: None }
}

struct World<'a> {
    chance: Chance<'a>,
    now: Moment,
    source: Source,
    target: Option<Target>,
    source_copy: Copy,
    target_copy: Copy,
    link: bool,
    /// What the first message of the next link will be answered by.
    to_target: VecDeque<ToTarget>,
    to_source: VecDeque<ToSource>,
    committed: bool,
    owned: bool,
    thawed_after_commit: bool,
    image_missing: bool,
    /// Whether the target waits for pages that follow, and has said so.
    awaits: bool,
    outcome: Option<Outcome>,
    phases: Vec<Phase>,
}

impl<'a> World<'a> {
    fn new(chance: &'a [u8]) -> Self {
        let now = Moment(Duration::from_secs(1));
        let mut chance = Chance(chance.iter());
        let image_missing = chance.one_in(2);
        let mode = if chance.one_in(3) { Mode::ALL[3 - usize::from(chance.one_in(2))] } else { Mode::Auto };
        let fallback = Fallback::ALL.into_iter().find(|_| chance.one_in(3));
        let sync = chance.one_in(8);
        let settings = Settings { mode, fallback, sync, ..Settings::default() };
        Self {
            chance,
            now,
            source: Source::new(
                now,
                "n1".parse().unwrap(),
                "n2".parse().unwrap(),
                offer(settings),
                FixedPart::default(),
            ),
            target: None,
            source_copy: Copy::Running,
            target_copy: Copy::None,
            link: false,
            to_target: VecDeque::new(),
            to_source: VecDeque::new(),
            committed: false,
            owned: false,
            thawed_after_commit: false,
            image_missing,
            awaits: false,
            outcome: None,
            phases: vec![Phase::Prepare],
        }
    }

    fn run(&mut self) {
        // Chance is bounded by the list; after that each step leads on.
        for _ in 0..2_000 {
            self.now = self.now.after(Duration::from_millis(1));
            if self.link && self.chance.one_in(40) {
                self.cut();
            }
            if self.chance.one_in(60) {
                self.source.handle(self.now, SourceInput::Cancelled);
            }
            self.check();
            if self.step_source() || self.step_target() || self.deliver() || self.arrive() {
                continue;
            }
            // Nothing moves: time passes until somebody loses patience.
            let deadlines =
                [self.source.deadline(), self.target.as_ref().and_then(Target::deadline)].into_iter().flatten();
            let Some(next) = deadlines.min() else { return };
            self.now = self.now.max(next);
            if self.source.deadline().is_some_and(|deadline| deadline <= self.now) {
                self.source.handle(self.now, SourceInput::DeadlinePassed);
            }
            if let Some(target) = &mut self.target
                && target.deadline().is_some_and(|deadline| deadline <= self.now)
            {
                target.handle(self.now, TargetInput::DeadlinePassed);
            }
        }
        panic!("the migration never ends: {:?} {:?}", self.source, self.target);
    }

    /// Pages follow as long as there is a link.
    fn arrive(&mut self) -> bool {
        let arrives = self.link && self.awaits;
        if let Some(target) = self.target.as_mut().filter(|_| arrives) {
            assert!(self.source_copy == Copy::Frozen, "only the source has the rest");
            self.awaits = false;
            target.handle(self.now, TargetInput::Arrived);
        }
        arrives
    }

    fn cut(&mut self) {
        self.link = false;
        self.to_target.clear();
        self.to_source.clear();
        self.source.handle(self.now, SourceInput::LinkLost(why()));
        if let Some(target) = &mut self.target {
            target.handle(self.now, TargetInput::LinkLost);
        }
    }

    fn deliver(&mut self) -> bool {
        if let Some(message) = self.to_target.pop_front() {
            self.hear_target(message);
            return true;
        }
        if let Some(message) = self.to_source.pop_front() {
            self.source.handle(self.now, SourceInput::Heard(message));
            return true;
        }
        false
    }

    /// As the agent does: a link begins a migration or continues one.
    fn hear_target(&mut self, message: ToTarget) {
        match (message, &mut self.target) {
            (ToTarget::Resume { verdict, .. }, Some(target)) => {
                target.handle(self.now, TargetInput::Reconnected(verdict));
            }
            (ToTarget::Resume { verdict, .. }, None) => {
                let owned = self.owned && verdict == Verdict::Commit;
                self.to_source.push_back(if owned { ToSource::Committed } else { ToSource::Unknown });
            }
            (message, Some(target)) => target.handle(self.now, TargetInput::Heard(message)),
            (hello @ ToTarget::Hello { .. }, target) => {
                let target = target.insert(Target::new(self.now, "n2".parse().unwrap()));
                target.handle(self.now, TargetInput::Heard(hello));
            }
            // A link that begins with anything else is closed.
            (_, None) => {}
        }
    }

    fn step_source(&mut self) -> bool {
        let Some(output) = self.source.poll() else { return false };
        let fails = self.chance.one_in(25);
        let input = match output {
            SourceOutput::AwaitFilled if !fails => SourceInput::Filled,
            SourceOutput::Connect | SourceOutput::Reconnect(_) if fails => SourceInput::LinkLost(why()),
            SourceOutput::Connect | SourceOutput::Reconnect(_) => {
                self.link = true;
                SourceInput::Connected
            }
            SourceOutput::Send(message) => {
                if self.link {
                    self.to_target.push_back(message);
                }
                return true;
            }
            SourceOutput::SendRound { memory } if !fails => {
                let refused = (memory && self.chance.one_in(20)).then(why);
                if let Some(target) = &mut self.target {
                    target.handle(self.now, TargetInput::RoundStored(Part::Files));
                    // Of a round that is refused the end may have been sent all the same.
                    if memory && (refused.is_none() || self.chance.one_in(2)) {
                        target.handle(self.now, TargetInput::RoundStored(Part::Memory));
                    }
                }
                let pages = PageCount(if memory && refused.is_none() { 50_000 } else { 0 });
                let round = Round { pages, bytes: Bytes(pages.0 * 4096), ms: 500.0, ..Round::default() };
                SourceInput::RoundSent { round, refused }
            }
            SourceOutput::Survey if !fails => {
                let pages = PageCount(if self.chance.one_in(2) { 10_000_000 } else { 0 });
                let files = Bytes(if self.chance.one_in(3) { 1 << 30 } else { 0 });
                SourceInput::Surveyed { pages, files }
            }
            SourceOutput::Slow(_) => SourceInput::Slowed,
            SourceOutput::Serve => return true,
            SourceOutput::AwaitFilled | SourceOutput::Survey => SourceInput::StepFailed(why()),
            SourceOutput::SendRound { .. }
            | SourceOutput::SendImage(_)
            | SourceOutput::Checkpoint { .. }
            | SourceOutput::Transfer
                if fails =>
            {
                SourceInput::StepFailed(why())
            }
            SourceOutput::SendImage(_) | SourceOutput::SendRound { .. } => SourceInput::ImageSent,
            SourceOutput::Freeze => {
                self.source_copy = Copy::Frozen;
                if fails { SourceInput::StepFailed(why()) } else { SourceInput::Frozen }
            }
            SourceOutput::Checkpoint { .. } => SourceInput::Checkpointed,
            SourceOutput::Transfer => SourceInput::Transferred,
            SourceOutput::RecordCommit(_) if fails && self.chance.one_in(2) => SourceInput::StepFailed(why()),
            SourceOutput::RecordCommit(_) if fails => {
                // It failed; whether it landed all the same is chance.
                self.committed = self.chance.one_in(2);
                SourceInput::CommitUnknown(why())
            }
            SourceOutput::RecordCommit(_) => {
                self.committed = true;
                SourceInput::CommitRecorded
            }
            SourceOutput::ReadCommit => SourceInput::CommitRead(Some(self.committed)),
            SourceOutput::Thaw => {
                self.thawed_after_commit |= self.committed;
                self.source_copy = Copy::Running;
                SourceInput::Thawed
            }
            SourceOutput::Destroy => {
                self.source_copy = Copy::None;
                SourceInput::Destroyed
            }
            SourceOutput::Conclude(result) => {
                assert_eq!(self.outcome, None, "one outcome");
                self.outcome = Some(result.outcome);
                assert!(result.downtime.unwrap() <= result.total);
                return true;
            }
            SourceOutput::Finish => {
                if self.link {
                    // Closing the link comes after what was said over it.
                    while let Some(message) = self.to_target.pop_front() {
                        self.hear_target(message);
                    }
                    if let Some(target) = &mut self.target {
                        target.handle(self.now, TargetInput::LinkLost);
                    }
                    self.link = false;
                }
                return true;
            }
        };
        self.source.handle(self.now, input);
        true
    }

    fn step_target(&mut self) -> bool {
        let Some(target) = &mut self.target else { return false };
        let Some(output) = target.poll() else { return false };
        let fails = self.chance.one_in(25);
        let input = match output {
            TargetOutput::Send(message) => {
                if self.link {
                    self.to_source.push_back(message);
                }
                return true;
            }
            TargetOutput::Prepare(_)
            | TargetOutput::ReceiveImage
            | TargetOutput::RecordPromise
            | TargetOutput::Resume
            | TargetOutput::RecordOwned
                if fails =>
            {
                TargetInput::StepFailed(why())
            }
            TargetOutput::Prepare(_) => TargetInput::Prepared { missing: missing(self.image_missing) },
            TargetOutput::ReceiveImage => TargetInput::ImageReceived,
            TargetOutput::Restore => {
                self.target_copy = Copy::Frozen;
                if fails { TargetInput::StepFailed(why()) } else { TargetInput::Restored }
            }
            TargetOutput::RecordPromise => TargetInput::PromiseRecorded,
            TargetOutput::Resume => {
                assert!(self.committed, "the target runs the container before the source has decided");
                self.target_copy = Copy::Running;
                TargetInput::Resumed
            }
            TargetOutput::AwaitArrival => {
                self.awaits = true;
                return true;
            }
            TargetOutput::Kill(_) => TargetInput::Killed,
            TargetOutput::RecordOwned => {
                self.owned = true;
                TargetInput::OwnedRecorded
            }
            TargetOutput::Discard => {
                self.target_copy = Copy::None;
                TargetInput::Discarded
            }
            TargetOutput::Finish(runs) => {
                assert_eq!(runs, self.target_copy == Copy::Running);
                self.target = None;
                return true;
            }
        };
        target.handle(self.now, input);
        true
    }

    fn check(&mut self) {
        assert!(
            self.source_copy != Copy::Running || self.target_copy != Copy::Running,
            "two copies run at once: {:?} {:?}",
            self.source,
            self.target
        );
        assert!(!self.thawed_after_commit, "the source thawed after its decision");
        let phase = self.source.phase();
        let last = *self.phases.last().unwrap();
        assert!(phase >= last, "the phase went back from {last} to {phase}");
        if phase != last {
            self.phases.push(phase);
        }
    }
}

#[test]
fn a_migration_without_faults_passes_all_phases_and_moves() {
    let mut world = World::new(&[]);
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Moved));
    assert_eq!((world.source_copy, world.target_copy), (Copy::None, Copy::Running));
    assert_eq!(world.phases, Phase::ALL);
}

/// A source that hears these; what it did.
fn hear(source: &mut Source, inputs: impl IntoIterator<Item = SourceInput>) -> Vec<SourceOutput> {
    let now = Moment::default();
    let mut done: Vec<_> = std::iter::from_fn(|| source.poll()).collect();
    for input in inputs {
        source.handle(now, input);
        done.extend(std::iter::from_fn(|| source.poll()));
    }
    done
}

fn outcome(done: &[SourceOutput]) -> Option<(Outcome, &str)> {
    done.iter().find_map(|output| match output {
        SourceOutput::Conclude(result) => Some((result.outcome, result.reason.reason.as_str())),
        _ => None,
    })
}

fn source_of(settings: Settings) -> Source {
    let (one, other) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    Source::new(Moment::default(), one, other, offer(settings), FixedPart::default())
}

/// What happens to a source without rounds of memory; `files_first`: files cross before it is frozen.
fn up_to_transferred(files_first: bool) -> Vec<SourceInput> {
    let files = [
        SourceInput::RoundSent { round: Round::default(), refused: None },
        SourceInput::Heard(ToSource::Stored { part: Part::Files }),
        SourceInput::Surveyed { pages: PageCount(0), files: Bytes(0) },
    ];
    let mut inputs = vec![
        SourceInput::Filled,
        SourceInput::Connected,
        SourceInput::Heard(ToSource::Welcome { version: drover_protocol::VERSIONS.1, node: "n2".parse().unwrap() }),
        SourceInput::Heard(ToSource::Ready),
    ];
    inputs.extend(files.into_iter().filter(|_| files_first));
    inputs.extend([SourceInput::Frozen, SourceInput::Checkpointed, SourceInput::Transferred]);
    inputs
}

#[test]
fn source_thaws_when_target_refuses() {
    let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
    let refused = [SourceInput::Heard(ToSource::Failed(why())), SourceInput::Thawed];
    let done = hear(&mut source, up_to_transferred(false).into_iter().chain(refused));
    assert!(done.contains(&SourceOutput::Thaw), "{done:?}");
    assert_eq!(outcome(&done), Some((Outcome::RolledBack, "chance")));
}

/// A source that was killed while memory followed was waited for, for good.
#[test]
fn a_container_whose_memory_is_lost_is_ended_and_said_to_be_lost() {
    let mut source = source_of(Settings { mode: Mode::PostCopy, ..Settings::default() });
    let restored = [SourceInput::Heard(ToSource::Restored), SourceInput::Lost(why()), SourceInput::CommitRecorded];
    let done = hear(&mut source, up_to_transferred(true).into_iter().chain(restored));
    let said = done.iter().position(|output| matches!(output, SourceOutput::Send(ToTarget::Lost { .. })));
    assert!(said > done.iter().position(|output| *output == SourceOutput::Send(ToTarget::Commit)), "{done:?}");
    // The link breaks before the target hears it.
    let again = [SourceInput::LinkLost(why()), SourceInput::Connected];
    let done = hear(&mut source, again);
    assert!(matches!(done.last(), Some(SourceOutput::Send(ToTarget::Lost { .. }))), "{done:?}");
    let ends = [ToSource::Resumed, ToSource::Committed].map(SourceInput::Heard);
    let done = hear(&mut source, ends.into_iter().chain([SourceInput::Destroyed]));
    let reason = "its memory on n1 is lost, and it was ended on n2: chance";
    assert_eq!(outcome(&done), Some((Outcome::Failed, reason)));
    let mut target = Target::recovered("n2".parse().unwrap());
    let now = Moment::default();
    target.handle(now, TargetInput::Reconnected(Verdict::Commit));
    target.handle(now, TargetInput::Heard(ToTarget::Lost { why: why() }));
    assert_eq!([target.poll(), target.poll()], [Some(TargetOutput::Resume), Some(TargetOutput::Kill(why()))]);
}

#[test]
fn a_report_tells_how_long_a_container_had_stood_still_when_the_target_had_its_files() {
    let at = |ms| Moment::default().after(Duration::from_millis(ms));
    let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
    let stored = || SourceInput::Heard(ToSource::Stored { part: Part::Files });
    for (ms, input) in [1, 2, 3, 4, 10, 50].into_iter().zip(up_to_transferred(false)) {
        source.handle(at(ms), input);
    }
    source.handle(at(60), stored());
    source.handle(at(70), SourceInput::Heard(ToSource::Failed(why())));
    source.handle(at(80), SourceInput::Thawed);
    let done: Vec<_> = std::iter::from_fn(|| source.poll()).collect();
    let result = done.iter().find_map(|output| match output {
        SourceOutput::Conclude(result) => Some(result.files_frozen),
        _ => None,
    });
    assert_eq!(result, Some(Some(Duration::from_millis(50))), "{done:?}");
}

/// It said that it had stopped and copied, in no time.
#[test]
fn a_report_after_a_restart_tells_what_is_known_and_nothing_else() {
    let (one, other) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let seconds = Duration::from_secs;
    let past = Past { mode: Mode::PostCopy, began: seconds(70), decided: seconds(60) };
    let mut source = Source::recovered(Moment::default(), one, other, "0a".parse().unwrap(), past);
    assert!(source.in_doubt());
    let resumed = hear(&mut source, [SourceInput::Connected, SourceInput::Heard(ToSource::Resumed)]);
    assert!(!source.in_doubt() && resumed.contains(&SourceOutput::Serve), "{resumed:?}");
    let done = hear(&mut source, [SourceInput::Heard(ToSource::Committed), SourceInput::Destroyed]);
    let result = done.iter().find_map(|output| match output {
        SourceOutput::Conclude(result) => Some(result),
        _ => None,
    });
    let SourceResult { outcome, downtime, total, mode, exposure, .. } = result.unwrap();
    assert_eq!((*outcome, *mode, *downtime), (Outcome::Moved, Mode::PostCopy, None));
    assert_eq!((*total, *exposure), (seconds(70), Some(seconds(60))));
}

/// A target that waits for what crosses.
fn ready_target(now: Moment) -> Target {
    let mut target = Target::new(now, "n2".parse().unwrap());
    let said = [
        ToTarget::Hello { versions: drover_protocol::VERSIONS, node: "n1".parse().unwrap() },
        ToTarget::Offer(offer(Settings::default()).into()),
    ];
    for message in said {
        target.handle(now, TargetInput::Heard(message));
    }
    target.handle(now, TargetInput::Prepared { missing: missing(false) });
    target
}

/// A source sent a whole round to a target that had no room, and then waited.
#[test]
fn a_target_that_can_take_no_more_says_so_at_once() {
    let now = Moment::default();
    let mut target = ready_target(now);
    target.handle(now, TargetInput::ReceiveFailed(why()));
    let done: Vec<_> = std::iter::from_fn(|| target.poll()).collect();
    assert_eq!(done.last(), Some(&TargetOutput::Discard));
    target.handle(now, TargetInput::ReceiveFailed(why()));
    assert_eq!(target.poll(), None);
    target.handle(now, TargetInput::Discarded);
    assert_eq!(target.poll(), Some(TargetOutput::Send(ToSource::Failed(why()))));
}

#[test]
fn a_target_says_that_it_has_all_files_while_it_restores() {
    let now = Moment::default();
    let mut target = ready_target(now);
    target.handle(now, TargetInput::Heard(ToTarget::Restore));
    target.handle(now, TargetInput::RoundStored(Part::Files));
    let done: Vec<_> = std::iter::from_fn(|| target.poll()).collect();
    let stored = TargetOutput::Send(ToSource::Stored { part: Part::Files });
    assert!(done.ends_with(&[TargetOutput::Restore, stored]), "{done:?}");
}

#[test]
fn a_target_of_another_version_is_refused_before_anything_is_frozen() {
    let now = Moment::default();
    let mut target = Target::new(now, "n2".parse().unwrap());
    let hello = ToTarget::Hello { versions: (7, 9), node: "n1".parse().unwrap() };
    target.handle(now, TargetInput::Heard(hello));
    assert!(matches!(target.poll(), Some(TargetOutput::Send(ToSource::Refused(_)))));
    assert_eq!(target.poll(), Some(TargetOutput::Finish(false)));
}

#[test]
fn a_promised_target_keeps_the_container_for_as_long_as_the_verdict_is_unknown() {
    let now = Moment::default();
    let mut target = Target::recovered("n2".parse().unwrap());
    target.handle(now, TargetInput::LinkLost);
    target.handle(now.after(Duration::from_secs(1_000_000)), TargetInput::DeadlinePassed);
    assert_eq!((target.poll(), target.deadline(), target.promised()), (None, None, true));
    target.handle(now, TargetInput::Reconnected(Verdict::Abort));
    assert_eq!(target.poll(), Some(TargetOutput::Discard));
}

#[test]
fn an_unreadable_journal_leaves_the_container_frozen() {
    let mut world = World::new(&[]);
    while world.source.phase() != Phase::Commit {
        assert!(world.step_source() || world.step_target() || world.deliver());
    }
    assert_eq!(world.source.poll(), Some(SourceOutput::RecordCommit(Mode::PreCopy)));
    world.source.handle(world.now, SourceInput::CommitUnknown(why()));
    assert_eq!(world.source.poll(), Some(SourceOutput::ReadCommit));
    world.source.handle(world.now, SourceInput::CommitRead(None));
    let rest: Vec<_> = std::iter::from_fn(|| world.source.poll()).collect();
    assert!(!rest.contains(&SourceOutput::Thaw), "{rest:?}");
}

#[test]
fn files_that_are_sent_ahead_leave_the_container_where_it_is() {
    let mut world = World::new(&[]);
    world.source = source_of(Settings { sync: true, ..Settings::default() });
    world.run();
    world.check();
    assert_eq!(
        (world.outcome, world.source_copy, world.target_copy),
        (Some(Outcome::Synced), Copy::Running, Copy::None)
    );
    assert_eq!(world.phases.last(), Some(&Phase::Copy), "{:?}", world.phases);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn never_two_and_never_none_whatever_happens(chance in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut world = World::new(&chance);
        world.run();
        world.check();
        let copies = (world.source_copy, world.target_copy);
        match world.outcome {
            Some(Outcome::Moved) => prop_assert_eq!(copies, (Copy::None, Copy::Running)),
            Some(Outcome::RolledBack | Outcome::Synced) => prop_assert_eq!(copies, (Copy::Running, Copy::None)),
            other => prop_assert!(false, "outcome {:?} with {:?}", other, copies),
        }
        prop_assert!(world.target.is_none(), "the target is not done: {:?}", world.target);
    }
}
