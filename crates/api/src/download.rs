//! A file as it comes over a connection, with what the node says about it.

use bytes::Bytes;
use drover_model::NodeName;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{ClientError, OverlayReport};

/// An overlay on its way.
#[derive(Debug)]
pub struct OverlayDownload {
    report: OverlayReport,
    node: NodeName,
    body: Incoming,
    left: u64,
}

impl OverlayDownload {
    pub(crate) fn new(report: OverlayReport, node: NodeName, body: Incoming) -> Self {
        Self { left: report.bytes.0, report, node, body }
    }

    /// What it is made of.
    #[must_use]
    pub fn report(&self) -> &OverlayReport {
        &self.report
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// When the connection broke, or more or less came than the node said.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None if self.left == 0 => return Ok(None),
                None => return Err(ClientError::Ended { node: self.node.clone() }),
                Some(Err(source)) => return Err(ClientError::from_hyper(&self.node, source)),
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    let longer = ClientError::Answer { node: self.node.clone(), what: "it is too long", source: None };
                    self.left = self.left.checked_sub(piece.len() as u64).ok_or(longer)?;
                    return Ok(Some(piece));
                }
            }
        }
    }
}
