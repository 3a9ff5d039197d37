//! Mounting shared volumes, each below a directory of the node's, for as long as a container uses it.
//!
//! Beneath each lies an empty file system that nobody can write to: when what was mounted is gone nothing lands in the
//! directory that it was mounted on.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drover_model::{Bytes, VolumeSpec};
use drover_sys::cgroup::Cgroup;
use drover_sys::process::new_session;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process_group};

use super::driver::{Recipe, recipe};
use super::mounted::{FileSystem, all_at, at, of};
use crate::{bind, mount_tmpfs, unmount};

/// How long a driver's program may take to mount.
const MOUNTING: Duration = Duration::from_secs(30);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How much of what a program says goes into an error, in bytes.
const LONGEST_WORDS: u64 = 2048;
/// How much a program that stays may say before that is cut off, in bytes.
const MOST_WORDS: u64 = 1 << 20;
/// The size of the empty file system beneath.
const EMPTY: Bytes = Bytes(4096);

/// Why a shared volume could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// It is a local one.
    #[error("it is no shared volume")]
    Kind,
    /// The place where it is to be mounted cannot be made.
    #[error("cannot make {0}")]
    Place(PathBuf, #[source] io::Error),
    /// The empty file system beneath, or a bind.
    #[error(transparent)]
    Mount(#[from] crate::MountError),
    /// The list of mounts cannot be read.
    #[error("cannot read the list of mounts")]
    List(#[source] io::Error),
    /// The source of a bind is not there.
    #[error("cannot find {0}")]
    Source(String, #[source] io::Error),
    /// The source of a bind is not what it was.
    #[error("{path} shows {found} now, and not {expected}")]
    Other {
        /// The directory.
        path: String,
        /// What was there before.
        expected: Box<FileSystem>,
        /// What is there.
        found: Box<FileSystem>,
    },
    /// The program cannot be started.
    #[error("cannot start {0}")]
    Start(String, #[source] io::Error),
    /// The program failed.
    #[error("{program} failed: {words}")]
    Failed {
        /// The program.
        program: String,
        /// What it said.
        words: String,
    },
    /// The program mounted nothing in time.
    #[error("{0} mounted nothing within {limit} s", limit = MOUNTING.as_secs())]
    Late(String),
}

impl SharedError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Start(program, _) => Some(format!("install {program} on that node")),
            Self::Failed { program, .. } | Self::Late(program) => {
                Some(format!("see whether {program} can mount it by hand on that node"))
            }
            Self::Other { path, .. } => Some(format!("mount at {path} on that node what was there before")),
            Self::Mount(_) | Self::Source(..) => Some("see whether its source is a directory on that node".into()),
            _ => None,
        }
    }
}

/// A shared volume that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Where.
    pub place: PathBuf,
    /// What is mounted there.
    pub file_system: FileSystem,
    /// Where that comes from, when it is a directory of the node.
    origin: Option<FileSystem>,
}

impl Shared {
    /// Mounts a volume on the directory `place`, which is made. Programs that stay are in the group `programs`, so that they
    /// outlive the agent. `before`: what it was when it was mounted last, if a container still shows that.
    ///
    /// # Errors
    /// When the driver fails; nothing is left mounted then.
    pub fn mount(
        spec: &VolumeSpec,
        place: &Path,
        programs: &Cgroup,
        before: Option<&Self>,
    ) -> Result<Self, SharedError> {
        let recipe = recipe(spec, place).ok_or(SharedError::Kind)?;
        Self::unmount(place)?;
        fs::create_dir_all(place).map_err(|error| SharedError::Place(place.to_owned(), error))?;
        mount_tmpfs(place, EMPTY, 0o555)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        let beneath = rustix::mount::mount_remount(place, flags, c"").map_err(io::Error::from);
        let mounted = beneath.map_err(|error| SharedError::Place(place.to_owned(), error)).and_then(|()| {
            let beneath = at(place).map_err(SharedError::List)?;
            match &recipe {
                Recipe::Bind(source) => {
                    let origin = of(Path::new(source)).map_err(|error| SharedError::Source(source.clone(), error))?;
                    if let Some(expected) = before.and_then(|before| before.origin.clone())
                        && !origin.resembles(&expected)
                    {
                        let (path, expected, found) = (source.clone(), expected.into(), origin.into());
                        return Err(SharedError::Other { path, expected, found });
                    }
                    bind(Path::new(source), place)?;
                    let file_system = at(place).map_err(SharedError::List)?.unwrap_or_else(|| origin.clone());
                    Ok(Self { place: place.to_owned(), file_system, origin: Some(origin) })
                }
                Recipe::Run(command) => {
                    let file_system = run(command, place, beneath.as_ref(), programs)?;
                    Ok(Self { place: place.to_owned(), file_system, origin: None })
                }
            }
        });
        if mounted.is_err() {
            let _ = Self::unmount(place);
        }
        mounted
    }

    /// What an earlier agent mounted on a place; if nothing is there any more, something that is not well when it is probed.
    ///
    /// # Errors
    /// When the list of mounts cannot be read.
    pub fn find(spec: &VolumeSpec, place: &Path) -> Result<Self, SharedError> {
        let origin = match recipe(spec, place) {
            // A directory that is gone resembles nothing.
            Some(Recipe::Bind(source)) => of(Path::new(&source)).ok(),
            _ => None,
        };
        // The lowest is the empty one.
        let found = all_at(place).map_err(SharedError::List)?.into_iter().skip(1).last();
        Ok(Self { place: place.to_owned(), file_system: found.unwrap_or_default(), origin })
    }

    /// Unmounts all that is mounted on a place, at once; programs that serve it end when nobody uses it. It may be repeated.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unmount(place: &Path) -> Result<(), SharedError> {
        for _ in all_at(place).map_err(SharedError::List)? {
            unmount(place, true)?;
        }
        let _ = fs::remove_file(words_of(place));
        match fs::remove_dir(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SharedError::Place(place.to_owned(), error)),
            _ => Ok(()),
        }
    }

    /// Whether it is still what was mounted.
    ///
    /// # Errors
    /// When it is not, or its server cannot be reached. It may take for ever.
    pub fn probe(&self) -> io::Result<()> {
        if at(&self.place)?.as_ref() != Some(&self.file_system) {
            return Err(io::Error::other("it is not mounted any more"));
        }
        let words = words_of(&self.place);
        if fs::metadata(&words).is_ok_and(|said| said.len() > MOST_WORDS) {
            // It goes on behind the end, which is the beginning then.
            File::options().write(true).open(&words)?.set_len(0)?;
        }
        rustix::fs::statfs(&self.place)?;
        // Attributes of the top: a server that has gone may still have its sizes remembered.
        fs::symlink_metadata(&self.place).map(drop)
    }
}

/// Runs a program until something is mounted on the place.
fn run(
    command: &[String],
    place: &Path,
    beneath: Option<&FileSystem>,
    programs: &Cgroup,
) -> Result<FileSystem, SharedError> {
    let program = command.first().cloned().unwrap_or_default();
    let start = |error| SharedError::Start(program.clone(), error);
    // A file, and no pipe: a program that stays outlives whoever would read that.
    let said = words_of(place);
    let directory = said.parent().map_or(Ok(()), fs::create_dir_all);
    let says = directory.and_then(|()| {
        File::create(&said)?;
        File::options().append(true).open(&said)
    });
    let mut run = Command::new(&program);
    run.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(says.map_err(start)?);
    let mut child = new_session(&mut run).spawn().map_err(start)?;
    // Before it has got anywhere: what it starts is born there. One that cannot be placed still mounts.
    let _ = programs.join(child.id());
    let until = Instant::now() + MOUNTING;
    loop {
        let ended = child.try_wait().map_err(start)?;
        let mounted = at(place).map_err(SharedError::List)?.filter(|mounted| Some(mounted) != beneath);
        match (mounted, ended) {
            (Some(file_system), ended) => {
                let answered = answer(place, until).and_then(|()| match at(place)? {
                    Some(now) if now == file_system => Ok(()),
                    _ => Err(io::Error::other("it is not mounted any more")),
                });
                if let Err(error) = answered {
                    if ended.is_none() {
                        end(child);
                    }
                    let words = read_words(&said);
                    let words = if words.is_empty() { error.to_string() } else { words };
                    return Err(SharedError::Failed { program, words });
                }
                if ended.is_none() {
                    // It stays, or ends in a moment; whichever, somebody must take note.
                    std::thread::spawn(move || child.wait());
                }
                return Ok(file_system);
            }
            (None, Some(status)) => {
                let words = read_words(&said);
                let words = if words.is_empty() { status.to_string() } else { words };
                return Err(SharedError::Failed { program, words });
            }
            (None, None) if Instant::now() > until => {
                end(child);
                return Err(SharedError::Late(program));
            }
            (None, None) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits for the first answer of what has been mounted: some programs mount first and look for their server afterwards.
fn answer(place: &Path, until: Instant) -> io::Result<()> {
    let (sender, answer) = mpsc::channel();
    let place = place.to_owned();
    std::thread::spawn(move || sender.send(fs::symlink_metadata(place).map(drop)));
    let left = until.saturating_duration_since(Instant::now());
    answer.recv_timeout(left).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Where the program says why it failed.
fn words_of(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default();
    place.parent().unwrap_or(place).join(".words").join(name)
}

/// What a program has said, as far as it fits.
fn read_words(said: &Path) -> String {
    let mut text = Vec::new();
    let _ = File::open(said).and_then(|said| said.take(LONGEST_WORDS).read_to_end(&mut text));
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ends a program with all that it has started.
fn end(mut child: Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    std::thread::spawn(move || child.wait());
}
