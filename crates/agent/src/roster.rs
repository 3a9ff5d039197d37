//! Who is known to this node at a moment, and what each is to it.

use std::collections::BTreeMap;

use drover_api::Shown;
use drover_model::{Caller, Identity, NodeName, Role, UserName};

/// The peers and users that a node knows. Each has its enrolment, if certificates have to carry one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The other nodes.
    pub peers: BTreeMap<NodeName, Option<String>>,
    /// The users.
    pub users: BTreeMap<UserName, (Role, Option<String>)>,
}

impl Roster {
    /// What whoever shows this certificate is now.
    #[must_use]
    pub fn caller(&self, shown: &Shown) -> Caller {
        let is_enrolled = |enrolment: &Option<String>| enrolment.is_none() || *enrolment == shown.enrolment;
        match &shown.identity {
            Identity::Node(name) if self.peers.get(name).is_some_and(is_enrolled) => Caller::Peer(name.clone()),
            Identity::User(name) => match self.users.get(name) {
                Some((role, enrolment)) if is_enrolled(enrolment) => Caller::User { name: name.clone(), role: *role },
                _ => Caller::Stranger(shown.identity.clone()),
            },
            Identity::Node(_) => Caller::Stranger(shown.identity.clone()),
        }
    }

    /// Whether it is known at all.
    #[must_use]
    pub fn knows(&self, shown: &Shown) -> bool {
        !matches!(self.caller(shown), Caller::Stranger(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_not_enough_where_enrolments_are_known() {
        let roster = Roster {
            peers: [("n2".parse().unwrap(), Some("e2".into()))].into(),
            users: [
                ("alice".parse().unwrap(), (Role::Owner, Some("e3".into()))),
                ("bob".parse().unwrap(), (Role::Viewer, None)),
            ]
            .into(),
        };
        let knows = |identity: Identity, enrolment: Option<&str>| {
            roster.knows(&Shown { identity, enrolment: enrolment.map(str::to_owned), validity: (0, 0) })
        };
        let user = |name: &str| Identity::User(name.parse().unwrap());
        let node = |name: &str| Identity::Node(name.parse().unwrap());
        assert!(knows(node("n2"), Some("e2")) && knows(user("alice"), Some("e3")) && knows(user("bob"), None));
        assert!(!knows(node("n2"), None) && !knows(node("n2"), Some("e1")) && !knows(user("alice"), Some("e2")));
        assert!(!knows(user("n2"), Some("e2")) && !knows(node("alice"), Some("e3")) && !knows(user("carol"), None));
    }
}
