//! What the target has of a tree, as far as the source knows.

use std::collections::{BTreeMap, HashMap};

use drover_sys::file::Extent;
use rustix::fs::Stat;

use super::hash::{Hash, Hashes};
use crate::layer::TreePath;
use crate::layer::format::Kind;

/// What a look at an entry said. The same look again says that nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub inode: u64,
    pub size: u64,
    /// The change time; `None`: nobody can say whether it has changed since.
    pub changed: Option<(i64, u64)>,
}

impl Look {
    /// Of what nobody has looked at.
    pub const NEVER: Self = Self { inode: 0, size: 0, changed: None };

    /// What this look says, if the change time can be relied on: it can when it is older than `young`.
    pub fn new(stat: &Stat, young: (i64, u64)) -> Self {
        let changed = change_time(stat);
        Self { inode: stat.st_ino, size: stat.st_size as u64, changed: Some(changed).filter(|time| *time < young) }
    }

    /// Whether that is still so.
    pub fn stands(&self, stat: &Stat) -> bool {
        self.changed == Some(change_time(stat)) && self.inode == stat.st_ino && self.size == stat.st_size as u64
    }
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
fn change_time(stat: &Stat) -> (i64, u64) {
    (stat.st_ctime as i64, stat.st_ctime_nsec as u64)
}

/// The number of a file of the target's, or of what else is no directory: all its names have it.
pub(super) type Number = u64;

/// An entry of the target's.
#[derive(Debug)]
pub(super) struct Node {
    pub look: Look,
    pub kind: Kind,
    /// The name of its attributes.
    pub attributes: Hash,
    pub content: Content,
}

/// What is in it.
#[derive(Debug)]
pub(super) enum Content {
    Directory(Directory),
    /// Anything else: one that has several names has one number.
    File(Number),
}

/// The entries of a directory, by name.
pub(super) type Directory = BTreeMap<Vec<u8>, Node>;

/// A file of the target's.
#[derive(Debug)]
pub(super) struct File {
    pub kind: Kind,
    pub paths: Vec<TreePath>,
    /// Which file of the source's it is a copy of.
    pub inode: Option<u64>,
    pub size: u64,
    /// Its content by blocks; the last one may be shorter.
    pub hashes: Hashes,
    /// Where the source's lay on the disk when it was read.
    pub extents: Option<Vec<Extent>>,
    /// Whether the kernel has been telling since then which of its pages are written.
    pub watched: bool,
}

/// All of a tree.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The top itself.
    pub top: Option<Node>,
    pub files: HashMap<Number, File>,
    by_inode: HashMap<u64, Number>,
    next: Number,
}

impl Known {
    /// The target's copy of this one, if it has any.
    pub fn copy_of(&self, inode: u64, kind: Kind) -> Option<Number> {
        let number = *self.by_inode.get(&inode)?;
        self.files.get(&number).is_some_and(|file| file.kind == kind).then_some(number)
    }

    /// A new file of the target's, which is a copy of this one.
    pub fn new_file(&mut self, inode: u64, kind: Kind) -> Number {
        let number = self.told_file(kind);
        self.bind(number, inode);
        number
    }

    /// A file that the target has, and of which nobody knows yet what it is a copy of.
    pub fn told_file(&mut self, kind: Kind) -> Number {
        self.next += 1;
        let (paths, hashes) = (Vec::new(), Hashes::default());
        let file = File { kind, paths, inode: None, size: 0, hashes, extents: None, watched: false };
        self.files.insert(self.next, file);
        self.next
    }

    /// Forgets a file that has no name any more.
    pub fn forget(&mut self, number: Number) {
        if let Some(inode) = self.files.remove(&number).and_then(|file| file.inode)
            && self.by_inode.get(&inode) == Some(&number)
        {
            self.by_inode.remove(&inode);
        }
    }

    /// From now on the file is a copy of this one.
    pub fn bind(&mut self, number: Number, inode: u64) {
        if let Some(file) = self.files.get_mut(&number) {
            if let Some(old) = file.inode.replace(inode)
                && self.by_inode.get(&old) == Some(&number)
            {
                self.by_inode.remove(&old);
            }
            (file.extents, file.watched) = (None, false);
            self.by_inode.insert(inode, number);
        }
    }

    /// The entry at a path.
    pub fn node(&self, path: &TreePath) -> Option<&Node> {
        let mut node = self.top.as_ref()?;
        for name in names(path) {
            let Content::Directory(entries) = &node.content else { return None };
            node = entries.get(name)?;
        }
        Some(node)
    }

    fn directory_mut(&mut self, path: &TreePath) -> Option<&mut Directory> {
        let mut node = self.top.as_mut()?;
        for name in names(path) {
            let Content::Directory(entries) = &mut node.content else { return None };
            node = entries.get_mut(name)?;
        }
        match &mut node.content {
            Content::Directory(entries) => Some(entries),
            Content::File(_) => None,
        }
    }

    /// Puts an entry at a path. A directory that is there keeps what is in it.
    pub fn put(&mut self, path: &TreePath, node: Node) {
        let number = match node.content {
            Content::File(number) => Some(number),
            Content::Directory(_) => None,
        };
        if number.and_then(|number| self.files.get(&number)).is_some_and(|file| file.paths.contains(path)) {
            self.place(path, node);
        } else {
            self.put_new(path, node);
        }
    }

    /// Puts an entry at a path that nothing is at: a file with many names is not looked through for it.
    pub fn put_new(&mut self, path: &TreePath, node: Node) {
        if let Content::File(number) = node.content
            && let Some(file) = self.files.get_mut(&number)
        {
            file.paths.push(path.clone());
        }
        self.place(path, node);
    }

    fn place(&mut self, path: &TreePath, mut node: Node) {
        let slot = if path.is_top() {
            &mut self.top
        } else {
            let Some(directory) = self.directory_mut(&path.parent()) else { return };
            if let Some(old) = directory.get_mut(path.name()) {
                keep_entries(old, &mut node);
                *old = node;
            } else {
                directory.insert(path.name().to_vec(), node);
            }
            return;
        };
        if let Some(old) = slot {
            keep_entries(old, &mut node);
        }
        *slot = Some(node);
    }

    /// Forgets an entry and all in it. Files without a name are gone, but for those in `kept`.
    pub fn remove(&mut self, path: &TreePath, kept: impl Fn(Number) -> bool) {
        let Some(directory) = self.directory_mut(&path.parent()) else { return };
        let Some(node) = directory.remove(path.name()) else { return };
        let mut numbers = Vec::new();
        each_file(&node, path, &mut |path, number| numbers.push((path, number)));
        for (path, number) in numbers {
            let Some(file) = self.files.get_mut(&number) else { continue };
            file.paths.retain(|known| *known != path);
            if file.paths.is_empty() && !kept(number) {
                self.forget(number);
            }
        }
    }
}

fn keep_entries(old: &mut Node, new: &mut Node) {
    if let (Content::Directory(old), Content::Directory(new)) = (&mut old.content, &mut new.content)
        && new.is_empty()
    {
        *new = std::mem::take(old);
    }
}

/// The names of a path, from the top.
fn names(path: &TreePath) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// All at and below an entry that is no directory.
pub(super) fn each_file(node: &Node, path: &TreePath, each: &mut impl FnMut(TreePath, Number)) {
    match &node.content {
        Content::File(number) => each(path.clone(), *number),
        Content::Directory(entries) => {
            for (name, node) in entries {
                if let Ok(path) = path.child(name) {
                    each_file(node, &path, each);
                }
            }
        }
    }
}
