//! Looking at a tree: what is not as it was when it was looked at last.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::known::{Content, Known, Node};
use crate::layer::format::Kind;
use crate::layer::{LayerError, TreePath, names};
use crate::place::{Links, open_directory};

/// The most threads that look at a tree.
const THREADS: usize = 4;
/// Trees with fewer directories than this are looked at by one thread: to start others takes longer.
const FEW: usize = 16;

/// What a look at a tree has found.
#[derive(Debug)]
pub(super) enum Change {
    /// It is not there any more.
    Gone(TreePath),
    /// It is new, or not as it was.
    Found(TreePath, Stat),
}

impl Change {
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Gone(path) | Self::Found(path, _) => path,
        }
    }
}

/// What kind of entry that is, if it is one that travels.
pub(super) fn kind_of(stat: &Stat) -> Option<Kind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return None,
    })
}

/// Everything in the tree that is not as `known`, in the order of a walk. When times say nothing of its files, every file
/// counts as changed.
///
/// # Errors
/// When something cannot be looked at. What vanishes meanwhile counts as gone, or is found gone by the next look.
pub(super) fn scan(top: &OwnedFd, known: &Known, timeless: bool) -> Result<Vec<Change>, LayerError> {
    let scan = Scan { top, timeless };
    let mut changes = Vec::new();
    let Some(node) = &known.top else {
        let stat = rustix::fs::fstat(top).map_err(|errno| LayerError::file("look at", &TreePath::top(), errno))?;
        scan.walk_directory(top, TreePath::top(), stat, &mut changes)?;
        return Ok(changes);
    };
    let mut directories = Vec::new();
    gather(node, TreePath::top(), &mut directories);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if directories.len() < FEW { 1 } else { cores.clamp(1, THREADS) };
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Change>, LayerError> {
        let mut changes = Vec::new();
        while let Some((path, node)) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            scan.look_in(path, node, &mut changes)?;
        }
        Ok(changes)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        changes = work()?;
        for other in others {
            changes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, LayerError>(())
    })?;
    changes.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(changes)
}

/// All directories at and below a node.
fn gather<'a>(node: &'a Node, path: TreePath, into: &mut Vec<(TreePath, &'a Node)>) {
    let Content::Directory(entries) = &node.content else { return };
    let below: Vec<_> = entries
        .iter()
        .filter(|(_, node)| node.kind == Kind::Directory)
        .filter_map(|(name, node)| Some((path.child(name).ok()?, node)))
        .collect();
    into.push((path, node));
    below.into_iter().for_each(|(path, node)| gather(node, path, into));
}

struct Scan<'a> {
    top: &'a OwnedFd,
    timeless: bool,
}

impl Scan<'_> {
    /// Looks at a directory that is known, and at what is in it but other directories that are known.
    fn look_in(&self, path: &TreePath, node: &Node, changes: &mut Vec<Change>) -> Result<(), LayerError> {
        let failed = |errno| LayerError::file("look at", path, errno);
        let Content::Directory(entries) = &node.content else { return Ok(()) };
        let directory = match open_directory(self.top, path, OFlags::RDONLY, Links::Refused) {
            // The directory around it says so.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            result => result.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        if node.look.stands(&stat) {
            for (name, node) in entries.iter().filter(|(_, node)| node.kind != Kind::Directory) {
                self.look_at(&directory, path, name, node, changes)?;
            }
            return Ok(());
        }
        changes.push(Change::Found(path.clone(), stat));
        let names = names(directory.as_fd()).map_err(failed)?;
        for name in &names {
            match entries.get(name) {
                Some(node) if node.kind != Kind::Directory => self.look_at(&directory, path, name, node, changes)?,
                Some(_) => {
                    // Whether it still is one; if so it is looked at by itself.
                    if let Some(stat) = self.stat(&directory, path, name)?
                        && kind_of(&stat) != Some(Kind::Directory)
                    {
                        changes.push(Change::Found(child(path, name)?, stat));
                    }
                }
                None => self.walk(&directory, path, name, changes)?,
            }
        }
        // The names are in order.
        for name in entries.keys().filter(|name| names.binary_search(name).is_err()) {
            changes.push(Change::Gone(child(path, name)?));
        }
        Ok(())
    }

    /// Looks at an entry that was no directory.
    fn look_at(
        &self,
        directory: &OwnedFd,
        path: &TreePath,
        name: &[u8],
        node: &Node,
        changes: &mut Vec<Change>,
    ) -> Result<(), LayerError> {
        let Some(stat) = self.stat(directory, path, name)? else {
            changes.push(Change::Gone(child(path, name)?));
            return Ok(());
        };
        match kind_of(&stat) {
            Some(Kind::Directory) => self.walk(directory, path, name, changes),
            Some(kind) if kind == node.kind && node.look.stands(&stat) && !(self.timeless && kind == Kind::File) => {
                Ok(())
            }
            _ => {
                changes.push(Change::Found(child(path, name)?, stat));
                Ok(())
            }
        }
    }

    /// All of an entry that is new.
    fn walk(
        &self,
        directory: &OwnedFd,
        path: &TreePath,
        name: &[u8],
        changes: &mut Vec<Change>,
    ) -> Result<(), LayerError> {
        let Some(stat) = self.stat(directory, path, name)? else { return Ok(()) };
        let own = child(path, name)?;
        if kind_of(&stat) != Some(Kind::Directory) {
            changes.push(Change::Found(own, stat));
            return Ok(());
        }
        let opened = match open_directory(
            directory,
            &TreePath::top().child(name).map_err(unnamed(path))?,
            OFlags::RDONLY,
            Links::Refused,
        ) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            result => result.map_err(|errno| LayerError::file("look at", &own, errno))?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(|errno| LayerError::file("look at", &own, errno))?;
        self.walk_directory(&opened, own, stat, changes)
    }

    fn walk_directory(
        &self,
        directory: &OwnedFd,
        path: TreePath,
        stat: Stat,
        changes: &mut Vec<Change>,
    ) -> Result<(), LayerError> {
        let names = names(directory.as_fd()).map_err(|errno| LayerError::file("look at", &path, errno))?;
        changes.push(Change::Found(path.clone(), stat));
        names.iter().try_for_each(|name| self.walk(directory, &path, name, changes))
    }

    fn stat(&self, directory: &OwnedFd, path: &TreePath, name: &[u8]) -> Result<Option<Stat>, LayerError> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(LayerError::file("look at", &child(path, name)?, errno)),
        }
    }
}

fn unnamed(path: &TreePath) -> impl Fn(&'static str) -> LayerError + use<'_> {
    |_| LayerError::file("name what is in", path, Errno::NAMETOOLONG)
}

/// The path of an entry of a directory.
pub(super) fn child(path: &TreePath, name: &[u8]) -> Result<TreePath, LayerError> {
    path.child(name).map_err(unnamed(path))
}
