//! The HTTP API and what people write: bodies, names, units, the framed stream, the configuration.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;

use drover_agent::AgentConfig;
use drover_api::stream::{self, LONGEST_PAYLOAD, Message};
use drover_api::{
    ApiError, CommitRequest, CreateVolumeRequest, ExecRequest, ImageDetail, MigrateRequest, OverlayReport, PullRequest,
    PushRequest, RunRequest, SessionInput, SessionOutput,
};
use drover_model::{
    Bandwidth, Bytes, ContainerId, ContainerName, ContainerRecord, ContainerSpec, Digest, Driver, LogRecord, Mac,
    MigrationState, MountPoint, NodeInfo, NodeName, Report, RestartPolicy, StopRule, TmpfsMount, VolumeMount,
    VolumeRecord, WhenLost,
};
use drover_registry::Reference;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bodies in JSON, and values in text.
pub fn bodies(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let requests = body::<RunRequest>(bytes)
        | body::<ExecRequest>(bytes)
        | body::<CreateVolumeRequest>(bytes)
        | body::<MigrateRequest>(bytes)
        | body::<CommitRequest>(bytes)
        | body::<PullRequest>(bytes)
        | body::<PushRequest>(bytes);
    let answers = body::<ApiError>(bytes)
        | body::<ImageDetail>(bytes)
        | body::<OverlayReport>(bytes)
        | body::<ContainerRecord>(bytes)
        | body::<ContainerSpec>(bytes)
        | body::<LogRecord>(bytes)
        | body::<MigrationState>(bytes)
        | body::<NodeInfo>(bytes)
        | body::<Report>(bytes)
        | body::<VolumeRecord>(bytes);
    let values = printed::<Bandwidth>(text)
        | printed::<ContainerId>(text)
        | printed::<ContainerName>(text)
        | printed::<Digest>(text)
        | printed::<Driver>(text)
        | printed::<Mac>(text)
        | printed::<MountPoint>(text)
        | printed::<NodeName>(text)
        | printed::<Reference>(text)
        | printed::<RestartPolicy>(text)
        // What they print is rounded for people, or not what they were read from.
        | text.parse::<StopRule>().is_ok()
        | text.parse::<WhenLost>().is_ok()
        | text.parse::<Bytes>().is_ok()
        | text.parse::<VolumeMount>().is_ok()
        | text.parse::<TmpfsMount>().is_ok();
    requests | answers | values
}

/// A body that is one comes back as it was sent.
fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<T>(bytes) else { return false };
    let sent = serde_json::to_vec(&body).expect("a body can be written");
    assert_eq!(serde_json::from_slice::<T>(&sent).expect("what was written can be read"), body);
    true
}

/// A value that is one is printed as it can be read.
fn printed<T: FromStr + Display + PartialEq + Debug>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    match value.to_string().parse::<T>() {
        Ok(again) => assert_eq!(again, value),
        Err(_) => panic!("{value:?} is printed as {value}, which cannot be read"),
    }
    true
}

/// The agent's configuration, as its file has it.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(config) = AgentConfig::parse(text, Path::new("/agent.toml")) else { return false };
    assert!(config.state.is_absolute() && config.run.is_absolute());
    assert!(config.peer.iter().all(|peer| peer.name != config.name));
    true
}

/// Both directions of the stream of `attach` and `exec`.
pub fn session(bytes: &[u8]) -> bool {
    messages::<SessionInput>(bytes) | messages::<SessionOutput>(bytes)
}

fn messages<M: Message + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut taken = 0;
    while let Ok(Some((message, length))) = stream::decode::<M>(rest) {
        let (_, payload) = message.to_parts();
        // What is no text gets letters that say so.
        if payload.len() <= LONGEST_PAYLOAD {
            let frame = stream::encode(&message).expect("short enough");
            let (again, whole) = stream::decode::<M>(&frame).expect("a frame").expect("a whole one");
            assert_eq!((again, whole), (message, frame.len()));
        }
        assert!(length <= rest.len());
        rest = &rest[length..];
        taken += 1;
    }
    taken > 0
}
