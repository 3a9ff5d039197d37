//! Where a registry has an image: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.

use std::fmt;
use std::str::FromStr;

use drover_model::Digest;

/// The registry of names without a host, by its name and where it really is.
const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";
/// The tag of names without one.
const LATEST: &str = "latest";
/// The longest repository and tag (OCI distribution specification, "Pulling manifests").
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry's name, with its port if it has one.
    pub host: String,
    /// The repository.
    pub repository: String,
    /// The tag; `latest` when neither tag nor digest were given.
    pub tag: Option<String>,
    /// The manifest's digest.
    pub digest: Option<Digest>,
}

/// A text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no image of a registry: expected [HOST/]REPOSITORY[:TAG][@DIGEST]")]
pub struct InvalidReference(pub String);

impl Reference {
    /// Where its registry listens, with a port if that is not the usual one.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.host == DOCKER { DOCKER_HOST } else { &self.host }
    }

    /// The manifest as registries are asked for it: the digest, or the tag.
    #[must_use]
    pub fn wanted(&self) -> &str {
        self.digest.as_ref().map_or_else(|| self.tag.as_deref().unwrap_or(LATEST), Digest::as_str)
    }

    /// The same repository with the digest of a manifest and no tag.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = || InvalidReference(text.chars().take(100).collect());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        // A first part without `.` or `:` is a repository's, but for this machine's own name.
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (path, None),
        };
        let repository = match (host, repository.contains('/')) {
            (DOCKER, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        let tag = tag.or_else(|| digest.is_none().then(|| LATEST.to_owned()));
        let fits = is_authority(host) && is_repository(&repository) && tag.as_deref().is_none_or(is_tag);
        if fits { Ok(Self { host: host.to_owned(), repository, tag, digest }) } else { Err(invalid()) }
    }
}

/// A name or an address with or without a port.
fn is_authority(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) if name.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
        Some(_) => return false,
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    !name.is_empty()
        && name.len() <= 253
        && name.chars().all(letters)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_repository(repository: &str) -> bool {
    let part = |part: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        part.chars().all(letters) && ends(part.chars().next()) && ends(part.chars().last()) && !part.contains("..")
    };
    repository.len() <= LONGEST_REPOSITORY && repository.split('/').all(part)
}

fn is_tag(tag: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !tag.is_empty() && tag.len() <= LONGEST_TAG && tag.chars().all(letters) && !tag.starts_with(['.', '-'])
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let digest = Digest::from_sha256([7; 32]);
        let by_digest = format!("localhost/a/b@{digest}");
        let both = format!("r.example:5000/a:1@{digest}");
        for (text, host, repository, wanted) in [
            ("redis", "docker.io", "library/redis", "latest"),
            ("redis:7", "docker.io", "library/redis", "7"),
            ("shop/web:1.2_x", "docker.io", "shop/web", "1.2_x"),
            ("localhost:5000/web", "localhost:5000", "web", "latest"),
            ("[::1]:5000/web:2", "[::1]:5000", "web", "2"),
            (&by_digest, "localhost", "a/b", digest.as_str()),
            (&both, "r.example:5000", "a", digest.as_str()),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.host.as_str(), reference.repository.as_str()), (host, repository), "{text}");
            assert_eq!(reference.wanted(), wanted);
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
        assert_eq!("redis".parse::<Reference>().unwrap().address(), "registry-1.docker.io");
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let long = format!("localhost/{}", "x".repeat(256));
        for bad in [
            "",
            "Redis",
            "a//b",
            "a/../b",
            "h.example/",
            "h.example/a:",
            "h.example/a:b/c?d",
            "h.example/a b",
            "a@sha256:1",
            "user@h.example/a",
            "h.example:99999/a",
            "[::1/a",
            "h.example/a:-x",
            "h.example/a#b",
            "h_x:1/a",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
