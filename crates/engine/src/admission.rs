//! How many links a peer may have at one time: each holds what has come of streams that nobody takes yet, 8 frames of each
//! (`link.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use drover_model::NodeName;

use crate::container::lock;

/// The most links from one peer: a migration has one, or two while one that broke is noticed.
const MOST: usize = 64;

/// How many each peer has.
#[derive(Debug, Default)]
pub(crate) struct Admissions(Mutex<BTreeMap<NodeName, usize>>);

/// One link of a peer's, for as long as this is there.
#[derive(Debug)]
pub(crate) struct Admitted {
    all: Arc<Admissions>,
    peer: NodeName,
}

impl Admissions {
    /// One more, unless there are too many.
    pub fn admit(self: &Arc<Self>, peer: &NodeName) -> Option<Admitted> {
        let mut links = lock(&self.0);
        let count = links.entry(peer.clone()).or_default();
        (*count < MOST).then(|| {
            *count += 1;
            Admitted { all: Arc::clone(self), peer: peer.clone() }
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(count) = lock(&self.all.0).get_mut(&self.peer) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_links_and_another_one_its_own() {
        let (all, one, two): (Arc<Admissions>, NodeName, NodeName) =
            (Arc::default(), "n1".parse().unwrap(), "n2".parse().unwrap());
        let mut held: Vec<_> = std::iter::repeat_with(|| all.admit(&one)).take(MOST).collect();
        assert!(held.iter().all(Option::is_some) && all.admit(&one).is_none());
        assert!(all.admit(&two).is_some());
        held.pop();
        assert!(all.admit(&one).is_some());
    }
}
