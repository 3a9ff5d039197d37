//! What this kernel and this machine let us do, found by doing it on something of our own.

use std::io;
use std::process::{Child, Command, Stdio};

use crate::inject::make_descriptor;
use crate::map::Anonymous;
use crate::pagemap::{Category, Scan};
pub use crate::softdirty::probe as soft_dirty;
use crate::uffd::{self, Userfaultfd, feature};

const PAGE: u64 = 4096;
/// What is asked of a userfaultfd whose pages are brought while the process runs.
const EVENTS: u64 = feature::EVENT_FORK | feature::EVENT_REMAP | feature::EVENT_REMOVE | feature::EVENT_UNMAP;

/// Whether missing pages can be brought to where somebody waits for them.
///
/// # Errors
/// Why not.
pub fn userfaultfd() -> io::Result<()> {
    let descriptor = Userfaultfd::new()?;
    descriptor.agree(0)?;
    let memory = Anonymous::new(PAGE as usize)?;
    descriptor.register_missing(memory.address(), PAGE)?;
    descriptor.copy(memory.address(), &[7; PAGE as usize])?;
    if memory.read(0) == 7 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether we hear of forks, and of mappings that move or go, while pages are missing.
///
/// # Errors
/// Why not.
pub fn userfaultfd_events() -> io::Result<()> {
    Userfaultfd::new()?.agree(EVENTS)
}

/// Whether pages can be found by their kind (`PAGEMAP_SCAN`).
///
/// # Errors
/// Why not.
pub fn page_scan() -> io::Result<()> {
    let memory = Anonymous::new(2 * PAGE as usize)?;
    memory.write(0, 1);
    let (start, end) = (memory.address(), memory.address() + 2 * PAGE);
    let found = Scan::open(std::process::id())?.find(start, end, Category::Present)?;
    let page = start..start + PAGE;
    if found == std::slice::from_ref(&page) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether writes can be followed by write protection that lifts itself, also of pages that do not exist yet.
///
/// # Errors
/// Why not.
pub fn write_protection() -> io::Result<()> {
    let descriptor = Userfaultfd::new()?;
    descriptor.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED)?;
    let memory = Anonymous::new(2 * PAGE as usize)?;
    let (start, end) = (memory.address(), memory.address() + 2 * PAGE);
    descriptor.register_write_protection(start, 2 * PAGE)?;
    let scan = Scan::open(std::process::id())?;
    memory.write(0, 1);
    let first = scan.written(start, end)?;
    let second = scan.written(start, end)?;
    let page = start..start + PAGE;
    if first == std::slice::from_ref(&page) && second.is_empty() {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Whether a process can be made to make a descriptor for us: tried on a child.
///
/// # Errors
/// Why not.
pub fn injection() -> io::Result<()> {
    /// Ends, and is waited for, however this is left.
    struct Own(Child);
    impl Drop for Own {
        fn drop(&mut self) {
            // Neither fails for a child that was not waited for.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    // It waits for input that never comes.
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let child = Own(child);
    make_descriptor(child.0.id(), uffd::NUMBER, [uffd::FLAGS | uffd::USER_MODE_ONLY, 0, 0]).map(drop)
}

/// Whether the kernel knows this type of file system.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] when it does not (a module that is not loaded yet is not known).
pub fn file_system(name: &str) -> io::Result<()> {
    let known = std::fs::read_to_string("/proc/filesystems")?;
    let known = known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    if known { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_says_yes_where_the_means_work() {
        // Every kernel that Drover runs on.
        userfaultfd().unwrap();
        userfaultfd_events().unwrap();
        file_system("proc").unwrap();
        assert_eq!(file_system("nonsensefs").unwrap_err().kind(), io::ErrorKind::Unsupported);
        // What only newer ones have is found together or not at all.
        assert!(write_protection().is_err() || page_scan().is_ok());
        #[cfg(target_arch = "x86_64")]
        injection().unwrap();
    }
}
