//! What a source asks before a move begins, as the first message of a link: whether the target has a place for it, and how
//! much room there is.
//!
//! A link on which a place was granted goes on with `hello`, and the place is taken for as long as the migration is under
//! way. A target that does not know the question ends the link: then the move begins without.

use drover_model::{Bytes, Explained, Finding, MigrationId, TargetRoom};
use serde::{Deserialize, Serialize};

use crate::Offer;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Question {
    /// Is there a place for a container?
    Reserve {
        /// Its migration.
        migration: MigrationId,
    },
    /// How much room is there?
    Room,
    /// What speaks against this container? It is not moved by that.
    Check(Box<Offer>),
    /// Has this come? How long that takes tells how fast the link is. Another question may follow.
    Weigh {
        /// Of no meaning.
        padding: String,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Answer {
    /// There is a place, and it is yours.
    Granted,
    /// As many containers arrive as may: ask again.
    Busy,
    /// No container is taken at all.
    Closed(Explained),
    /// There is so much room.
    Room(NodeRoom),
    /// This does.
    Checked {
        /// All that was found.
        findings: Vec<Finding>,
        /// What there is for the container; an older target does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room: Option<TargetRoom>,
    },
    /// All of it has come.
    Weighed,
}

/// How much room a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRoom {
    /// How many containers run there.
    pub running: u32,
    /// The memory that they could still get.
    pub memory: Bytes,
    /// Why it takes no container, if it takes none.
    pub closed: Option<Explained>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ToTarget, decode, encode};

    /// A link begins with either.
    #[test]
    fn a_question_is_no_message_of_a_migration_and_the_other_way_round() {
        let weigh = Question::Weigh { padding: "x".repeat(1_000) };
        for question in [Question::Reserve { migration: "0a".parse().unwrap() }, Question::Room, weigh] {
            assert_eq!(decode::<Question>(&encode(&question)).unwrap(), question);
            assert!(decode::<ToTarget>(&encode(&question)).is_err());
        }
        let hello = ToTarget::Hello { versions: (5, 5), node: "n1".parse().unwrap() };
        assert!(decode::<Question>(&encode(&hello)).is_err());
        let why = Explained { reason: "it is drained".into(), hint: None };
        let room = NodeRoom { running: 3, memory: Bytes(1 << 30), closed: Some(why.clone()) };
        for answer in [Answer::Granted, Answer::Busy, Answer::Closed(why), Answer::Room(room), Answer::Weighed] {
            assert_eq!(decode::<Answer>(&encode(&answer)).unwrap(), answer);
        }
        let older = decode::<Answer>(br#"{"type":"checked","findings":[]}"#).unwrap();
        assert_eq!(older, Answer::Checked { findings: Vec::new(), room: None });
    }
}
