//! What a program said before we were attached to it. The log has all of it, and perhaps some of what the stream
//! brings as well.

use drover_api::{LogRecord, LogStream};

/// Output, in order.
pub type Output = Vec<(LogStream, Vec<u8>)>;

/// Whether all that was `streamed` is the beginning of the log, which has more: the stream is only late, for it begins
/// where the log does.
pub fn is_late(log: &[LogRecord], streamed: &Output) -> bool {
    let mut logged = log.iter().flat_map(|record| record.text.bytes());
    let begun = streamed.iter().flat_map(|(_, bytes)| bytes).all(|byte| logged.next() == Some(*byte));
    begun && logged.next().is_some()
}

/// The log, and after it what of `streamed` is not its end already.
pub fn join(log: Vec<LogRecord>, streamed: Output) -> Output {
    let mut output: Output = log.into_iter().map(|record| (record.stream, record.text.into_bytes())).collect();
    let logged: Vec<u8> = output.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let came: Vec<u8> = streamed.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let longest = logged.len().min(came.len());
    let mut twice = (0..=longest).rev().find(|&length| logged.ends_with(&came[..length])).unwrap_or(0);
    for (stream, mut bytes) in streamed {
        let cut = twice.min(bytes.len());
        twice -= cut;
        bytes.drain(..cut);
        if !bytes.is_empty() {
            output.push((stream, bytes));
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use LogStream::{Stderr, Stdout};

    fn joined(log: &[&str], streamed: &[(LogStream, &str)]) -> String {
        let record = |&text: &&str| LogRecord { time_ns: 0, stream: Stdout, text: text.into() };
        let log = log.iter().map(record).collect();
        let streamed = streamed.iter().map(|&(stream, text)| (stream, text.as_bytes().to_vec())).collect();
        let bytes = join(log, streamed).into_iter().flat_map(|(_, bytes)| bytes).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_stream_that_has_not_caught_up_is_late() {
        let log = [LogRecord { time_ns: 0, stream: Stdout, text: "ab\n".into() }];
        let late = |streamed: &str| is_late(&log, &vec![(Stdout, streamed.as_bytes().to_vec())]);
        assert_eq!(["", "a", "ab\n", "ab\nc", "b"].map(late), [true, true, false, false, false]);
        assert!(!is_late(&[], &Vec::new()));
    }

    #[test]
    fn nothing_is_lost_and_nothing_said_twice() {
        assert_eq!(joined(&["a\n", "b\n"], &[(Stdout, "b\n"), (Stderr, "c\n")]), "a\nb\nc\n");
        assert_eq!(joined(&["a\n"], &[(Stdout, "b\n")]), "a\nb\n");
        assert_eq!(joined(&[], &[(Stdout, "b\n")]), "b\n");
        assert_eq!(joined(&["a\nb"], &[(Stdout, "a\n"), (Stdout, "bc")]), "a\nbc");
        assert_eq!(joined(&["a\n"], &[]), "a\n");
    }
}
