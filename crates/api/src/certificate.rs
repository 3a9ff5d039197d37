//! Whom a certificate names: the common name, what it may be used for, and which enrolment it belongs to.

use drover_model::{Identity, NodeName, UserName};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What Drover reads in a certificate that the handshake has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whom it names. A certificate that may serve (`serverAuth`) is a node's, every other a user's.
    pub identity: Identity,
    /// The organizational unit: the enrolment under which a cluster's authority has signed it.
    pub enrolment: Option<String>,
    /// Its validity in seconds since 1970: from, to.
    pub validity: (i64, i64),
}

impl Shown {
    /// Reads it; nothing when it names nobody, or could be read in two ways.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let subject = certificate.subject();
        let mut names = subject.iter_common_name();
        let name = names.next()?.as_str().ok()?;
        let mut units = subject.iter_organizational_unit();
        let enrolment = match units.next() {
            Some(unit) => Some(unit.as_str().ok()?.to_owned()),
            None => None,
        };
        // Two names would let a certificate be read in two ways.
        if names.next().is_some() || units.next().is_some() {
            return None;
        }
        let serves = certificate.extended_key_usage().ok()?.is_some_and(|usage| usage.value.server_auth);
        let identity = if serves {
            Identity::Node(name.parse::<NodeName>().ok()?)
        } else {
            Identity::User(name.parse::<UserName>().ok()?)
        };
        let validity = certificate.validity();
        let validity = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Some(Self { identity, enrolment, validity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

    fn shown(names: &[&str], unit: Option<&str>, usages: &[ExtendedKeyUsagePurpose]) -> Option<Shown> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        if let Some(unit) = unit {
            params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        }
        params.extended_key_usages = usages.to_vec();
        Shown::read(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn only_a_certificate_that_may_serve_is_a_nodes() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let node = shown(&["n1"], Some("e1"), &[ServerAuth, ClientAuth]).unwrap();
        assert_eq!(node.identity, Identity::Node("n1".parse().unwrap()));
        assert_eq!(node.enrolment.as_deref(), Some("e1"));
        for usages in [&[][..], &[ClientAuth]] {
            let user = shown(&["n1"], None, usages).unwrap();
            assert_eq!(user.identity, Identity::User("n1".parse().unwrap()));
        }
        assert_eq!(shown(&[], None, &[ClientAuth]), None);
        assert_eq!(shown(&["../x"], None, &[ClientAuth]), None);
        assert_eq!(Shown::read(b"no certificate"), None);
    }
}
