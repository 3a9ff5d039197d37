//! The memory that a machine has left for what arrives.
//!
//! What was offered is checked before a move begins; a container grows meanwhile, others arrive beside it, and a peer may
//! send what it likes.

use std::io;

use drover_model::Bytes;

/// How much may arrive before it is looked anew, in bytes.
const STEP: u64 = 16 << 20;
/// This part of a machine's memory is left to what runs on it already.
const SPARE: u64 = 32;

/// Why nothing more may arrive.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// What there is cannot be seen.
    #[error("cannot see how much memory is left")]
    Look(#[source] io::Error),
    /// There is too little.
    #[error("too little memory is left for what arrives: {available} of {total}")]
    Full {
        /// What is available.
        available: Bytes,
        /// What the machine has.
        total: Bytes,
    },
    /// It is more than was offered.
    #[error("more memory arrives than was offered: over {0}")]
    Offered(Bytes),
}

/// A machine's memory, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MachineMemory {
    /// All of it.
    pub total: u64,
    /// What programs may still use without swapping: `MemAvailable` of `proc_meminfo(5)`.
    pub available: u64,
}

impl MachineMemory {
    /// Looks at `/proc/meminfo`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let kib = line.and_then(|line| line.strip_suffix("kB")?.trim().parse::<u64>().ok());
            kib.and_then(|kib| kib.checked_mul(1024)).ok_or(io::ErrorKind::InvalidData)
        };
        Ok(Self { total: bytes("MemTotal:")?, available: bytes("MemAvailable:")? })
    }
}

/// The room for one stream.
#[derive(Debug)]
pub struct Room {
    look: fn() -> io::Result<MachineMemory>,
    unlooked: u64,
    /// The most that may be kept, in bytes.
    most: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(MachineMemory::look)
    }
}

impl Room {
    pub(crate) fn of(look: fn() -> io::Result<MachineMemory>) -> Self {
        Self { look, unlooked: 0, most: u64::MAX }
    }

    /// Room for so much at most, however much the machine has.
    #[must_use]
    pub fn within(most: Bytes) -> Self {
        Self { most: most.0, ..Self::default() }
    }

    /// So many bytes will be kept in all.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), RoomError> {
        if bytes > self.most { Err(RoomError::Offered(Bytes(self.most))) } else { Ok(()) }
    }

    /// So many bytes are about to be written.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), RoomError> {
        self.unlooked = self.unlooked.saturating_add(bytes);
        if self.unlooked < STEP {
            return Ok(());
        }
        self.unlooked = 0;
        let MachineMemory { total, available } = (self.look)().map_err(RoomError::Look)?;
        if available < total / SPARE {
            return Err(RoomError::Full { available: Bytes(available), total: Bytes(total) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_s_memory_is_seen() {
        let MachineMemory { total, available } = MachineMemory::look().unwrap();
        assert!(0 < available && available <= total, "{available} of {total}");
    }

    #[test]
    fn no_more_is_kept_than_was_offered() {
        let room = Room::within(Bytes(8192));
        assert!(room.hold(8192).is_ok());
        let refused = room.hold(8193).unwrap_err().to_string();
        assert_eq!(refused, "more memory arrives than was offered: over 8.0 KiB");
        assert!(Room::default().hold(u64::MAX).is_ok());
    }

    #[test]
    fn what_would_take_the_last_memory_is_refused() {
        let full = || Ok(MachineMemory { total: 64 << 30, available: 1 << 30 });
        let mut room = Room::of(full);
        assert!(room.take(STEP - 1).is_ok());
        assert_eq!(
            room.take(1).unwrap_err().to_string(),
            "too little memory is left for what arrives: 1.0 GiB of 64.0 GiB"
        );
    }
}
