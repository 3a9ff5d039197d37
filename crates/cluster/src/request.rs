//! A key, and the request to sign it: made where the key is used.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::ClusterError;

/// A new key (ECDSA P-256), and a request for a certificate of it.
pub struct KeyRequest {
    /// The key, PKCS #8 PEM.
    pub key: String,
    /// The request, PKCS #10 PEM. It says nothing but the public key, and proves that the key is there.
    pub request: String,
}

impl KeyRequest {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no chance to be had from the machine.
    pub fn new() -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Certificate { attempt: "make a key", source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok(Self { key: key.serialize_pem(), request })
    }

    /// Key and certificates as one file.
    #[must_use]
    pub fn with(&self, certificates: &str) -> String {
        format!("{}{certificates}", self.key)
    }
}
