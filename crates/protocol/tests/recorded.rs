//! What version 5 of the protocol says, as it was recorded with the first release that spoke it: every later one says it in
//! the same words for as long as it speaks that version, and understands it.
//!
//! `recorded/version-5.jsonl` has each message once. It is never written anew; a new message or field belongs to a new
//! version, and into a new record.

use std::collections::BTreeSet;
use std::fmt::Debug;

use drover_model::{Bandwidth, Bytes, Compression, ContainerSpec, Digest, Explained, Settings, Sighting};
use drover_protocol::{
    Answer, NodeRoom, Offer, OfferedImage, Part, Question, ToSource, ToTarget, Verdict, WantedLayer, decode, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const RECORD: &str = include_str!("recorded/version-5.jsonl");

fn why() -> Explained {
    Explained { reason: "no room".into(), hint: Some("make some".into()) }
}

/// A specification in which everything is said; its own form is that of the records on disk, and tested with them.
fn spec() -> ContainerSpec {
    let spec = json!({
        "id": "2d0f6ab81c9e", "name": "web", "image": "redis", "image_digest": Digest::from_sha256([7; 32]),
        "process": { "args": ["redis-server"], "env": ["A=b"], "cwd": "/", "uid": 999, "gid": 999, "terminal": false,
                     "stdin_open": true },
        "limits": { "memory": 536_870_912, "cpu_millis": 500, "pids": 100 },
        "interface": { "mac": "02:1d:70:00:00:32", "addresses": ["10.77.1.147/16"], "gateways": ["10.77.0.1"] },
        "hostname": "web", "restart": "on-failure:3", "created_at": "2026-01-01T00:00:00Z",
        "volumes": [{ "destination": "/data", "read_only": false, "kind": "local", "volume": "data" },
                    { "destination": "/cache", "read_only": true, "kind": "tmpfs", "size": 4096, "mode": 511 },
                    { "destination": "/shared", "read_only": true, "kind": "shared", "volume": "s" }],
        "exposed_ports": ["6379/tcp"], "stop_signal": 15, "owner": "ada",
    });
    serde_json::from_value(spec).unwrap()
}

fn offer() -> Offer {
    let settings = Settings {
        downtime_ms: Some(200),
        max_rounds: Some(9),
        bandwidth: Some(Bandwidth::LEAST),
        compression: Compression::Zstd,
        deleted_files: Some(Bytes(4096)),
        ..Settings::default()
    };
    let sighting = json!({ "volume": "s", "mark": { "listed": { "digest": "aa", "entries": 3 } } });
    Offer {
        migration: "00aa".parse().unwrap(),
        spec: spec(),
        image: OfferedImage {
            config: "{}".into(),
            layers: vec![4096],
            references: vec!["h.example/a@sha256:aa".into()],
        },
        generation: 3,
        restarts: 1,
        started_at: Some("2026-01-01T00:00:00Z".into()),
        settings,
        criu: "4.2".into(),
        kernel: "6.18".into(),
        architecture: "x86_64".into(),
        memory: 1 << 20,
        resident: 1 << 21,
        upper: 4096,
        processor: None,
        shared: vec![serde_json::from_value::<Sighting>(sighting).unwrap()],
    }
}

/// Each message to a target once.
fn to_target() -> Vec<ToTarget> {
    let resume = |verdict| ToTarget::Resume { migration: "00aa".parse().unwrap(), verdict };
    vec![
        ToTarget::Hello { versions: (5, 5), node: "n1".parse().unwrap() },
        resume(Verdict::Commit),
        resume(Verdict::Abort),
        ToTarget::Offer(offer().into()),
        ToTarget::Restore,
        ToTarget::Commit,
        ToTarget::Abort { why: why() },
        ToTarget::Lost { why: why() },
        ToTarget::Settled,
    ]
}

/// Each message to a source once.
fn to_source() -> Vec<ToSource> {
    vec![
        ToSource::Welcome { version: 5, node: "n2".parse().unwrap() },
        ToSource::Refused(why()),
        ToSource::NeedImage { layers: vec![WantedLayer { diff_id: Digest::from_sha256([1; 32]), offset: 7 }] },
        ToSource::Ready,
        ToSource::Stored { part: Part::Memory },
        ToSource::Stored { part: Part::Files },
        ToSource::Restored,
        ToSource::Failed(why()),
        ToSource::Resumed,
        ToSource::Delayed(why()),
        ToSource::Committed,
        ToSource::Aborted,
        ToSource::Unknown,
    ]
}

fn questions() -> Vec<Question> {
    vec![Question::Reserve { migration: "00aa".parse().unwrap() }, Question::Room]
}

fn answers() -> Vec<Answer> {
    let room = NodeRoom { running: 3, memory: Bytes(4096), closed: Some(why()) };
    vec![Answer::Granted, Answer::Busy, Answer::Closed(why()), Answer::Room(room)]
}

/// The lines of the record that were sent this way.
fn recorded(way: &str) -> Vec<Value> {
    let lines = RECORD.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["way"] == way).map(|line| line["message"].clone()).collect()
}

/// What was said has all that was recorded; it may have more, which an older release does not look at.
fn contains(said: &Value, recorded: &Value) -> bool {
    match (said, recorded) {
        (Value::Object(said), Value::Object(recorded)) => {
            recorded.iter().all(|(name, value)| said.get(name).is_some_and(|said| contains(said, value)))
        }
        (Value::Array(said), Value::Array(recorded)) => {
            said.len() == recorded.len() && said.iter().zip(recorded).all(|(said, recorded)| contains(said, recorded))
        }
        _ => said == recorded,
    }
}

/// The same with a field in each message, and in each specification and offered image, that no release knows.
fn of_a_later_release(message: &Value) -> Value {
    let mut message = message.clone();
    message["invented_later"] = json!({ "a": [1] });
    for part in ["spec", "image"] {
        if message.get(part).is_some() {
            message[part]["invented_later"] = json!(1);
        }
    }
    message
}

#[track_caller]
fn check<M: Serialize + DeserializeOwned + PartialEq + Debug>(way: &str, messages: &[M]) {
    let recorded = recorded(way);
    assert_eq!(recorded.len(), messages.len(), "each message to {way} is in the record, once");
    for (recorded, message) in recorded.iter().zip(messages) {
        let said: Value = serde_json::from_slice(&encode(message)).unwrap();
        assert!(contains(&said, recorded), "version 5 says {recorded}, and not {said}");
        for heard in [recorded, &of_a_later_release(recorded)] {
            assert_eq!(decode::<M>(heard.to_string().as_bytes()).unwrap(), *message, "of {heard}");
        }
    }
}

#[test]
fn version_5_is_spoken_and_understood_as_it_was_recorded() {
    check("target", &to_target());
    check("source", &to_source());
    check("question", &questions());
    check("answer", &answers());
}

/// A message that is not in the record would be said to a peer that does not know it.
#[test]
fn every_message_is_in_the_record() {
    // To be added to only together with a new version.
    let known_to_target = |message: &ToTarget| match message {
        ToTarget::Hello { .. }
        | ToTarget::Resume { .. }
        | ToTarget::Offer(_)
        | ToTarget::Restore
        | ToTarget::Commit
        | ToTarget::Abort { .. }
        | ToTarget::Lost { .. }
        | ToTarget::Settled => std::mem::discriminant(message),
    };
    let known_to_source = |message: &ToSource| match message {
        ToSource::Welcome { .. }
        | ToSource::Refused(_)
        | ToSource::NeedImage { .. }
        | ToSource::Ready
        | ToSource::Stored { .. }
        | ToSource::Restored
        | ToSource::Failed(_)
        | ToSource::Resumed
        | ToSource::Delayed(_)
        | ToSource::Committed
        | ToSource::Aborted
        | ToSource::Unknown => std::mem::discriminant(message),
    };
    let kinds = |way| recorded(way).iter().map(|message| message["type"].to_string()).collect::<BTreeSet<_>>().len();
    let to_target: std::collections::HashSet<_> = to_target().iter().map(known_to_target).collect();
    let to_source: std::collections::HashSet<_> = to_source().iter().map(known_to_source).collect();
    assert_eq!((to_target.len(), to_source.len()), (8, 12));
    assert_eq!((kinds("target"), kinds("source")), (8, 12));
}

/// Writes the record of a version that has none yet.
#[test]
#[ignore = "a record is written once, with the release that brings its version"]
fn write_the_record() {
    fn lines<M: Serialize>(way: &str, messages: &[M]) -> String {
        let line =
            |message: &M| json!({ "way": way, "message": serde_json::to_value(message).unwrap() }).to_string() + "\n";
        messages.iter().map(line).collect()
    }
    assert!(RECORD.is_empty(), "it is there already");
    let record = [
        lines("target", &to_target()),
        lines("source", &to_source()),
        lines("question", &questions()),
        lines("answer", &answers()),
    ];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/version-5.jsonl");
    std::fs::write(path, record.concat()).unwrap();
}
