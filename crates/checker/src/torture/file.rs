//! The file that private mappings are made of.

use std::fs::File;
use std::io::{self, Write};

use drover_sys::words::PAGE_WORDS;
use tempfile::NamedTempFile;

use crate::torture::block::word;

/// Pages of the file. It crosses with the container's files, so it is small.
pub const PAGES: usize = 256;
/// The number by which its content is chosen.
const ID: u64 = 0x66_696c_6500_0000;

/// A file whose content nobody changes, with a name for as long as the program runs.
#[derive(Debug)]
pub struct PageFile(NamedTempFile);

impl PageFile {
    /// Writes it to the directory for such files.
    pub fn new() -> io::Result<Self> {
        let mut file = NamedTempFile::new()?;
        for page in 0..PAGES {
            let words = (0..PAGE_WORDS).flat_map(|index| Self::word(page, index).to_ne_bytes());
            file.write_all(&words.collect::<Vec<u8>>())?;
        }
        Ok(Self(file))
    }

    /// For mapping it.
    pub fn handle(&self) -> &File {
        self.0.as_file()
    }

    /// What it has.
    pub fn word(page: usize, index: usize) -> u64 {
        word(ID, page, 1, index)
    }
}
