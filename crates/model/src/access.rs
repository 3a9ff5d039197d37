//! Who may do what: identities, roles, and the one decision about both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{NodeName, UserName};

/// What a user is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do everything.
    Admin,
    /// May do everything with containers, images, local volumes and moves; nothing with the cluster itself.
    Operator,
    /// Makes containers, and has only those and their volumes; may look at images.
    Owner,
    /// Looks at everything but what programs print and the values of their environment.
    Viewer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Owner, Self::Viewer];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Owner => "owner",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("use {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The agent of a node.
    Node(NodeName),
    /// A person, or a program of one.
    User(UserName),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// An identity, and what it is to the cluster at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Another node of the cluster.
    Peer(NodeName),
    /// A user of the cluster.
    User {
        /// The name.
        name: UserName,
        /// What it is allowed by.
        role: Role,
    },
    /// Whoever has a certificate of the cluster and is not, or no longer, known to it.
    Stranger(Identity),
}

impl Caller {
    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match self {
            Self::Peer(name) => Identity::Node(name.clone()),
            Self::User { name, .. } => Identity::User(name.clone()),
            Self::Stranger(identity) => identity.clone(),
        }
    }

    /// The user, if it is one.
    #[must_use]
    pub fn user(&self) -> Option<&UserName> {
        if let Self::User { name, .. } = self { Some(name) } else { None }
    }

    /// What it is allowed by, if it is a user.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        if let Self::User { role, .. } = self { Some(*role) } else { None }
    }

    /// Whether only what is its own exists for it.
    #[must_use]
    pub fn has_only_own(&self) -> bool {
        self.role() == Some(Role::Owner)
    }

    /// Whether it is shown the values of variables of environments, which often are secrets.
    #[must_use]
    pub fn sees_environment(&self) -> bool {
        self.role() != Some(Role::Viewer)
    }

    /// Whether it may look at something of a list that has this owner.
    #[must_use]
    pub fn sees(&self, action: Action, owner: Option<&UserName>) -> bool {
        decide(self, action, Object::One(owner)) == Verdict::Allowed
    }
}

/// What a route of the API does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Looking at the node and at the API's description.
    LookAtNode,
    /// Looking at containers: state, settings, usage, end.
    LookAtContainer,
    /// Reading what a container's program prints.
    ReadLogs,
    /// Making a container.
    MakeContainer,
    /// Starting, stopping, signalling, removing one.
    ChangeContainer,
    /// Connecting to its program, or running another one in it.
    EnterContainer,
    /// Moving it to another node, and calling that off.
    MoveContainer,
    /// Looking at moves.
    LookAtMigration,
    /// Saying whose the container of a move in doubt is, which may give it to the wrong node.
    ResolveMigration,
    /// Looking at the emptying of a node, which names the containers of all.
    LookAtDrain,
    /// Emptying a node, and letting it take containers again.
    DrainNode,
    /// Looking at images.
    LookAtImage,
    /// Making, bringing, sending and removing images.
    ChangeImage,
    /// Looking at volumes.
    LookAtVolume,
    /// Declaring a local volume.
    MakeVolume,
    /// Declaring a volume that shows what is elsewhere: a node mounts it as root.
    MakeSharedVolume,
    /// Removing a volume.
    RemoveVolume,
    /// Looking at copies of files.
    LookAtCopy,
    /// Removing a copy.
    RemoveCopy,
    /// Looking at the nodes and users of the cluster.
    LookAtCluster,
    /// Telling a node of a newer document, which it believes by its signature alone.
    TellCluster,
    /// Having the own certificate renewed.
    Renew,
    /// Adding and removing nodes and users.
    ChangeCluster,
    /// Reading who did what.
    ReadAudit,
}

impl Action {
    /// Whether it changes something, or gives somebody what is inside of a container.
    #[must_use]
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::LookAtNode
                | Self::LookAtContainer
                | Self::ReadLogs
                | Self::LookAtMigration
                | Self::LookAtDrain
                | Self::LookAtImage
                | Self::LookAtVolume
                | Self::LookAtCopy
                | Self::LookAtCluster
                | Self::TellCluster
                | Self::ReadAudit
        )
    }
}

/// What an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object<'a> {
    /// Nothing that somebody owns, or a list out of which the caller is shown what it may see.
    Any,
    /// One thing, and its owner if it has one.
    One(Option<&'a UserName>),
}

/// Whether an action is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Allowed,
    /// It is not, and the caller is told that it may not.
    Refused,
    /// It is not, and the caller is told that there is no such thing.
    Hidden,
}

/// Whether `caller` may do `action` to `object`. What is not allowed here is refused.
#[must_use]
pub fn decide(caller: &Caller, action: Action, object: Object<'_>) -> Verdict {
    use Action as A;
    let allowed = |holds| if holds { Verdict::Allowed } else { Verdict::Refused };
    let (name, role) = match caller {
        Caller::Stranger(_) => return Verdict::Refused,
        Caller::Peer(_) => return allowed(matches!(action, A::LookAtCluster | A::TellCluster | A::Renew)),
        Caller::User { name, role } => (name, role),
    };
    match role {
        Role::Admin => Verdict::Allowed,
        Role::Operator => {
            allowed(!matches!(action, A::ChangeCluster | A::TellCluster | A::ReadAudit | A::MakeSharedVolume))
        }
        Role::Viewer => allowed(matches!(
            action,
            A::LookAtNode
                | A::LookAtContainer
                | A::LookAtMigration
                | A::LookAtDrain
                | A::LookAtImage
                | A::LookAtVolume
                | A::LookAtCopy
                | A::LookAtCluster
                | A::Renew
        )),
        Role::Owner => match action {
            A::LookAtNode | A::LookAtImage | A::MakeContainer | A::MakeVolume | A::LookAtCluster | A::Renew => {
                Verdict::Allowed
            }
            A::LookAtContainer
            | A::ReadLogs
            | A::ChangeContainer
            | A::EnterContainer
            | A::MoveContainer
            | A::LookAtMigration
            | A::LookAtVolume
            | A::RemoveVolume
            | A::LookAtCopy
            | A::RemoveCopy => match object {
                Object::Any => Verdict::Allowed,
                Object::One(owner) if owner == Some(name) => Verdict::Allowed,
                Object::One(_) => Verdict::Hidden,
            },
            A::ResolveMigration
            | A::LookAtDrain
            | A::DrainNode
            | A::ChangeImage
            | A::MakeSharedVolume
            | A::ChangeCluster
            | A::TellCluster
            | A::ReadAudit => Verdict::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(role: Role) -> Caller {
        Caller::User { name: "alice".parse().unwrap(), role }
    }

    #[test]
    fn an_owner_has_only_what_is_its_own() {
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let decided = |owner| decide(&user(Role::Owner), Action::ChangeContainer, Object::One(owner));
        assert_eq!(decided(Some(&alice)), Verdict::Allowed);
        assert_eq!(decided(Some(&bob)), Verdict::Hidden);
        assert_eq!(decided(None), Verdict::Hidden);
        assert!(user(Role::Operator).sees(Action::LookAtContainer, Some(&bob)));
    }

    #[test]
    fn a_stranger_may_do_nothing_and_a_peer_nearly_nothing() {
        for action in [Action::LookAtNode, Action::LookAtContainer, Action::MoveContainer, Action::ChangeCluster] {
            let names = Identity::User("alice".parse().unwrap());
            assert_eq!(decide(&Caller::Stranger(names), action, Object::Any), Verdict::Refused);
            assert_eq!(decide(&Caller::Peer("n2".parse().unwrap()), action, Object::Any), Verdict::Refused);
        }
    }

    #[test]
    fn roles_survive_printing_and_parsing() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
