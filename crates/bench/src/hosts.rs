//! The hosts of a lab, made ready for all contestants and cleaned between two runs.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::lab::{LONG, Lab, SHORT, SOURCE, TARGET, inside, script};
use crate::mover::MoveError;

/// The server's command under the peers, which is that of the image but for a log that nobody reads.
const SERVER: [&str; 11] = [
    "redis-server",
    "--save",
    "",
    "--appendonly",
    "no",
    "--protected-mode",
    "no",
    "--bind",
    "*",
    "--logfile",
    "/dev/null",
];

/// Makes the hosts of a new lab ready for all contestants.
pub fn prepare(lab: &Lab, image: &Path) -> Result<(), MoveError> {
    lab.run(&["image", "import", "redis", &image.to_string_lossy()], LONG)?;
    let root = tar(image)?;
    let again = |file: &File| -> Result<File, MoveError> {
        let mut file = file.try_clone().map_err(MoveError::File)?;
        file.rewind().map_err(MoveError::File)?;
        Ok(file)
    };
    for host in [SOURCE, TARGET] {
        lab.run_script(host, &script!("criu.sh"), None)?;
        let config = lab.run_script(host, &script!("bundle.sh"), Some(again(&root)?))?;
        let config = bundle(&config).map_err(MoveError::Bundle)?;
        let write = ["sh", "-c", "cat >/run/bench/bundle/config.json"];
        let arguments = [&["lab", "exec", host, "--"][..], &write].concat();
        lab.start(&arguments, Some(file_of(config.as_bytes())?))?.finish(SHORT)?;
    }
    lab.run_script(SOURCE, &script!("podman-host.sh", "import"), Some(again(&root)?))?;
    let save = ["podman", "save", "-q", "localhost/bench"];
    // The archive is no text: it goes by a file of the host.
    lab.exec(SOURCE, &[&save[..], &["-o", "/run/bench/image.tar"]].concat(), LONG)?;
    let pids = lab.pids()?;
    let image = File::open(inside(pids.source, "/run/bench/image.tar")).map_err(MoveError::File)?;
    lab.run_script(TARGET, &script!("podman-host.sh", "load"), Some(image))?;
    lab.exec(SOURCE, &["rm", "/run/bench/image.tar"], SHORT)?;
    lab.run_script(SOURCE, &script!("count.sh", "10.77.0.12"), None)?;
    lab.run_script(TARGET, &script!("count.sh", "10.77.0.11"), None)?;
    Ok(())
}

/// An image's root as a tar in a temporary file.
fn tar(image: &Path) -> Result<File, MoveError> {
    let file = tempfile::tempfile().map_err(MoveError::File)?;
    let out = file.try_clone().map_err(MoveError::File)?;
    let status = std::process::Command::new("tar").arg("-C").arg(image).args(["-cf", "-", "."]).stdout(out).status();
    match status {
        Ok(status) if status.success() => Ok(file),
        Ok(_) => Err(MoveError::File(std::io::Error::other("tar failed"))),
        Err(error) => Err(MoveError::File(error)),
    }
}

fn file_of(bytes: &[u8]) -> Result<File, MoveError> {
    let mut file = tempfile::tempfile().map_err(MoveError::File)?;
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(MoveError::File)?;
    Ok(file)
}

/// runc's configuration with our program, in the namespace that wire.sh makes.
fn bundle(config: &str) -> Result<String, serde_json::Error> {
    let mut config: Value = serde_json::from_str(config)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(SERVER);
    config["root"]["readonly"] = json!(false);
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        for namespace in namespaces.iter_mut().filter(|namespace| namespace["type"] == "network") {
            namespace["path"] = json!("/run/netns/ct");
        }
    }
    serde_json::to_string(&config)
}

/// A container as `drover ps` lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    node: String,
    spec: ListedSpec,
}

#[derive(Debug, Deserialize)]
struct ListedSpec {
    id: String,
}

/// Takes away what earlier runs have left, of all contestants.
pub fn clean(lab: &Lab) -> Result<(), MoveError> {
    let containers: Vec<Listed> = lab.ask(&["ps", "-a"], SHORT)?;
    for container in &containers {
        lab.run(&["rm", "-f", "--node", &container.node, &container.spec.id], SHORT)?;
    }
    for host in [SOURCE, TARGET] {
        lab.run_script(host, &script!("clean.sh"), None)?;
    }
    Ok(())
}

/// The bytes of IP packets that the nodes have sent each other so far.
pub fn bytes(lab: &Lab) -> Result<u64, MoveError> {
    let mut total = 0;
    for host in [SOURCE, TARGET] {
        let text = lab.exec(host, &["nft", "list", "counter", "inet", "bench", "wire"], SHORT)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "bytes");
        total += words.nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_runs_the_server_in_the_prepared_network() {
        let config = r#"{"process":{"terminal":true,"args":["sh"]},"root":{"path":"rootfs","readonly":true},
            "linux":{"namespaces":[{"type":"pid"},{"type":"network"}]}}"#;
        let config: Value = serde_json::from_str(&bundle(config).unwrap()).unwrap();
        assert_eq!(config["process"]["args"][0], "redis-server");
        assert_eq!(config["linux"]["namespaces"][1]["path"], "/run/netns/ct");
        assert_eq!(config["linux"]["namespaces"][0]["path"], Value::Null);
        assert_eq!(config["root"], serde_json::json!({"path": "rootfs", "readonly": false}));
    }
}
