//! Names and ids: short strings that were checked once, where they entered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A string that is no valid name or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no valid {what}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

/// The longest name or id in bytes: it must fit a host name label (RFC 1123).
const LONGEST: usize = 63;

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The text of it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(value: String) -> Result<Self, InvalidName> {
                let allowed: fn(char) -> bool = $allowed;
                let starts_well = value.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
                if starts_well && value.len() <= LONGEST && value.chars().all(allowed) {
                    Ok(Self(value))
                } else {
                    let value = value.chars().take(80).collect();
                    Err(InvalidName { what: $what, value, rule: $rule })
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::try_from(value.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_string!(
    /// The identity of a container over its whole life, on whatever node: 32 lower-case hexadecimal digits.
    ContainerId,
    "container id",
    "use up to 63 lower-case hexadecimal digits",
    |c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()
);
checked_string!(
    /// The name that people give a container; unique on a node and, by convention, in a cluster.
    ContainerName,
    "container name",
    "use up to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
);
checked_string!(
    /// The name of a node; the common name in its certificate.
    NodeName,
    "node name",
    "use up to 63 letters, digits, '.' or '-', beginning with a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
);
checked_string!(
    /// The identity of one migration: 16 lower-case hexadecimal digits.
    MigrationId,
    "migration id",
    "use up to 63 lower-case hexadecimal digits",
    |c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()
);
checked_string!(
    /// The name of a volume; unique on a node, and a directory's name there.
    VolumeName,
    "volume name",
    "use up to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
);

checked_string!(
    /// The name of a user; the common name in the user's certificate.
    UserName,
    "user name",
    "use up to 63 letters, digits, '.', '_', '-' or '@', beginning with a letter or digit",
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@')
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\0", "é", &"a".repeat(64)] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad:?}");
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
            assert!(bad.parse::<MigrationId>().is_err(), "{bad:?}");
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
        assert_eq!("web-1.a_b".parse::<ContainerName>().unwrap().as_str(), "web-1.a_b");
    }

    #[test]
    fn deserialising_checks_as_parsing_does() {
        assert!(serde_json::from_str::<NodeName>("\"n1\"").is_ok());
        assert!(serde_json::from_str::<NodeName>("\"n1/..\"").is_err());
    }
}
