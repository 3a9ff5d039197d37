//! The lab that all contestants share, driven by the command line alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::command::{CommandError, Running};
use crate::suite::Link;

/// The nodes, and where they are in every lab.
pub const SOURCE: &str = "n1";
/// The node that is moved to.
pub const TARGET: &str = "n2";
/// The host of whoever uses the container.
pub const CLIENT: &str = "client";
const SOURCE_ADDRESS: &str = "10.77.0.11";
/// The target's address.
pub const TARGET_ADDRESS: &str = "10.77.0.12";
/// The container's address, in the network of every lab.
pub const ADDRESS: &str = "10.77.0.50";

/// How long making the lab may take, and whatever else copies files.
pub const LONG: Duration = Duration::from_secs(120);
/// How long removing the lab may take: there may be hundreds of thousands of files in it.
const REMOVAL: Duration = Duration::from_secs(300);
/// How long anything else may take.
pub const SHORT: Duration = Duration::from_secs(60);

/// The lab.
#[derive(Debug, Clone)]
pub struct Lab {
    /// The drover binary.
    pub drover: PathBuf,
    /// The lab's name.
    pub name: String,
    /// The root of its hosts.
    pub base: PathBuf,
}

/// An image that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be made.
    #[error("cannot make the image of the containers")]
    Make(#[source] std::io::Error),
    /// It was refused.
    #[error(transparent)]
    Command(#[from] CommandError),
}

#[derive(Debug, Deserialize)]
struct Status {
    hosts: Vec<Host>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
    pid: Option<u32>,
}

/// The first processes of the hosts, through which their files and their control groups are seen.
#[derive(Debug, Clone)]
pub struct Pids {
    /// Of the source.
    pub source: u32,
    /// Of the target.
    pub target: u32,
    /// Of the client.
    pub client: u32,
}

impl Lab {
    /// Makes it anew.
    pub fn up(&self) -> Result<(), CommandError> {
        self.up_with(&[])
    }

    /// The same, with these variables in the environment of its agents.
    pub fn up_with(&self, variables: &[(&str, &str)]) -> Result<(), CommandError> {
        self.down()?;
        let base = self.base.to_string_lossy();
        let mut command = self.command(&["lab", "up", "--nodes", "2", "--base", &base]);
        command.envs(variables.iter().copied());
        Running::start(command, "drover lab up".into(), None)?.finish(LONG).map(drop)
    }

    /// Imports an image with the witness in it, under this name.
    pub fn import_witness(&self, name: &str, image: &Path, programs: &Path) -> Result<(), ImageError> {
        let directory = tempfile::tempdir().map_err(ImageError::Make)?;
        let root = directory.path().join("root");
        for (from, to) in [(image.to_owned(), root.clone()), (programs.join("drover-check"), root.join("usr/bin"))] {
            let copied = Command::new("cp").arg("-a").args([from, to]).status();
            if !copied.map_err(ImageError::Make)?.success() {
                return Err(ImageError::Make(std::io::Error::other("cp failed")));
            }
        }
        Ok(self.run(&["image", "import", name, &root.to_string_lossy()], LONG).map(drop)?)
    }

    /// Whether there is one of this name.
    pub fn exists(&self) -> Result<bool, CommandError> {
        self.ask::<Option<Status>>(&["lab", "status"], SHORT).map(|status| status.is_some())
    }

    /// Takes it away.
    pub fn down(&self) -> Result<(), CommandError> {
        self.start(&["lab", "down"], None)?.outlast(REMOVAL)
    }

    /// Sets the rate of the nodes' links.
    pub fn link(&self, link: Link) -> Result<(), CommandError> {
        self.run(&["lab", "link", link.word()], SHORT).map(drop)
    }

    /// The first processes of its hosts; 0 for one that is dead, which no file is found of.
    pub fn pids(&self) -> Result<Pids, CommandError> {
        let status: Status = self.ask(&["lab", "status"], SHORT)?;
        let pid = |name: &str| status.hosts.iter().find(|host| host.name == name).and_then(|host| host.pid);
        let [source, target, client] = [SOURCE, TARGET, CLIENT].map(|name| pid(name).unwrap_or(0));
        Ok(Pids { source, target, client })
    }

    /// Runs a command of drover that must succeed; gives what it printed.
    pub fn run(&self, arguments: &[&str], patience: Duration) -> Result<String, CommandError> {
        self.start(arguments, None)?.finish(patience)
    }

    /// Runs a command of drover and reads the JSON that it prints.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str], patience: Duration) -> Result<T, CommandError> {
        let printed = self.run(&[&["--json"], arguments].concat(), patience)?;
        serde_json::from_str(&printed).map_err(|error| CommandError::Answer(arguments.join(" "), error))
    }

    /// Starts a command of drover.
    pub fn start(&self, arguments: &[&str], input: Option<File>) -> Result<Running, CommandError> {
        Running::start(self.command(arguments), format!("drover {}", arguments.join(" ")), input)
    }

    /// A command of drover in this lab.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.drover);
        command.args(arguments).env("DROVER_LAB", &self.name).env_remove("DROVER_CONTEXT");
        command
    }

    /// Runs a program on a host.
    pub fn exec(&self, host: &str, command: &[&str], patience: Duration) -> Result<String, CommandError> {
        self.run(&[&["lab", "exec", host, "--"], command].concat(), patience)
    }

    /// Starts a script on a host.
    pub fn script(&self, host: &str, script: &Script, input: Option<File>) -> Result<Running, CommandError> {
        let source = format!("SOURCE={SOURCE_ADDRESS}");
        let target = format!("TARGET={TARGET_ADDRESS}");
        let begin = ["lab", "exec", host, "--", "env", &source, &target, "bash", "-c", script.text, script.name];
        let mut command = Command::new(&self.drover);
        command.args(begin).args(script.arguments).env("DROVER_LAB", &self.name).env_remove("DROVER_CONTEXT");
        Running::start(command, format!("{} on {host}", script.name), input)
    }

    /// Runs a script on a host to its end.
    pub fn run_script(&self, host: &str, script: &Script, input: Option<File>) -> Result<String, CommandError> {
        self.script(host, script, input)?.finish(LONG)
    }
}

/// A script that runs on hosts.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Its arguments.
    pub arguments: &'static [&'static str],
}

/// A script by the name of its file, with its arguments.
macro_rules! script {
    ($name:literal $(, $argument:literal)*) => {
        $crate::lab::Script { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/", $name)), arguments: &[$($argument),*] }
    };
}
pub(crate) use script;

/// A file of a host as it is seen from outside.
pub fn inside(pid: u32, path: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root").join(path.trim_start_matches('/'))
}
