//! The OCI image configuration: the bytes whose SHA-256 is the image's id.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use drover_model::{Digest, ImageConfig, ImageStep};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ImageError;

/// The file at the top of an imported tree.
pub(super) const FILE: &str = "drover-image.json";
/// The largest configuration in bytes: it must fit a message of the protocol.
pub const LARGEST_CONFIG: usize = 256 << 10;
/// The most layers of an image, as elsewhere.
pub const MOST_LAYERS: usize = 127;

/// `config` in a configuration. `null` for what is absent is common.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Program {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    volumes: Option<BTreeMap<String, Value>>,
    stop_signal: Option<String>,
}

impl From<Program> for ImageConfig {
    fn from(program: Program) -> Self {
        let keys = |map: Option<BTreeMap<String, Value>>| map.unwrap_or_default().into_keys().collect();
        Self {
            entrypoint: program.entrypoint.unwrap_or_default(),
            cmd: program.cmd.unwrap_or_default(),
            env: program.env.unwrap_or_default(),
            working_dir: program.working_dir.filter(|path| !path.is_empty()),
            user: program.user.filter(|user| !user.is_empty()),
            exposed_ports: keys(program.exposed_ports),
            volumes: keys(program.volumes),
            stop_signal: program.stop_signal.filter(|signal| !signal.is_empty()),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Program>,
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<ImageStep>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// What a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// For which processors, as OCI calls them.
    pub architecture: String,
    pub os: String,
    pub config: ImageConfig,
    /// The layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    pub history: Vec<ImageStep>,
}

impl Described {
    /// Each layer once, the lowest first.
    pub fn distinct_layers(&self) -> Vec<Digest> {
        let mut seen = BTreeSet::new();
        self.diff_ids.iter().filter(|diff_id| seen.insert(*diff_id)).cloned().collect()
    }
}

/// Reads a configuration.
pub(super) fn parse(json: &[u8]) -> Result<Described, ImageError> {
    let unfit = |what: &'static str| ImageError::Unfit { what: what.into() };
    if json.len() > LARGEST_CONFIG {
        return Err(unfit("its configuration is over 256 KiB"));
    }
    let document: Document = serde_json::from_slice(json).map_err(ImageError::Config)?;
    let diff_ids = document.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.is_empty() || diff_ids.len() > MOST_LAYERS {
        return Err(unfit("it has no layers, or more than 127"));
    }
    Ok(Described {
        architecture: document.architecture,
        os: document.os,
        config: document.config.unwrap_or_default().into(),
        diff_ids,
        history: document.history.unwrap_or_default(),
    })
}

/// This machine's architecture, as OCI calls it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The configuration of an image of one layer, whose tree may say in `drover-image.json` how its program is started. The
/// same tree gives the same bytes: nobody says when.
pub(super) fn make(tree: &Path, diff_id: &Digest) -> Result<Vec<u8>, ImageError> {
    let config = read(tree)?;
    let _: Program = serde_json::from_value(config.clone()).map_err(ImageError::File)?;
    let document = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "drover image import" }],
    });
    bytes(&document)
}

/// The configuration of an image that has one more layer than the one of `json`.
pub(super) fn extend(json: &[u8], diff_id: &Digest, step: &ImageStep) -> Result<Vec<u8>, ImageError> {
    let mut document: Value = serde_json::from_slice(json).map_err(ImageError::Config)?;
    let step = serde_json::to_value(step).map_err(ImageError::Config)?;
    if let Some(created) = step.get("created") {
        document["created"] = created.clone();
    }
    match document.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut) {
        Some(diff_ids) if diff_ids.len() < MOST_LAYERS => diff_ids.push(json!(diff_id)),
        _ => return Err(ImageError::Unfit { what: "it would have more than 127 layers".into() }),
    }
    match document.get_mut("history").and_then(Value::as_array_mut) {
        Some(history) => history.push(step),
        None => document["history"] = json!([step]),
    }
    bytes(&document)
}

fn bytes(document: &Value) -> Result<Vec<u8>, ImageError> {
    let json = serde_json::to_vec(document).map_err(ImageError::Config)?;
    parse(&json).map(|_| json)
}

/// Reads the file at the top of a tree; without it, nothing is said.
fn read(tree: &Path) -> Result<Value, ImageError> {
    let path = tree.join(FILE);
    let failed = |errno: Errno| ImageError::store("read", &path)(errno.into());
    // A link would lead out of the image, and a fifo keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(json!({})),
        result => std::fs::File::from(result.map_err(failed)?),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(failed(Errno::INVAL));
    }
    let mut json = Vec::new();
    file.take(LARGEST_CONFIG as u64 + 1).read_to_end(&mut json).map_err(ImageError::store("read", &path))?;
    if json.len() > LARGEST_CONFIG {
        return Err(ImageError::Unfit { what: format!("its {FILE} is over 256 KiB") });
    }
    serde_json::from_slice(&json).map_err(ImageError::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_same() {
        let layer = Digest::from_sha256([7; 32]);
        let json = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [layer] },
            "config": { "Entrypoint": null, "Cmd": ["/bin/web"], "User": "", "ExposedPorts": { "80/tcp": {} },
                        "Volumes": { "/data": {} }, "Labels": {}, "StopSignal": "SIGQUIT" },
            "history": [{ "created_by": "RUN make" }, { "created_by": "CMD", "empty_layer": true }],
        });
        let described = parse(&serde_json::to_vec(&json).unwrap()).unwrap();
        let expected = ImageConfig {
            cmd: vec!["/bin/web".into()],
            exposed_ports: vec!["80/tcp".into()],
            volumes: vec!["/data".into()],
            stop_signal: Some("SIGQUIT".into()),
            ..ImageConfig::default()
        };
        assert_eq!((described.config, described.diff_ids), (expected, vec![layer]));
        assert_eq!((described.history.len(), described.history[1].empty_layer), (2, true));
    }

    #[test]
    fn what_cannot_be_an_image_is_refused() {
        let layers = |count| json!({ "rootfs": { "diff_ids": vec![Digest::from_sha256([1; 32]); count] } });
        for bad in [json!({}), json!([]), layers(0), layers(128), json!({ "rootfs": { "diff_ids": ["sha256:../.."] } })]
        {
            assert!(parse(&serde_json::to_vec(&bad).unwrap()).is_err(), "{bad}");
        }
        assert!(parse(&serde_json::to_vec(&layers(127)).unwrap()).is_ok());
        assert!(parse(&vec![b' '; LARGEST_CONFIG + 1]).is_err());
    }

    #[test]
    fn a_step_more_keeps_what_is_not_known_here() {
        let json =
            json!({ "rootfs": { "diff_ids": [Digest::from_sha256([1; 32])] }, "x": 1, "config": { "Labels": {} } });
        let step = ImageStep { created: Some("2026-01-01T00:00:00Z".into()), ..ImageStep::default() };
        let longer = extend(&serde_json::to_vec(&json).unwrap(), &Digest::from_sha256([2; 32]), &step).unwrap();
        let document: Value = serde_json::from_slice(&longer).unwrap();
        assert_eq!((&document["x"], &document["created"]), (&json!(1), &json!("2026-01-01T00:00:00Z")));
        let described = parse(&longer).unwrap();
        assert_eq!((described.diff_ids.len(), described.history), (2, vec![step]));
    }
}
