//! The files of a node of a cluster.
//!
//! ```text
//! TOP/ca.pem                  the authority's certificate
//! TOP/node.pem                the node's key, its certificate, the authority's: one file, so that they never differ
//! TOP/document.json           the newest document that was seen
//! TOP/agent.toml              the agent's configuration
//! TOP/authority/key.pem       the authority's key, on one node
//! TOP/authority/tokens.json   hashes of tokens that nobody has used yet
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use drover_api::tls::TlsFiles;

use crate::ClusterError;

/// The mode of directories, and of files.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A directory with a node's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    top: PathBuf,
}

impl Directory {
    /// An existing one.
    #[must_use]
    pub fn at(top: &Path) -> Self {
        Self { top: top.to_owned() }
    }

    /// Makes one, for nobody else to look into.
    ///
    /// # Errors
    /// When it belongs to a cluster already, or the disk refuses.
    pub fn make(top: &Path) -> Result<Self, ClusterError> {
        let top = std::path::absolute(top).map_err(|source| failed("find", top, source))?;
        let directory = Self { top };
        if directory.authority_certificate().exists() || directory.node().exists() {
            return Err(ClusterError::Taken(directory.top));
        }
        directory.make_private(&directory.top)?;
        Ok(directory)
    }

    fn make_private(&self, path: &Path) -> Result<(), ClusterError> {
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
        let made = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE)));
        made.map_err(|source| failed("make", path, source))
    }

    /// Makes the part that only the authority's node has.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make_authority(&self) -> Result<(), ClusterError> {
        self.make_private(&self.top.join("authority"))
    }

    /// The directory itself.
    #[must_use]
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority_certificate(&self) -> PathBuf {
        self.top.join("ca.pem")
    }

    /// The authority's key.
    #[must_use]
    pub fn authority_key(&self) -> PathBuf {
        self.top.join("authority/key.pem")
    }

    /// The tokens that nobody has used.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.top.join("authority/tokens.json")
    }

    /// The node's key and certificates.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.top.join("node.pem")
    }

    /// The newest document.
    #[must_use]
    pub fn document(&self) -> PathBuf {
        self.top.join("document.json")
    }

    /// The agent's configuration.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.top.join("agent.toml")
    }

    /// The files for TLS.
    #[must_use]
    pub fn tls(&self) -> TlsFiles {
        TlsFiles { ca: self.authority_certificate(), cert: self.node(), key: self.node() }
    }
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<String, ClusterError> {
    fs::read_to_string(path).map_err(|source| failed("read", path, source))
}

/// Writes a file that nobody else may read, durably and in one step: it is never seen half-written, nor with another mode.
///
/// # Errors
/// When the disk refuses.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), ClusterError> {
    let write = || -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        // What an interrupted attempt left may have another mode, or be a link to somewhere else.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| failed("write", path, source))
}

fn failed(attempt: &'static str, path: &Path, source: io::Error) -> ClusterError {
    ClusterError::File { attempt, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_secrets_are_for_nobody_else_whatever_lay_there_before() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::make(&place.path().join("a/cluster")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(directory.top()), 0o700);
        let elsewhere = place.path().join("elsewhere");
        fs::write(&elsewhere, "public").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.top().join("node.pem.new")).unwrap();
        write_private(&directory.node(), b"secret").unwrap();
        assert_eq!((mode(&directory.node()), fs::read_to_string(&elsewhere).unwrap()), (0o600, "public".into()));
        assert!(matches!(Directory::make(directory.top()), Err(ClusterError::Taken(_))));
    }
}
