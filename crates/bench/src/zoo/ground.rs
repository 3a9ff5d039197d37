//! The lab of the zoo, with what the witnesses need on the client.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::exhibit::Exhibit;
use crate::command::CommandError;
use crate::lab::{CLIENT, LONG, Lab, SHORT, inside};

/// Where the witnesses' root is on the client.
pub const ROOT: &str = "/opt/zoo";
/// Where they are in it.
pub const WITNESSES: &str = "/zoo/witness";
/// The root of their image.
const IMAGE: &str = "zoo-client";

/// A lab that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// An image that has not been made.
    #[error("cannot find image root {0}: `make zoo-images` makes it")]
    Image(PathBuf),
}

#[derive(Debug, Deserialize)]
struct Status {
    hosts: Vec<Host>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
    agent_log: PathBuf,
}

/// The lab.
#[derive(Debug)]
pub struct Ground {
    /// The lab.
    pub lab: Lab,
    /// The first process of the client.
    pub client: u32,
    images: PathBuf,
    imported: BTreeSet<String>,
}

impl Ground {
    /// Makes a lab anew.
    pub fn make(lab: Lab, images: &Path, witnesses: &Path) -> Result<Self, GroundError> {
        lab.up()?;
        let client = lab.pids()?.client;
        let root = images.join(IMAGE);
        if !root.is_dir() {
            return Err(GroundError::Image(root));
        }
        copy(&root, &inside(client, ROOT))?;
        let to = inside(client, ROOT).join(WITNESSES.trim_start_matches('/'));
        copy(witnesses, &to)?;
        let mount = format!("mount --rbind /dev {ROOT}/dev && mount -t proc proc {ROOT}/proc");
        lab.exec(CLIENT, &["sh", "-c", &mount], SHORT)?;
        Ok(Self { lab, client, images: images.to_owned(), imported: BTreeSet::new() })
    }

    /// Has all nodes know an exhibit's image.
    pub fn import(&mut self, exhibit: &Exhibit) -> Result<(), GroundError> {
        if !self.imported.contains(&exhibit.image) {
            let root = self.images.join(&exhibit.image);
            if !root.is_dir() {
                return Err(GroundError::Image(root));
            }
            self.lab.run(&["image", "import", &exhibit.image, &root.to_string_lossy()], LONG)?;
            self.imported.insert(exhibit.image.clone());
        }
        Ok(())
    }

    /// The version of an exhibit's package, as the image's list of archives has it.
    pub fn version(&self, exhibit: &Exhibit) -> Option<String> {
        let list = self.images.parent()?.join("roots").join(format!("{}.list", exhibit.image));
        let text = std::fs::read_to_string(list).ok()?;
        let mut archives = text.lines().filter_map(|line| line.strip_prefix(&*exhibit.package)?.strip_prefix('_'));
        Some(archives.next()?.split('_').next()?.replace("%3a", ":"))
    }

    /// Keeps the agents' logs in a directory.
    pub fn keep_logs(&self, directory: &Path) -> Result<(), GroundError> {
        let failed = |error| GroundError::File(directory.to_owned(), error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let status: Status = self.lab.ask(&["lab", "status"], SHORT)?;
        for host in status.hosts.iter().filter(|host| host.agent_log.is_file()) {
            std::fs::copy(&host.agent_log, directory.join(format!("{}.log", host.name))).map_err(failed)?;
        }
        Ok(())
    }
}

/// A program of the same build.
pub fn beside_us(name: &str) -> Result<PathBuf, GroundError> {
    let us = std::env::current_exe().map_err(|error| GroundError::File(name.into(), error))?;
    Ok(us.with_file_name(name))
}

fn copy(from: &Path, to: &Path) -> Result<(), GroundError> {
    let failed = |error| GroundError::File(to.to_owned(), error);
    if let Some(above) = to.parent() {
        std::fs::create_dir_all(above).map_err(failed)?;
    }
    let status = Command::new("cp").arg("-a").args([from, to]).status().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(std::io::Error::other("cp failed"))) }
}
