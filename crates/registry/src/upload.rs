//! A file as the body of a request, read by a thread of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The size of a piece in bytes, and how many wait to be sent at most.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

/// All of a file.
#[derive(Debug)]
pub(crate) struct FileBody {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    length: u64,
}

impl FileBody {
    /// Reading begins at once, and ends when nobody wants the rest.
    pub fn new(file: &File) -> io::Result<Self> {
        let (sender, pieces) = mpsc::channel(WAITING);
        let (file, length) = (file.try_clone()?, file.metadata()?.len());
        std::thread::spawn(move || {
            let mut offset = 0;
            let mut buffer = vec![0; PIECE];
            loop {
                let read = file.read_at(&mut buffer, offset).map(|length| Bytes::copy_from_slice(&buffer[..length]));
                offset += read.as_ref().map_or(0, |piece| piece.len() as u64);
                let over = read.as_ref().map_or(true, Bytes::is_empty);
                if read.as_ref().is_ok_and(Bytes::is_empty) || sender.blocking_send(read).is_err() || over {
                    return;
                }
            }
        });
        Ok(Self { pieces, length })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
