//! The lab's own certificate authority, and a certificate for each node and for the user.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::plan::HostPlan;

/// How long every certificate is valid; a lab is made anew long before.
const VALID: Duration = Duration::days(3653);
/// How far the beginning of the validity lies in the past, for clocks that go wrong.
const BACKDATED: Duration = Duration::days(1);

/// A certificate authority whose key lives in memory alone.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    now: OffsetDateTime,
}

/// A certificate and its key, both as PEM.
pub(crate) struct Identity {
    /// The certificate.
    pub cert: String,
    /// The key, PKCS #8.
    pub key: String,
}

impl Authority {
    /// A new authority (ECDSA P-256).
    pub(crate) fn new(now: OffsetDateTime) -> Result<Self, rcgen::Error> {
        let mut params = parameters("drover lab", Vec::new(), now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?, now })
    }

    /// Its own certificate as PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate that serves and calls in the name of a host.
    pub(crate) fn host(&self, host: &HostPlan) -> Result<Identity, rcgen::Error> {
        let names = vec![host.name.to_string(), host.v4.to_string(), host.v6.to_string()];
        self.sign(
            host.name.as_str(),
            names,
            &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        )
    }

    /// The certificate of a user of the lab.
    pub(crate) fn user(&self, name: &str) -> Result<Identity, rcgen::Error> {
        self.sign(name, vec![name.to_owned()], &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn sign(
        &self,
        name: &str,
        names: Vec<String>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Identity, rcgen::Error> {
        let mut params = parameters(name, names, self.now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn parameters(name: &str, names: Vec<String>, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BACKDATED;
    params.not_after = now + VALID;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn every_identity_has_its_own_key_and_certificate() {
        let authority = Authority::new(OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)).unwrap();
        let plan = Plan::of(1);
        let node = authority.host(&plan.hosts[0]).unwrap();
        let user = authority.user("user").unwrap();
        assert!(node.cert.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(node.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_ne!(node.key, user.key);
        assert_ne!(authority.pem(), node.cert);
    }
}
