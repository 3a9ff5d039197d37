//! Changes the rate of the nodes' links while a lab is up.

use drover_model::Bandwidth;

use crate::error::StepError;
use crate::lock::Lock;
use crate::network::{self, NetworkError, SWITCH};
use crate::place::{Place, PlaceError};
use crate::record::Record;

/// A rate that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The environment names no place.
    #[error("cannot find the lab's place")]
    Place(#[from] PlaceError),
    /// There is no lab.
    #[error("cannot find a lab")]
    NoLab,
    /// A step failed.
    #[error("cannot set the rate of the lab's links")]
    Step(#[from] StepError),
    /// The network refused.
    #[error("cannot set the rate of the lab's links")]
    Network(#[from] NetworkError),
}

impl LinkError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Place(error) => error.hint(),
            Self::NoLab => Some("make one with: drover lab up".into()),
            Self::Network(error) => error.hint(),
            Self::Step(_) => None,
        }
    }
}

/// Sets the rate of every node's link in both directions; none for no limit.
///
/// # Errors
/// When there is no lab or the kernel refuses.
pub fn set_link(rate: Option<Bandwidth>) -> Result<(), LinkError> {
    let place = Place::from_environment()?;
    let _lock = Lock::take()?;
    let mut record = Record::read(&place)?.ok_or(LinkError::NoLab)?;
    for node in record.plan().nodes() {
        network::set_rate(&place.namespace(SWITCH), &place.namespace(node.name.as_str()), node, rate)?;
    }
    record.link = rate;
    Ok(record.write(&place)?)
}
