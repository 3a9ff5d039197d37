//! The cluster's certificate authority: it signs certificates of nodes and users, and the document.

use std::net::IpAddr;

use drover_api::{ClusterDocument, SignedDocument};
use drover_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use crate::directory::read;
use crate::token::fingerprint;
use crate::{ClusterError, Directory, document, write_private};

/// How long the authority's own certificate is valid.
const OWN_LIFETIME: Duration = Duration::days(3653);
/// How far the beginning of a validity lies in the past, for clocks that go wrong.
const BACKDATED: Duration = Duration::minutes(10);

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    der: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes one (ECDSA P-256), with its files.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make(directory: &Directory, cluster: &str, now: OffsetDateTime) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Certificate { attempt: "make the cluster's authority", source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("drover cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (now - BACKDATED, now + OWN_LIFETIME);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        directory.make_authority()?;
        write_private(&directory.authority_key(), key.serialize_pem().as_bytes())?;
        write_private(&directory.authority_certificate(), certificate.as_bytes())?;
        Self::of(&certificate, key)
    }

    /// Opens the one whose key is in a node's directory; none when the key is elsewhere.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn open(directory: &Directory) -> Result<Option<Self>, ClusterError> {
        if !directory.authority_key().exists() {
            return Ok(None);
        }
        let key = KeyPair::from_pem(&read(&directory.authority_key())?);
        let key = key.map_err(|source| ClusterError::Certificate { attempt: "read the authority's key", source })?;
        Self::of(&read(&directory.authority_certificate())?, key).map(Some)
    }

    fn of(certificate: &str, key: KeyPair) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Certificate { attempt: "read the authority's certificate", source };
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(failed)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| ClusterError::Authority)?;
        Ok(Self { issuer, certificate: certificate.to_owned(), der })
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its own certificate, DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// What it is known by before anybody trusts it: the SHA-256 of its certificate, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Signs a document.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn endorse(&self, document: &ClusterDocument) -> Result<SignedDocument, ClusterError> {
        document::endorse(document, self.issuer.key())
    }

    /// A certificate for the key of a request, followed by the authority's own. What else the request says is not looked at.
    ///
    /// # Errors
    /// When the request makes no sense or does not prove that its key is there.
    pub fn certify(
        &self,
        identity: &Identity,
        address: Option<IpAddr>,
        enrolment: &str,
        request: &str,
        (now, lifetime): (OffsetDateTime, Duration),
    ) -> Result<String, ClusterError> {
        let failed = |source| ClusterError::Certificate { attempt: "sign the certificate", source };
        let mut request = CertificateSigningRequestParams::from_pem(request).map_err(failed)?;
        let (name, names, usages) = match identity {
            Identity::Node(name) => {
                let names = [Some(name.to_string()), address.map(|address| address.to_string())];
                let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                (name.as_str(), names.into_iter().flatten().collect(), usages)
            }
            Identity::User(name) => (name.as_str(), Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth]),
        };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, enrolment);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (now - BACKDATED, now + lifetime);
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(failed)?;
        Ok(certificate.pem() + &self.certificate)
    }
}

#[cfg(test)]
mod tests {
    use drover_api::Shown;

    use super::*;
    use crate::KeyRequest;

    #[test]
    fn a_certificate_says_what_the_authority_says_and_not_the_request() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::make(&place.path().join("c")).unwrap();
        let now = OffsetDateTime::now_utc();
        Authority::make(&directory, "home", now).unwrap();
        let authority = Authority::open(&directory).unwrap().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.distinguished_name.push(DnType::CommonName, "n1");
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let asked = asked.serialize_request(&key).unwrap().pem().unwrap();
        let user = Identity::User("alice".parse().unwrap());
        let signed = authority.certify(&user, None, "e1", &asked, (now, Duration::days(7))).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(signed.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(chain[1].as_ref(), authority.certificate_der());
        let shown = Shown::read(&chain[0]).unwrap();
        assert_eq!((shown.identity, shown.enrolment.as_deref()), (user, Some("e1")));
        assert_eq!(shown.validity.1, (now + Duration::days(7)).unix_timestamp());
        let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert!(!parsed.is_ca());
        let node = Identity::Node("n1".parse().unwrap());
        let request = KeyRequest::new().unwrap().request;
        let broken = request.replacen('A', "B", 1);
        assert!(authority.certify(&node, None, "e2", &broken, (now, Duration::days(7))).is_err());
        let signed = authority.certify(&node, None, "e2", &request, (now, Duration::days(7))).unwrap();
        let leaf = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        assert_eq!(Shown::read(&leaf).unwrap().identity, node);
    }
}
