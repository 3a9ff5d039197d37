//! TLS as Drover uses it: version 1.3, both sides show a certificate, one authority signs all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

/// The ALPN protocol of the HTTP API (HTTP/1.1 inside).
pub const API_PROTOCOL: &[u8] = b"drover-api/1";
/// The ALPN protocol of a migration link between two nodes.
pub const LINK_PROTOCOL: &[u8] = b"drover-link/1";

/// The PEM files of one side.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The cluster's certificate authority.
    pub ca: PathBuf,
    /// This side's certificate, followed by intermediate ones if there are any.
    pub cert: PathBuf,
    /// This side's key.
    pub key: PathBuf,
}

/// What one side shows and whom it trusts.
#[derive(Debug)]
pub struct Credentials {
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// For errors: where each of the three is from.
    files: TlsFiles,
}

/// Files of which no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("cannot read {what} from {path}")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// The authority's certificate cannot be trusted.
    #[error("cannot use the certificate authority in {path}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// No client can be checked against the authority.
    #[error("cannot check clients against the authority in {path}")]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key cannot be used together.
    #[error("cannot use certificate {cert} with key {key}")]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or holds something else.
    pub fn read(&self) -> Result<Credentials, TlsError> {
        let (roots, chain) = (certificates(&self.ca)?, certificates(&self.cert)?);
        Ok(Credentials { roots, chain, key: key(&self.key)?, files: self.clone() })
    }

    /// The configuration of a side that opens connections and speaks `protocol` over them.
    ///
    /// # Errors
    /// When the files cannot be read or do not fit each other.
    pub fn client(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        self.read()?.client(protocol)
    }

    /// The configuration of a side that accepts connections for both protocols, from holders of a certificate only.
    ///
    /// # Errors
    /// When the files cannot be read or do not fit each other.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.read()?.server()
    }
}

impl Credentials {
    /// The certificate of the authority, DER.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        // There is one: a file without any was refused.
        &self.roots[0]
    }

    /// The same authority with another key and certificate, of one PEM text that belongs into `path`.
    ///
    /// # Errors
    /// When the text does not hold them.
    pub fn with_identity(&self, text: &str, path: &Path) -> Result<Self, TlsError> {
        let files = TlsFiles { cert: path.to_owned(), key: path.to_owned(), ..self.files.clone() };
        let chain = certificates_in(text, path)?;
        Ok(Self { roots: self.roots.clone(), chain, key: key_in(text, path)?, files })
    }

    /// The three parts as PEM texts, out of a file.
    ///
    /// # Errors
    /// When a text does not hold what it should.
    pub fn of_text(authority: &str, certificate: &str, key: &str, path: &Path) -> Result<Self, TlsError> {
        let files = TlsFiles { ca: path.to_owned(), cert: path.to_owned(), key: path.to_owned() };
        let (roots, chain) = (certificates_in(authority, path)?, certificates_in(certificate, path)?);
        Ok(Self { roots, chain, key: key_in(key, path)?, files })
    }

    /// The certificate of this side.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // There is one: a file without any was refused.
        &self.chain[0]
    }

    /// The configuration of a side that opens connections and speaks `protocol` over them.
    ///
    /// # Errors
    /// When certificate and key do not fit each other.
    pub fn client(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| self.identity(source))?;
        let mut config = builder
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.identity(source))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The configuration of a side that accepts connections for both protocols, from holders of a certificate only. No
    /// session is resumed: each connection shows a certificate that is valid when it is opened.
    ///
    /// # Errors
    /// When certificate and key do not fit each other.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|source| TlsError::Verifier { path: self.files.ca.clone(), source })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| self.identity(source))?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|source| self.identity(source))?;
        config.alpn_protocols = vec![API_PROTOCOL.to_vec(), LINK_PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// The configuration of a side that asks for no certificate. Which protocol it speaks the caller says.
    ///
    /// # Errors
    /// When certificate and key do not fit each other.
    pub fn anonymous_server(&self) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| self.identity(source))?;
        let builder = builder.with_no_client_auth();
        let served = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        served.map_err(|source| self.identity(source))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.roots.iter().cloned() {
            roots.add(certificate).map_err(|source| TlsError::Authority { path: self.files.ca.clone(), source })?;
        }
        Ok(roots)
    }

    fn identity(&self, source: rustls::Error) -> TlsError {
        TlsError::Identity { cert: self.files.cert.clone(), key: self.files.key.clone(), source }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Read { what: "a certificate", path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Read {
        what: "a private key",
        path: path.to_owned(),
        source,
    })
}

fn certificates_in(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Read { what: "a certificate", path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(failed)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

fn key_in(text: &str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |source| TlsError::Read { what: "a private key", path: path.to_owned(), source };
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let files = TlsFiles { ca: path.clone(), cert: path.clone(), key: path.clone() };
        let missing = files.server().unwrap_err();
        assert_eq!(missing.to_string(), format!("cannot read a certificate from {}", path.display()));
        std::fs::write(&path, "no PEM at all\n").unwrap();
        assert!(matches!(files.client(API_PROTOCOL), Err(TlsError::Empty(empty)) if empty == path));
    }
}
