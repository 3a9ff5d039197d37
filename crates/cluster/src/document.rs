//! Signing the cluster's document, and believing it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use drover_api::{ClusterDocument, SignedDocument};
use rcgen::SigningKey;
use rustls::SignatureScheme;
use rustls::crypto::ring;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ClusterError;

/// What is signed begins with this: a signature of a document can be none of a certificate.
const PREFIX: &str = "drover cluster document 1\n";

/// Signs a document with the authority's key.
///
/// # Errors
/// When the key cannot sign.
pub fn endorse(document: &ClusterDocument, key: &impl SigningKey) -> Result<SignedDocument, ClusterError> {
    // Names and numbers are always JSON.
    let text = serde_json::to_string(document).unwrap_or_default();
    let signature = key.sign(format!("{PREFIX}{text}").as_bytes());
    let signature = signature.map_err(|source| ClusterError::Certificate { attempt: "sign the document", source })?;
    Ok(SignedDocument { document: text, signature: BASE64_STANDARD.encode(signature) })
}

/// The document, when the authority of this certificate (DER) has signed it.
///
/// # Errors
/// When it has not.
pub fn believe(signed: &SignedDocument, authority: &[u8]) -> Result<ClusterDocument, ClusterError> {
    let (_, certificate) = X509Certificate::from_der(authority).map_err(|_| ClusterError::Authority)?;
    let key = &certificate.public_key().subject_public_key.data;
    let signature = BASE64_STANDARD.decode(&signed.signature).map_err(|_| ClusterError::Unsigned)?;
    let provider = ring::default_provider();
    let mapping = provider.signature_verification_algorithms.mapping;
    let known = mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    let algorithm = known.and_then(|(_, algorithms)| {
        // For this scheme keys of several curves are listed; the authority's is P-256.
        algorithms.iter().find(|algorithm| algorithm.public_key_alg_id() == rustls_pki_types::alg_id::ECDSA_P256)
    });
    let algorithm = algorithm.ok_or(ClusterError::Unsigned)?;
    let message = format!("{PREFIX}{}", signed.document);
    let verified = algorithm.verify_signature(key, message.as_bytes(), &signature);
    verified.map_err(|_| ClusterError::Unsigned)?;
    serde_json::from_str(&signed.document).map_err(|_| ClusterError::Unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Directory};

    #[test]
    fn only_what_the_authority_has_signed_is_believed() {
        let now = time::OffsetDateTime::now_utc();
        let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, theirs] = places.each_ref().map(|place| {
            let directory = Directory::make(&place.path().join("c")).unwrap();
            Authority::make(&directory, "home", now).unwrap()
        });
        let document = ClusterDocument {
            cluster: "home".into(),
            version: 7,
            signed_at: String::new(),
            authority: "n1".parse().unwrap(),
            certificate_days: 7,
            nodes: vec![],
            users: vec![],
        };
        let signed = ours.endorse(&document).unwrap();
        assert_eq!(believe(&signed, ours.certificate_der()).unwrap(), document);
        assert!(believe(&signed, theirs.certificate_der()).is_err());
        let newer = signed.document.replace("\"version\":7", "\"version\":8");
        assert!(believe(&SignedDocument { document: newer, ..signed.clone() }, ours.certificate_der()).is_err());
        assert!(believe(&SignedDocument { signature: String::new(), ..signed }, ours.certificate_der()).is_err());
    }
}
