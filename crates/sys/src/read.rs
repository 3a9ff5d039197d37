//! Reading another process's memory: many ranges in one call.

use std::io;
use std::ops::Range;

/// The most ranges in one call, `UIO_MAXIOV` of the kernel.
pub const MOST_RANGES: usize = 1024;

/// Reads ranges of the memory of process `pid` into `into`, one behind the other. How many bytes were read: fewer than
/// there are when a page cannot be read, or there is no room for more.
///
/// # Errors
/// When nothing at all can be read: the process has gone, may not be read, or has nothing at the first address.
pub fn read_process(pid: u32, ranges: &[Range<u64>], into: &mut [u8]) -> io::Result<usize> {
    let process = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST_RANGES];
    let ranges = &ranges[..ranges.len().min(MOST_RANGES)];
    for (range, vector) in ranges.iter().zip(&mut remote) {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| io::ErrorKind::InvalidInput)?;
        *vector = libc::iovec { iov_base: range.start as *mut libc::c_void, iov_len: length };
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the kernel writes into `into` alone and no more than its length; the other addresses are not ours, it
    // checks them, and there are as many of them as it is told.
    let read = unsafe { libc::process_vm_readv(process, &raw const local, 1, remote.as_ptr(), ranges.len() as u64, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::map::Anonymous;

    #[test]
    fn ranges_come_one_behind_the_other_up_to_what_cannot_be_read() {
        let memory = Anonymous::new(3 * 4096).unwrap();
        memory.write(0, 1);
        memory.write(2 * 4096, 3);
        let (own, at) = (std::process::id(), memory.address());
        let mut into = vec![9; 2 * 4096];
        assert_eq!(read_process(own, &[at..at + 4096, at + 8192..at + 12288], &mut into).unwrap(), 8192);
        assert_eq!((into[0], into[1], into[4096]), (1, 0, 3));
        assert_eq!(read_process(own, &[at..at + 4096, 0..4096], &mut into).unwrap(), 4096);
        assert!(read_process(own, from_ref(&(0..4096)), &mut into).is_err());
        assert_eq!(read_process(own, from_ref(&(at..at + 12288)), &mut into[..100]).unwrap(), 100);
    }
}
