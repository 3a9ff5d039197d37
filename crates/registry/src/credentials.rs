//! Who asks: by name and password, given or read from a file as Docker keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The largest such file in bytes.
const LARGEST: u64 = 1 << 20;
/// What Docker calls its own registry in the file.
const DOCKER_KEYS: [&str; 3] = ["https://index.docker.io/v1/", "index.docker.io", "docker.io"];

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

/// A password is in no log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// As a header says it (RFC 7617).
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// A file of credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("cannot read credentials from {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not what Docker writes.
    #[error("cannot understand credentials in {0}")]
    Parse(PathBuf, #[source] serde_json::Error),
}

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
}

/// The credentials for a registry in a file such as `~/.docker/config.json`; none when there is no file, or nothing in it
/// for that registry. Programs that keep secrets elsewhere (`credHelpers`) are not asked.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn read_credentials(path: &Path, host: &str) -> Result<Option<Credentials>, CredentialsError> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|error| CredentialsError::Read(path.to_owned(), error))?,
    };
    let mut json = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut json);
    read.map_err(|error| CredentialsError::Read(path.to_owned(), error))?;
    let file: File = serde_json::from_slice(&json).map_err(|error| CredentialsError::Parse(path.to_owned(), error))?;
    Ok(file.auths.iter().find(|(key, _)| is_for(key, host)).and_then(|(_, entry)| entry.credentials()))
}

/// Whether a key of the file, a host or a URL, means this registry.
fn is_for(key: &str, host: &str) -> bool {
    if host == "docker.io" {
        return DOCKER_KEYS.contains(&key);
    }
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    key.split('/').next() == Some(host)
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.username.is_empty() {
            return Some(Credentials { user: self.username.clone(), password: self.password.clone() });
        }
        let text = String::from_utf8(STANDARD.decode(&self.auth).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Credentials { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_its_own_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert_eq!(read_credentials(&path, "h.example").unwrap(), None);
        let json = r#"{ "auths": { "h.example:5000": { "auth": "YW5uYTpzZTpjcmV0" }, "https://index.docker.io/v1/": {
            "username": "dora", "password": "x" }, "https://other.example/v2/": { "auth": "!" } }, "credsStore": "none" }"#;
        std::fs::write(&path, json).unwrap();
        let of = |host| read_credentials(&path, host).unwrap().map(|found| (found.user, found.password));
        assert_eq!(of("h.example:5000"), Some(("anna".into(), "se:cret".into())));
        assert_eq!(of("docker.io"), Some(("dora".into(), "x".into())));
        assert_eq!((of("h.example"), of("other.example")), (None, None));
        std::fs::write(&path, "[").unwrap();
        assert!(read_credentials(&path, "h.example").is_err());
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials { user: "anna".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
        assert_eq!(credentials.basic(), "Basic YW5uYTpzZWNyZXQ=");
    }
}
