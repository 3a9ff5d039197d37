//! The user's terminal: raw mode, size, keys.

use std::io::{self, IsTerminal, Read};

use drover_api::SessionInput;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// The terminal in raw mode; dropping it restores what was before.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input into raw mode; none when it is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Drain, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone has no mode.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the user's terminal; none when there is no terminal.
pub fn size() -> Option<SessionInput> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    Some(SessionInput::Resize { rows: size.ws_row, columns: size.ws_col })
}

/// How many pieces of input wait to be sent at most.
const KEYS_QUEUED: usize = 16;
/// The longest piece of input in bytes.
const PIECE: usize = 16 << 10;

/// Standard input piece by piece; the channel closes at its end. Read by a thread that ends with the process, since
/// a blocking read cannot be called off.
pub fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(KEYS_QUEUED);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            match io::stdin().read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An input that cannot be read has ended.
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    if sender.blocking_send(piece[..length].to_vec()).is_err() {
                        break;
                    }
                }
            }
        }
    });
    receiver
}

/// Finds the keys that detach in what is typed: ctrl-p ctrl-q.
#[derive(Debug, Default)]
pub struct DetachKeys {
    /// Whether the last key was a ctrl-p that has not been passed on.
    held: bool,
    /// Whether nothing is passed on: then ctrl-c detaches, too, for it can interrupt nothing else.
    listens: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;
    const INTERRUPT: u8 = 0x03;

    /// For a program that takes no input.
    pub fn of_a_listener() -> Self {
        Self { held: false, listens: true }
    }

    /// What of `typed` is to be passed on, and whether the user detaches.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        let mut detached = false;
        for &key in typed {
            let second = std::mem::take(&mut self.held);
            if (second && key == Self::SECOND) || (self.listens && key == Self::INTERRUPT) {
                detached = true;
                break;
            }
            if second {
                passed.push(Self::FIRST);
            }
            if key == Self::FIRST {
                self.held = true;
            } else {
                passed.push(key);
            }
        }
        if self.listens {
            passed.clear();
        }
        (passed, detached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_pieces() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ls\r\x10"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.filter(b"\x11 never sent"), (vec![], true));
    }

    #[test]
    fn other_keys_pass_unchanged() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"a\x11b\x10c"), (b"a\x11b\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
    }

    #[test]
    fn who_only_listens_detaches_by_the_same_keys_and_by_ctrl_c_and_passes_nothing_on() {
        let mut keys = DetachKeys::of_a_listener();
        assert_eq!(keys.filter(b"abc\x10"), (vec![], false));
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
        assert_eq!(DetachKeys::of_a_listener().filter(b"a\x03"), (vec![], true));
        assert_eq!(DetachKeys::default().filter(b"a\x03"), (b"a\x03".to_vec(), false));
    }
}
