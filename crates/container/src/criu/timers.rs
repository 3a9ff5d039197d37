//! Letting periodic timers (`timerfd_create(2)`) go on that had expired and were not read yet when they were dumped.
//!
//! The kernel sets such a timer again only when it is read; until then `/proc/PID/fdinfo` says that nothing remains of its
//! time, and CRIU writes that down. Nothing remaining is what `timerfd_settime(2)` takes for "disarm": restored, the timer
//! would be read once and never expire again. So the image says that a whole interval remains, from now.
//!
//! Source of the format: CRIU's `images/fdinfo.proto` and `images/timerfd.proto`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::wire::Fields;

/// `file_entry.tfd`.
const TIMER: u64 = 12;
/// Fields of `timerfd_entry`.
const TICKS: u64 = 5;
const FLAGS: u64 = 6;
const REMAINS: [u64; 2] = [7, 8];
const INTERVAL: [u64; 2] = [9, 10];
/// An image begins with two magic numbers; each of its messages with its length.
const MAGIC: usize = 8;
const LENGTH: usize = 4;

/// Changes the image of open files.
///
/// # Errors
/// When it can be neither read nor written.
pub(crate) fn let_expire(images: &Path) -> io::Result<()> {
    let image = images.join("files.img");
    let Some(changed) = rearm(&fs::read(&image)?) else { return Ok(()) };
    let temporary = PathBuf::from(format!("{}.new", image.display()));
    fs::write(&temporary, changed)?;
    fs::rename(temporary, image)
}

/// The image of open files (`files.img`) with all timers set that wait to be read, if there is one.
#[must_use]
pub fn rearm(image: &[u8]) -> Option<Vec<u8>> {
    let (magic, mut rest) = image.split_at_checked(MAGIC)?;
    let (mut changed, mut any) = (magic.to_vec(), false);
    while let Some((length, after)) = rest.split_at_checked(LENGTH) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        let (entry, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        let new = timer(entry);
        any |= new.is_some();
        let entry = new.as_deref().unwrap_or(entry);
        changed.extend(u32::try_from(entry.len()).ok()?.to_le_bytes());
        changed.extend(entry);
    }
    (any && rest.is_empty()).then_some(changed)
}

/// The entry of a periodic timer with its time set, if it has expired and was not read since.
fn timer(entry: &[u8]) -> Option<Vec<u8>> {
    let mut file = Fields::parse(entry)?;
    let mut timer = file.message(TIMER)?;
    let zero = |fields: [u64; 2]| fields.iter().all(|&field| timer.number(field) == Some(0));
    // One that is disarmed has no ticks: setting it has taken them away.
    if timer.number(TICKS)? == 0 || !zero(REMAINS) || zero(INTERVAL) {
        return None;
    }
    for (remains, interval) in REMAINS.into_iter().zip(INTERVAL) {
        timer.set_number(remains, timer.number(interval)?);
    }
    // What remains is no time of a clock.
    timer.set_number(FLAGS, 0);
    file.set_message(TIMER, &timer);
    Some(file.encode())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Timer {
        #[prost(uint32, required, tag = "1")]
        id: u32,
        #[prost(uint64, required, tag = "5")]
        ticks: u64,
        #[prost(uint32, required, tag = "6")]
        flags: u32,
        #[prost(uint64, required, tag = "7")]
        seconds: u64,
        #[prost(uint64, required, tag = "8")]
        nanoseconds: u64,
        #[prost(uint64, required, tag = "9")]
        interval_seconds: u64,
        #[prost(uint64, required, tag = "10")]
        interval_nanoseconds: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct File {
        #[prost(uint32, required, tag = "1")]
        kind: u32,
        #[prost(uint32, required, tag = "2")]
        id: u32,
        #[prost(message, optional, tag = "12")]
        timer: Option<Timer>,
    }

    const PERIODIC: Timer = Timer {
        id: 3,
        ticks: 1,
        flags: 1,
        seconds: 0,
        nanoseconds: 0,
        interval_seconds: 0,
        interval_nanoseconds: 10_000_000,
    };

    fn image(timer: Option<Timer>) -> Vec<u8> {
        let mut image = vec![7; MAGIC];
        for timer in [None, timer] {
            let entry = File { kind: 17, id: 3, timer }.encode_to_vec();
            image.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
            image.extend(entry);
        }
        image
    }

    /// Seen: a periodic timer stood still for ever after a move, when it had expired while its program stood still.
    #[test]
    fn a_periodic_timer_that_had_expired_unread_goes_on() {
        let set = Timer { nanoseconds: 10_000_000, flags: 0, ..PERIODIC };
        assert_eq!(rearm(&image(Some(PERIODIC))), Some(image(Some(set))));
    }

    #[test]
    fn other_timers_and_files_stay() {
        for timer in [
            Timer { ticks: 0, ..PERIODIC },
            Timer { nanoseconds: 1, ..PERIODIC },
            Timer { interval_nanoseconds: 0, ..PERIODIC },
        ] {
            assert_eq!(rearm(&image(Some(timer))), None);
        }
        assert_eq!(rearm(&image(None)), None);
    }

    #[test]
    fn an_image_of_files_that_makes_no_sense_stays() {
        let whole = image(Some(PERIODIC));
        for end in 0..whole.len() {
            assert!(rearm(&whole[..end]).is_none(), "{end}");
        }
        assert_eq!(rearm(&[0xff; 64]), None);
    }
}
