//! RESP2, the protocol that redis speaks, as far as GET and SET need it.
//!
//! The format is described in <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

/// The longest bulk string that is accepted, in bytes.
pub const LONGEST_BULK: usize = 64 << 20;
/// The longest first line of an answer that is accepted, in bytes.
const LONGEST_LINE: usize = 4096;

/// One answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+text`: done.
    Status(String),
    /// `-text`: refused.
    Error(String),
    /// `:number`.
    Integer(i64),
    /// `$length` and the bytes.
    Bulk(Vec<u8>),
    /// `$-1`: there is no such key.
    Missing,
}

/// Bytes that are no answer of a redis server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    /// The line does not end.
    #[error("an answer begins with a line of more than {LONGEST_LINE} bytes")]
    LongLine,
    /// The first byte names no type, or the number behind it is none.
    #[error("an answer begins with {0:?}")]
    Header(String),
    /// The length is beyond reason.
    #[error("an answer claims a length of {0} bytes")]
    LongBulk(usize),
    /// The bytes do not end where the length says.
    #[error("an answer does not end after the {0} bytes that it claims")]
    Unended(usize),
}

/// Reads the first answer in `input` and tells how many bytes it took; `None` when it has not come whole.
pub fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>, InvalidReply> {
    let window = &input[..input.len().min(LONGEST_LINE)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() == LONGEST_LINE { Err(InvalidReply::LongLine) } else { Ok(None) };
    };
    let line = String::from_utf8_lossy(&input[..end]);
    let start = end + 2;
    let invalid = || InvalidReply::Header(line.chars().take(40).collect());
    let mut rest = line.chars();
    let reply = match (rest.next(), rest.as_str()) {
        (Some('+'), text) => Reply::Status(text.to_owned()),
        (Some('-'), text) => Reply::Error(text.to_owned()),
        (Some(':'), number) => Reply::Integer(number.parse().map_err(|_| invalid())?),
        (Some('$'), "-1") => Reply::Missing,
        (Some('$'), length) => return bulk(input, start, length.parse().map_err(|_| invalid())?),
        _ => return Err(invalid()),
    };
    Ok(Some((reply, start)))
}

fn bulk(input: &[u8], start: usize, length: usize) -> Result<Option<(Reply, usize)>, InvalidReply> {
    if length > LONGEST_BULK {
        return Err(InvalidReply::LongBulk(length));
    }
    let end = start + length;
    match input.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some((Reply::Bulk(input[start..end].to_vec()), end + 2))),
        Some(_) => Err(InvalidReply::Unended(length)),
    }
}

/// Appends a command, an array of bulk strings, to `out`.
pub fn write_command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_answer_is_read() {
        let cases: [(&[u8], Reply); 6] = [
            (b"+OK\r\n", Reply::Status("OK".into())),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-7\r\n", Reply::Integer(-7)),
            (b"$-1\r\n", Reply::Missing),
            (b"$0\r\n\r\n", Reply::Bulk(vec![])),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(b"a\r\nb".to_vec())),
        ];
        for (bytes, reply) in cases {
            assert_eq!(parse(bytes), Ok(Some((reply, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{end} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [&b"hello\r\n"[..], b"$x\r\n", b"$-2\r\n", b"$999999999999\r\n", b"$1\r\nabc\r\n", b"\r\n", b":\r\n"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(&[b'+'; LONGEST_LINE]), Err(InvalidReply::LongLine));
    }
}
