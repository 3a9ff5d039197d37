//! Fetching an image from elsewhere: only the layers that are missing here, each from where its transfer broke off.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use drover_model::Digest;
use rustix::fs::FlockOperation;

use super::layers::Held;
use super::tape::LONGEST_TAR;
use super::{Image, ImageError, ImageStore, config, digest_of, names, unpack};

/// How long a transfer that was given up may take to let go of what has come.
const LETS_GO: Duration = Duration::from_secs(2);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A layer that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Which.
    pub diff_id: Digest,
    /// How much of its tar is here already, in bytes.
    pub offset: u64,
}

/// An image that is being fetched. Its layers that are here stay while this is there.
#[derive(Debug)]
pub struct Fetch {
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    held: Vec<Held>,
    missing: Vec<Missing>,
}

/// A missing layer with what has come of its tar. Nobody else adds to that meanwhile.
#[derive(Debug)]
struct Missing {
    diff_id: Digest,
    /// None when somebody else fetches the same layer.
    partial: Option<Partial>,
}

/// A file that what comes is kept in until all has come.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Partial {
    /// How much is here, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds what comes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Reads what is here, from the beginning.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reader(&self) -> io::Result<impl Read + use<>> {
        Ok(File::open(&self.path)?.take(self.length))
    }

    /// Begins again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear(&mut self) -> io::Result<()> {
        self.length = 0;
        self.file.set_len(0)
    }

    /// It is not needed any more.
    pub fn remove(self) {
        // What cannot be removed now is pruned.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Keeps what passes, and remembers whether it broke off.
struct Keeping<'a, R> {
    input: R,
    partial: Option<&'a mut Partial>,
    broke: &'a mut bool,
}

impl<R: Read> Read for Keeping<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer).inspect_err(|_| *self.broke = true)?;
        if let Some(partial) = &mut self.partial {
            partial.append(&buffer[..length])?;
        }
        Ok(length)
    }
}

impl Fetch {
    fn next(&mut self) -> Option<Missing> {
        (!self.missing.is_empty()).then(|| self.missing.remove(0))
    }

    /// All layers of the image, the lowest first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.diff_ids.clone()
    }

    /// What is missing, the lowest layer first, in the order in which it is to be received.
    #[must_use]
    pub fn lacking(&self) -> Vec<Lacking> {
        let lacking = |missing: &Missing| Lacking {
            diff_id: missing.diff_id.clone(),
            offset: missing.partial.as_ref().map_or(0, Partial::length),
        };
        self.missing.iter().map(lacking).collect()
    }
}

impl ImageStore {
    /// Begins to fetch the image that has this configuration.
    ///
    /// # Errors
    /// When that is no configuration or another one than `expected`, or the store cannot be read.
    pub fn fetch(&self, expected: &Digest, config: &[u8]) -> Result<Fetch, ImageError> {
        let found = digest_of(config);
        if found != *expected {
            return Err(ImageError::Different { expected: expected.clone(), found });
        }
        let diff_ids = config::parse(config)?.diff_ids;
        self.await_partials(&diff_ids);
        let (held, missing) = (Vec::new(), Vec::new());
        let mut fetch = Fetch { config: config.to_owned(), diff_ids: diff_ids.clone(), held, missing };
        let book = self.lock()?;
        for diff_id in diff_ids {
            if fetch.held.iter().any(|held| held.diff_id == diff_id)
                || fetch.missing.iter().any(|missing| missing.diff_id == diff_id)
            {
                continue;
            }
            match self.layers.hold(&diff_id, &book)? {
                Some(held) => fetch.held.push(held),
                None => fetch.missing.push(Missing { partial: self.partial_of(diff_id.hex())?, diff_id }),
            }
        }
        Ok(fetch)
    }

    /// Waits for a moment for whoever adds to what has come of these layers: a transfer that was given up lets go of it a
    /// little later, and what comes next should go on from there.
    fn await_partials(&self, diff_ids: &[Digest]) {
        let until = Instant::now() + LETS_GO;
        for path in diff_ids.iter().map(|diff_id| self.partial().join(diff_id.hex())) {
            let is_taken = || {
                let file = File::open(&path).ok();
                file.is_some_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
            };
            while is_taken() && Instant::now() < until {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Reads the rest of the tar of the layer that is missing first, and makes it visible if it is that layer. What has come
    /// of one that breaks off is kept.
    ///
    /// # Errors
    /// When the tar breaks off, is damaged, or is another one.
    pub fn receive(&self, fetch: &mut Fetch, input: impl Read) -> Result<(), ImageError> {
        let Some(Missing { diff_id, mut partial }) = fetch.next() else { return Ok(()) };
        let mut broke = false;
        let known: Box<dyn Read> = match &partial {
            None => Box::new(io::empty()),
            Some(partial) => Box::new(partial.reader().map_err(ImageError::store("read", &partial.path))?),
        };
        let rest = Keeping { input, partial: partial.as_mut(), broke: &mut broke };
        let unpacked = self.unpack_layer(&diff_id, known.chain(rest));
        // What is whole and wrong is of no use, nor is what the disk has no room for.
        if let Some(partial) = partial.filter(|_| !broke) {
            partial.remove();
        }
        fetch.held.push(unpacked?);
        Ok(())
    }

    /// Reads the whole tar of the layer that is missing first, which whoever has it keeps if it breaks off.
    ///
    /// # Errors
    /// As for `receive`.
    pub fn receive_whole(&self, fetch: &mut Fetch, input: impl Read) -> Result<(), ImageError> {
        let Some(first) = fetch.missing.first() else { return Ok(()) };
        let held = self.unpack_layer(&first.diff_id, input)?;
        if let Some(Missing { partial: Some(partial), .. }) = fetch.next() {
            partial.remove();
        }
        fetch.held.push(held);
        Ok(())
    }

    fn unpack_layer(&self, diff_id: &Digest, input: impl Read) -> Result<Held, ImageError> {
        let staging = self.stage()?;
        let unpacked = unpack::unpack(staging.path(), input)?;
        if unpacked.diff_id != *diff_id {
            return Err(ImageError::Different { expected: diff_id.clone(), found: unpacked.diff_id });
        }
        self.admit(staging, &unpacked)
    }

    /// Makes an image visible all of whose layers have come, and gives it names. `reference` is where a registry has it.
    ///
    /// # Errors
    /// When a layer is missing, or the disk refuses.
    pub fn finish(
        &self,
        fetch: Fetch,
        names: &[String],
        reference: Option<&str>,
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        names.iter().try_for_each(|name| names::check(name))?;
        self.publish(&fetch.config, fetch.held, names, reference, now)
    }

    /// What has come of a transfer of this name, alone for as long as what is given is there; none while somebody else has
    /// it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn partial_of(&self, name: &str) -> Result<Option<Partial>, ImageError> {
        let path = self.partial().join(name);
        let failed = |error| ImageError::store("open", &path)(error);
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let length = file.metadata().map_err(failed)?.len();
        let mut partial = Partial { path: path.clone(), file, length };
        // Whoever had it before may have removed it in between.
        if length > LONGEST_TAR || !path.exists() {
            partial.clear().map_err(failed)?;
        }
        Ok(Some(partial))
    }

    /// Removes what has come of transfers that nobody goes on with now; gives of how many.
    pub(super) fn remove_partial(&self) -> Result<usize, ImageError> {
        let directory = self.partial();
        let mut removed = 0;
        for entry in std::fs::read_dir(&directory).map_err(ImageError::store("read", &directory))?.flatten() {
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                std::fs::remove_file(&path).map_err(ImageError::store("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
