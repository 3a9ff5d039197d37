//! One round over one tree: from what has changed to what the target shall do, in an order in which nothing is lost.
//!
//! 1. Files that lose all their names and get others are put aside.
//! 2. What is gone, or is something else now, is removed.
//! 3. What is new or changed is made, in the order of a walk: put back, linked, written.
//! 4. Directories in which something was done get their attributes, times among them.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::fd::OwnedFd;

use drover_sys::written::WrittenPages;
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::chunks::Chunks;
use super::content::{self, LARGE, Reading, Suspects};
use super::hash::{self, Hash};
use super::known::{Content, Look, Node, Number, each_file};
use super::record::{Body, Record};
use super::scan::{Change, kind_of};
use super::source::{Tally, Travelling};
use crate::layer::format::{Attributes, Kind};
use crate::layer::{LayerError, TreePath, attributes};
use crate::place::{Links, open_directory};
use crate::xattr;

/// A round that is being sent.
pub(super) struct Round<'a, W> {
    pub tree: &'a mut Travelling,
    pub written: Option<&'a WrittenPages>,
    /// What the target has beside the trees.
    pub chunks: Option<&'a mut Chunks>,
    /// Whether programs may go on writing.
    pub live: bool,
    /// Change times from this one on may stand still.
    pub young: (i64, u64),
    pub out: &'a mut W,
    pub buffer: &'a mut [u8],
    pub tally: &'a mut Tally,
    /// The directory that was opened last.
    pub parent: Option<(TreePath, OwnedFd)>,
}

/// What becomes of files, by the changes of all entries.
#[derive(Default)]
struct Fates {
    /// The names that files lose.
    lost: HashMap<Number, HashSet<TreePath>>,
    /// The source's files that were found under a name that is new or changed.
    found: HashSet<(u64, Kind)>,
    /// Those that the target has put aside.
    aside: HashSet<Number>,
    /// Those whose content has been seen to, with the name of their attributes.
    done: HashMap<Number, Hash>,
    /// Directories in which something was done.
    touched: HashSet<TreePath>,
}

impl<W: Write> Round<'_, W> {
    /// Sends what has changed, in the order of a walk.
    pub fn send(mut self, changes: &[Change]) -> Result<(), LayerError> {
        let mut fates = self.fates(changes);
        self.put_aside(&mut fates)?;
        self.remove(changes, &mut fates)?;
        for change in changes {
            let Change::Found(path, stat) = change else { continue };
            match kind_of(stat) {
                Some(Kind::Directory) => self.directory(path, stat, &mut fates)?,
                Some(Kind::File) => self.file(path, stat, &mut fates)?,
                Some(kind) => self.other(kind, path, stat, &mut fates)?,
                None => return Err(LayerError::file("name the kind of", path, Errno::INVAL)),
            }
        }
        for change in changes {
            if let Change::Found(path, stat) = change
                && kind_of(stat) == Some(Kind::Directory)
            {
                self.finish_directory(path, stat, &fates)?;
            }
        }
        // Found nowhere any more; the target forgets them, too.
        for number in fates.aside {
            self.tree.known.forget(number);
        }
        Ok(())
    }

    fn fates(&self, changes: &[Change]) -> Fates {
        let known = &self.tree.known;
        let mut fates = Fates::default();
        for change in changes {
            let path = change.path();
            if let Change::Found(_, stat) = change
                && let Some(kind) = kind_of(stat)
            {
                fates.found.insert((stat.st_ino, kind));
            }
            let Some(node) = known.node(path) else { continue };
            let stays = match (change, &node.content) {
                (Change::Gone(_), _) => false,
                (Change::Found(_, stat), Content::File(number)) => {
                    kind_of(stat).is_some_and(|kind| known.copy_of(stat.st_ino, kind) == Some(*number))
                }
                (Change::Found(_, stat), Content::Directory(_)) => kind_of(stat) == Some(Kind::Directory),
            };
            if !stays {
                each_file(node, path, &mut |path, number| {
                    fates.lost.entry(number).or_default().insert(path);
                });
            }
        }
        // A file that another one has replaced under all its names becomes that one: much of it may be the same.
        let (mut heirs, mut inherited, mut seen) = (HashMap::new(), HashMap::new(), HashSet::new());
        for change in changes {
            let Change::Found(path, stat) = change else { continue };
            // Under the name that comes first: one that is made there before is what other names are links to.
            let is_first = seen.insert(stat.st_ino);
            let Some(Node { kind: Kind::File, content: Content::File(number), .. }) = known.node(path) else {
                continue;
            };
            let (number, inode) = (*number, stat.st_ino);
            let is_new = kind_of(stat) == Some(Kind::File) && known.copy_of(inode, Kind::File).is_none();
            let inherits = match (heirs.get(&inode), inherited.get(&number)) {
                (None, None) => is_first && is_new && !self.lives_on(number, &fates),
                (heir, by) => heir == Some(&number) && by == Some(&inode),
            };
            if inherits && let Some(lost) = fates.lost.get_mut(&number) {
                lost.remove(path);
                heirs.insert(inode, number);
                inherited.insert(number, inode);
            }
        }
        fates
    }

    /// Whether a file that loses names has others, or gets them.
    fn lives_on(&self, number: Number, fates: &Fates) -> bool {
        let Some(file) = self.tree.known.files.get(&number) else { return false };
        let lost = fates.lost.get(&number).map_or(0, HashSet::len);
        file.paths.len() > lost || file.inode.is_some_and(|inode| fates.found.contains(&(inode, file.kind)))
    }

    fn put_aside(&mut self, fates: &mut Fates) -> Result<(), LayerError> {
        // On a file system in memory there is no room beside the tree; what is there is small.
        if self.tree.in_memory {
            return Ok(());
        }
        let known = &self.tree.known;
        let moved = fates.lost.iter().filter(|(number, lost)| {
            known.files.get(number).is_some_and(|file| {
                let found = file.inode.is_some_and(|inode| fates.found.contains(&(inode, file.kind)));
                file.paths.len() == lost.len() && found
            })
        });
        let moved: Vec<_> = moved.filter_map(|(number, lost)| Some((*number, lost.iter().min()?.clone()))).collect();
        for (number, path) in moved {
            self.record(&Record::Aside(path.clone(), number))?;
            self.tree.known.remove(&path, |other| other == number);
            fates.touched.insert(path.parent());
            fates.aside.insert(number);
        }
        Ok(())
    }

    fn remove(&mut self, changes: &[Change], fates: &mut Fates) -> Result<(), LayerError> {
        for change in changes {
            let path = change.path();
            let Some(node) = self.tree.known.node(path) else { continue };
            let goes = match change {
                Change::Gone(_) => true,
                Change::Found(_, stat) if kind_of(stat) != Some(node.kind) => true,
                Change::Found(..) => match node.content {
                    Content::File(number) => fates.lost.get(&number).is_some_and(|lost| lost.contains(path)),
                    Content::Directory(_) => false,
                },
            };
            if goes && !path.is_top() {
                self.record(&Record::Remove(path.clone()))?;
                self.tally.entries += 1;
                let aside = &fates.aside;
                self.tree.known.remove(path, |number| aside.contains(&number));
                fates.touched.insert(path.parent());
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &TreePath, stat: &Stat, fates: &mut Fates) -> Result<(), LayerError> {
        if self.tree.known.node(path).is_some() {
            return Ok(());
        }
        let Some(attributes) = self.attributes(path, stat)? else { return Ok(()) };
        let name = hash::of_entry(Kind::Directory, &attributes, &[]);
        self.record(&Record::Make(path.clone(), attributes, Body::Directory))?;
        self.tally.entries += 1;
        // Its times change again while it is filled.
        fates.touched.extend([path.parent(), path.clone()]);
        let content = Content::Directory(Default::default());
        self.tree.known.put(path, Node { look: Look::NEVER, kind: Kind::Directory, attributes: name, content });
        Ok(())
    }

    fn finish_directory(&mut self, path: &TreePath, stat: &Stat, fates: &Fates) -> Result<(), LayerError> {
        let Some(node) = self.tree.known.node(path) else { return Ok(()) };
        let before = node.attributes;
        let Some(attributes) = self.attributes(path, stat)? else { return Ok(()) };
        let name = hash::of_entry(Kind::Directory, &attributes, &[]);
        if name != before || fates.touched.contains(path) {
            self.record(&Record::Make(path.clone(), attributes, Body::Directory))?;
        }
        let (look, content) = (Look::new(stat, self.young), Content::Directory(Default::default()));
        self.tree.known.put(path, Node { look, kind: Kind::Directory, attributes: name, content });
        Ok(())
    }

    fn other(&mut self, kind: Kind, path: &TreePath, stat: &Stat, fates: &mut Fates) -> Result<(), LayerError> {
        let body = match kind {
            Kind::Symlink => {
                if !self.enter(path)? {
                    return Ok(());
                }
                let Some((_, parent)) = &self.parent else { return Ok(()) };
                match rustix::fs::readlinkat(parent, path.name(), Vec::new()) {
                    Ok(target) => Body::Symlink(target.into_bytes()),
                    // Gone, or something else by now: the next round will see that.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(LayerError::file("read", path, errno)),
                }
            }
            _ => Body::of_node(kind, stat),
        };
        let Some(attributes) = self.attributes(path, stat)? else { return Ok(()) };
        let name = hash::of_entry(kind, &attributes, &body.bytes());
        let before = self.tree.known.node(path).map(|node| node.attributes);
        let (number, _) = self.number(kind, path, stat.st_ino, fates)?;
        if fates.done.insert(number, name).is_none() && before != Some(name) {
            self.record(&Record::Make(path.clone(), attributes, body))?;
            self.tally.entries += 1;
            fates.touched.insert(path.parent());
        }
        let (look, content) = (Look::new(stat, self.young), Content::File(number));
        self.tree.known.put(path, Node { look, kind, attributes: name, content });
        Ok(())
    }

    fn file(&mut self, path: &TreePath, found: &Stat, fates: &mut Fates) -> Result<(), LayerError> {
        if !self.enter(path)? {
            return Ok(());
        }
        let inode = found.st_ino;
        let large = u64::try_from(found.st_size).unwrap_or(0) >= LARGE;
        // In this order: what is written after it was asked belongs to the next round.
        let written = self.written.filter(|_| large && !self.tree.in_memory);
        let pages = written.and_then(|written| written.take(inode));
        if let Some(written) = written.filter(|_| self.live) {
            written.watch(inode);
        }
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let Some(reading) = Reading::open(parent, path, self.live && !self.tree.in_memory)? else { return Ok(()) };
        // Another file by now: the next round will see that.
        if reading.stat.st_ino != inode {
            return Ok(());
        }
        // Before anything is said of it: whoever is told of a file must get it.
        let watched = written.is_some();
        let Some(attributes) = self.attributes(path, &reading.stat)? else { return Ok(()) };
        let (number, is_new) = self.number(Kind::File, path, inode, fates)?;
        let name = match fates.done.get(&number) {
            Some(name) => *name,
            None => self.content(path, &reading, attributes, number, is_new, pages, watched)?,
        };
        fates.done.insert(number, name);
        let mut look = Look::new(&reading.stat, self.young);
        look.changed = look.changed.filter(|_| !reading.unsure);
        let content = Content::File(number);
        self.tree.known.put(path, Node { look, kind: Kind::File, attributes: name, content });
        Ok(())
    }

    /// Which of the target's files that is, under this name from now on, and whether it is a new one.
    fn number(
        &mut self,
        kind: Kind,
        path: &TreePath,
        inode: u64,
        fates: &mut Fates,
    ) -> Result<(Number, bool), LayerError> {
        let known = &mut self.tree.known;
        let here = known.node(path).and_then(|node| match node.content {
            Content::File(number) => Some(number),
            Content::Directory(_) => None,
        });
        let copy = known.copy_of(inode, kind);
        if let Some(number) = here {
            // One that was replaced and is not removed is inherited.
            if copy != here {
                known.bind(number, inode);
            }
            return Ok((number, false));
        }
        fates.touched.insert(path.parent());
        if let Some(number) = copy {
            self.tally.entries += 1;
            if fates.aside.remove(&number) {
                self.record(&Record::Back(path.clone(), number))?;
                return Ok((number, false));
            }
            let first = self.tree.known.files.get(&number).and_then(|file| file.paths.first()).cloned();
            if let Some(first) = first {
                self.record(&Record::Link(path.clone(), first))?;
                return Ok((number, false));
            }
        }
        Ok((self.tree.known.new_file(inode, kind), true))
    }

    /// Sends what of a file's content and attributes the target does not have; gives the name of the attributes.
    #[expect(clippy::too_many_arguments, reason = "what `file` has found out, used in one place")]
    fn content(
        &mut self,
        path: &TreePath,
        reading: &Reading,
        attributes: Attributes,
        number: Number,
        is_new: bool,
        pages: Option<drover_sys::written::Pages>,
        watched: bool,
    ) -> Result<Hash, LayerError> {
        let before = self.tree.known.node(path).map(|node| node.attributes);
        let name = hash::of_entry(Kind::File, &attributes, &[]);
        let Some(file) = self.tree.known.files.get_mut(&number) else { return Ok(name) };
        let extents = watched.then(|| reading.extents()).flatten();
        let suspects = Suspects::new(file, pages, extents.as_ref());
        let record = Record::File(path.clone(), reading.size());
        let mut begun = is_new;
        let begin = |out: &mut W| record.write(out);
        if is_new {
            begin(self.out).map_err(LayerError::Write)?;
            file.size = reading.size();
        }
        let sent = content::send(reading, file, &suspects, self.chunks.as_deref_mut(), self.out, self.buffer, |out| {
            if !std::mem::replace(&mut begun, true) {
                begin(out)?;
            }
            Ok(())
        })?;
        // Watched only from now on it was read whole.
        (file.extents, file.watched) = (extents, watched && self.live);
        self.tally.content += sent;
        if begun || before != Some(name) {
            if !begun {
                begin(self.out).map_err(LayerError::Write)?;
            }
            Record::Attributes(attributes).write(self.out).map_err(LayerError::Write)?;
            self.tally.entries += 1;
        }
        Ok(name)
    }

    /// Opens the directory around an entry; whether it is there, and the target has it. One that was gone for a moment the
    /// target has not been told of.
    fn enter(&mut self, path: &TreePath) -> Result<bool, LayerError> {
        let directory = path.parent();
        let known = self.tree.known.node(&directory);
        if !path.is_top() && !known.is_some_and(|node| matches!(node.content, Content::Directory(_))) {
            return Ok(false);
        }
        if self.parent.as_ref().is_none_or(|(open, _)| *open != directory) {
            self.parent = match open_directory(&self.tree.top, &directory, OFlags::RDONLY, Links::Refused) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                result => {
                    let opened = result.map_err(|errno| LayerError::file("open", &directory, errno))?;
                    Some((directory, opened))
                }
            };
        }
        Ok(self.parent.is_some())
    }

    /// All attributes of an entry; `None` when it is gone.
    fn attributes(&mut self, path: &TreePath, stat: &Stat) -> Result<Option<Attributes>, LayerError> {
        if !self.enter(path)? {
            return Ok(None);
        }
        let Some((_, parent)) = &self.parent else { return Ok(None) };
        match xattr::read(parent, path.name()) {
            Ok(xattrs) => Ok(Some(attributes(stat, xattrs))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(LayerError::file("read", path, errno)),
        }
    }

    fn record(&mut self, record: &Record) -> Result<(), LayerError> {
        record.write(self.out).map_err(LayerError::Write)
    }
}
