//! The file that private mappings are made of.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, OnceLock};

use drover_sys::words::PAGE_WORDS;
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::torture::block::word;

/// Pages of the file. It crosses with the container's files, so it is small.
pub const PAGES: usize = 256;
/// The number by which its content is chosen.
const ID: u64 = 0x66_696c_6500_0000;

/// A file whose content nobody changes, with a name for as long as the program runs.
#[derive(Debug)]
pub struct PageFile {
    file: NamedTempFile,
    /// Opened once more, past the page cache, when it is first wanted.
    past_cache: OnceLock<Arc<File>>,
}

impl PageFile {
    /// Writes it to the directory for such files.
    pub fn new() -> io::Result<Self> {
        let mut file = NamedTempFile::new()?;
        for page in 0..PAGES {
            let words = (0..PAGE_WORDS).flat_map(|index| Self::word(page, index).to_ne_bytes());
            file.write_all(&words.collect::<Vec<u8>>())?;
        }
        file.as_file().sync_all()?;
        Ok(Self { file, past_cache: OnceLock::new() })
    }

    /// For mapping it.
    pub fn handle(&self) -> &File {
        self.file.as_file()
    }

    /// For reading it past the page cache.
    pub fn past_cache(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.past_cache.get() {
            return Ok(Arc::clone(file));
        }
        let direct = OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(direct).open(self.file.path())?;
        Ok(Arc::clone(self.past_cache.get_or_init(|| file.into())))
    }

    /// What it has.
    pub fn word(page: usize, index: usize) -> u64 {
        word(ID, page, 1, index)
    }
}
