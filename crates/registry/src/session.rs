//! How registries are reached: whom TLS trusts, and which need none.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::credentials::{Credentials, CredentialsError, read_credentials};

/// Where distributions keep the certificates of authorities that everybody trusts.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What a node's configuration says about registries.
#[derive(Debug, Clone)]
pub struct Access {
    pub(crate) tls: Arc<ClientConfig>,
    insecure: Vec<String>,
    credentials: Option<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file of certificates cannot be read.
    #[error("cannot read certificates from {0}")]
    Certificates(PathBuf, #[source] rustls_pki_types::pem::Error),
    /// A file of certificates has none.
    #[error("cannot find a certificate in {0}")]
    Empty(PathBuf),
    /// TLS cannot be set up.
    #[error("cannot set up TLS for registries")]
    Tls(#[from] rustls::Error),
}

impl Access {
    /// `authorities` are files of certificates in addition to those of the system; `insecure` are registries, with their
    /// ports, that may be spoken with in plain HTTP, as those of this machine may; `credentials` is a file as Docker keeps
    /// it.
    ///
    /// # Errors
    /// When a file of certificates cannot be read or has none.
    pub fn new(
        authorities: &[PathBuf],
        insecure: Vec<String>,
        credentials: Option<PathBuf>,
    ) -> Result<Self, AccessError> {
        let mut roots = RootCertStore::empty();
        if let Some(system) = SYSTEM.iter().map(Path::new).find(|path| path.exists()) {
            // One that cannot be read is one that nobody is trusted by.
            let certificates = CertificateDer::pem_file_iter(system).into_iter().flatten().flatten();
            roots.add_parsable_certificates(certificates);
        }
        for path in authorities {
            let failed = |error| AccessError::Certificates(path.clone(), error);
            let certificates: Vec<_> =
                CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
            if certificates.is_empty() {
                return Err(AccessError::Empty(path.clone()));
            }
            for certificate in certificates {
                roots.add(certificate)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), insecure, credentials })
    }

    /// The credentials that the node has for a registry.
    ///
    /// # Errors
    /// When its file cannot be read or understood.
    pub fn credentials(&self, host: &str) -> Result<Option<Credentials>, CredentialsError> {
        self.credentials.as_deref().map_or(Ok(None), |path| read_credentials(path, host))
    }

    /// Whether an authority, a host with or without a port, may be spoken with in plain HTTP.
    pub(crate) fn allows_plain(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        here || self.insecure.iter().any(|insecure| insecure == authority || insecure == host)
    }
}

/// The host of an authority, without port and brackets.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_who_is_named_may_go_without_tls() {
        let access = Access::new(&[], vec!["r.example:5000".into(), "s.example".into()], None).unwrap();
        for plain in ["localhost", "localhost:1", "127.0.0.9:5000", "[::1]:5000", "r.example:5000", "s.example:7"] {
            assert!(access.allows_plain(plain), "{plain}");
        }
        for secure in ["r.example", "r.example:5001", "10.0.0.1:5000", "localhost.example", "[::2]"] {
            assert!(!access.allows_plain(secure), "{secure}");
        }
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Access::new(&[file.path().into()], vec![], None), Err(AccessError::Empty(_))));
        assert!(matches!(Access::new(&["/nowhere".into()], vec![], None), Err(AccessError::Certificates(..))));
    }
}
