//! Both machines by example. Everything that can happen to them together happens in `drover-sim`.

use std::time::Duration;

use drover_model::{
    Bytes, ContainerSpec, Digest, Explained, Limits, Mode, Moment, Outcome, PageCount, ProcessSpec, RestartPolicy,
    Round, Settings,
};
use drover_protocol::{
    FixedPart, Mark, Offer, OfferedImage, Ownership, Part, Past, Source, SourceInput, SourceOutput, SourceResult,
    Target, TargetInput, TargetOutput, ToSource, ToTarget, Verdict, WantedLayer, answer,
};

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
        owner: None,
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
        processor: None,
        shared: vec![],
    }
}

/// What a target lacks: all of an image of one layer, or nothing.
fn missing(all: bool) -> Vec<WantedLayer> {
    all.then(|| WantedLayer { diff_id: Digest::from_sha256([1; 32]), offset: 0 }).into_iter().collect()
}

fn why() -> Explained {
    Explained { reason: "chance".into(), hint: None }
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
    let mut target = Target::recovered("n2".parse().unwrap(), Ownership::Awaits);
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

/// As a release meets one that speaks a version more or less.
#[test]
fn an_older_and_a_newer_release_find_the_version_that_both_speak() {
    let now = Moment::default();
    let newest = drover_protocol::VERSIONS.1;
    for versions in [(newest - 1, newest), (newest, newest), (newest, newest + 1)] {
        let mut target = Target::new(now, "n2".parse().unwrap());
        target.handle(now, TargetInput::Heard(ToTarget::Hello { versions, node: "n1".parse().unwrap() }));
        let welcome = ToSource::Welcome { version: newest, node: "n2".parse().unwrap() };
        assert_eq!(target.poll(), Some(TargetOutput::Send(welcome)), "for {versions:?}");
    }
}

#[test]
fn a_source_begins_nothing_with_a_target_that_chooses_a_version_it_does_not_speak() {
    let mut source = source_of(Settings::default());
    let version = drover_protocol::VERSIONS.1 + 1;
    let welcome = ToSource::Welcome { version, node: "n2".parse().unwrap() };
    let done = hear(&mut source, [SourceInput::Filled, SourceInput::Connected, SourceInput::Heard(welcome)]);
    let reason = outcome(&done).unwrap();
    assert!(reason.0 == Outcome::RolledBack && reason.1.contains("version"), "{reason:?}");
    assert!(!done.iter().any(|output| matches!(output, SourceOutput::Send(ToTarget::Offer(_)) | SourceOutput::Freeze)));
}

#[test]
fn a_promised_target_keeps_the_container_for_as_long_as_the_verdict_is_unknown() {
    let now = Moment::default();
    let mut target = Target::recovered("n2".parse().unwrap(), Ownership::Awaits);
    target.handle(now, TargetInput::LinkLost);
    target.handle(now.after(Duration::from_secs(1_000_000)), TargetInput::DeadlinePassed);
    assert_eq!((target.poll(), target.deadline(), target.promised()), (None, None, true));
    target.handle(now, TargetInput::Reconnected(Verdict::Abort));
    assert_eq!(target.poll(), Some(TargetOutput::Discard));
}

#[test]
fn an_unreadable_journal_leaves_the_container_frozen_until_it_can_be_read() {
    let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
    let unknown = [
        SourceInput::Heard(ToSource::Restored),
        SourceInput::CommitUnknown(why()),
        SourceInput::CommitRead(None),
        SourceInput::LinkLost(why()),
        SourceInput::Cancelled,
    ];
    let done = hear(&mut source, up_to_transferred(false).into_iter().chain(unknown));
    assert!(!done.contains(&SourceOutput::Thaw) && outcome(&done).is_none(), "{done:?}");
    assert!(source.in_doubt() && source.delayed().is_some());
    assert_eq!(hear(&mut source, [SourceInput::DeadlinePassed]), [SourceOutput::ReadCommit]);
    let done = hear(&mut source, [SourceInput::CommitRead(Some(false)), SourceInput::Thawed]);
    assert_eq!(outcome(&done), Some((Outcome::RolledBack, "chance")));
}

#[test]
fn files_that_are_sent_ahead_leave_the_container_where_it_is() {
    let mut source = source_of(Settings { sync: true, ..Settings::default() });
    let inputs = up_to_transferred(true).into_iter().take(7);
    let done = hear(&mut source, inputs.chain([SourceInput::Heard(ToSource::Aborted)]));
    assert!(!done.contains(&SourceOutput::Freeze), "{done:?}");
    assert_eq!(outcome(&done), Some((Outcome::Synced, "its files are on n2")));
}

/// A target that lost power after its promise could not restore what was gone, and tried for ever.
#[test]
fn what_a_target_has_lost_before_it_ran_goes_on_at_the_source() {
    let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
    let decided = [SourceInput::Heard(ToSource::Restored), SourceInput::CommitRecorded, SourceInput::LinkLost(why())];
    hear(&mut source, up_to_transferred(false).into_iter().chain(decided));
    let mut target = Target::recovered("n2".parse().unwrap(), Ownership::of(Some(Mark::Promised), true, false));
    assert_eq!(target.poll(), Some(TargetOutput::RecordReturned));
    target.handle(Moment::default(), TargetInput::ReturnRecorded);
    assert_eq!(target.poll(), Some(TargetOutput::Discard));
    let heard = answer(Some(Mark::Discarded), Verdict::Commit).unwrap();
    let done = hear(&mut source, [SourceInput::Connected, SourceInput::Heard(heard)]);
    assert!(done.contains(&SourceOutput::RecordReturned { heard: true }) && !done.contains(&SourceOutput::Thaw));
    let done = hear(&mut source, [SourceInput::ReturnRecorded, SourceInput::Thawed]);
    assert!(done.contains(&SourceOutput::Thaw), "{done:?}");
    assert_eq!(
        outcome(&done),
        Some((Outcome::RolledBack, "n2 lost the container before it ran there, and gave it back"))
    );
}

#[test]
fn an_operator_settles_what_the_target_cannot() {
    let decided =
        || [SourceInput::Heard(ToSource::Restored), SourceInput::CommitRecorded, SourceInput::LinkLost(why())];
    let in_doubt = || {
        let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
        hear(&mut source, up_to_transferred(false).into_iter().chain(decided()));
        source
    };
    let mut kept = in_doubt();
    let done =
        hear(&mut kept, [SourceInput::Resolved(Verdict::Abort), SourceInput::ReturnRecorded, SourceInput::Thawed]);
    // The target must hear it as soon as it can.
    assert!(done.contains(&SourceOutput::RecordReturned { heard: false }), "{done:?}");
    assert!(matches!(done.last(), Some(SourceOutput::Reconnect(_))), "{done:?}");
    let mut given = in_doubt();
    let done = hear(&mut given, [SourceInput::Resolved(Verdict::Commit), SourceInput::Destroyed]);
    assert_eq!(outcome(&done).unwrap().0, Outcome::Moved);
}

/// What was left on a source whose disk failed stayed there, and kept the container from coming back.
#[test]
fn a_copy_that_cannot_be_destroyed_is_tried_again() {
    let mut source = source_of(Settings { mode: Mode::StopAndCopy, ..Settings::default() });
    let moved = [ToSource::Restored, ToSource::Resumed, ToSource::Committed].map(SourceInput::Heard);
    let [restored, resumed, committed] = moved;
    let inputs = [restored, SourceInput::CommitRecorded, resumed, committed, SourceInput::StepFailed(why())];
    let done = hear(&mut source, up_to_transferred(false).into_iter().chain(inputs));
    assert_eq!(outcome(&done), Some((Outcome::Moved, "chance")));
    let done = hear(&mut source, [SourceInput::DeadlinePassed, SourceInput::Destroyed, SourceInput::SettledRecorded]);
    assert_eq!(done.first(), Some(&SourceOutput::Destroy));
    assert!(outcome(&done).is_none() && done.last() == Some(&SourceOutput::Finish), "{done:?}");
}
