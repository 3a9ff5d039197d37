//! The log of a container as it comes over a connection: one JSON record a line.

use bytes::{Buf, BytesMut};
use drover_model::NodeName;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{ClientError, LogRecord};

/// The longest line of a log in bytes; the node cuts lines far earlier.
const LONGEST_LINE: usize = 4 << 20;

/// The log records of an answer, as they come.
#[derive(Debug)]
pub struct LogLines {
    node: NodeName,
    body: Incoming,
    buffer: BytesMut,
    /// This much of the buffer holds no newline.
    searched: usize,
    ended: bool,
}

impl LogLines {
    pub(crate) fn new(node: NodeName, body: Incoming) -> Self {
        Self { node, body, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    /// The next record; none at the end. May be dropped half-way: nothing is lost.
    ///
    /// # Errors
    /// When the connection broke or the node sent something else.
    pub async fn next(&mut self) -> Result<Option<LogRecord>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                return serde_json::from_slice(&line).map(Some).map_err(|error| self.answer(Some(error)));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                return Err(self.answer(None));
            }
            if self.ended {
                return if self.buffer.is_empty() { Ok(None) } else { Err(self.answer(None)) };
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(source)) => return Err(ClientError::from_hyper(&self.node, source)),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }

    fn answer(&self, source: Option<serde_json::Error>) -> ClientError {
        ClientError::Answer { node: self.node.clone(), what: "it is no log", source }
    }
}
