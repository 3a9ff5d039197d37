//! What a registry wants to know of whoever asks: `WWW-Authenticate` (RFC 7235) with the schemes `Basic` and `Bearer`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token that somebody else issues.
    Bearer {
        /// The issuer's URL.
        realm: String,
        /// For whom it shall be, if that is told.
        service: Option<String>,
        /// For what it shall be, if that is told.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the header's value.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let find =
            |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        Some(Self::Bearer {
            realm: find("realm")?.clone(),
            service: find("service").cloned(),
            scope: find("scope").cloned(),
        })
    }

    /// The URL that gives the token; none for a scheme without.
    #[must_use]
    pub fn token_url(&self) -> Option<String> {
        let Self::Bearer { realm, service, scope } = self else { return None };
        let mut url = realm.clone();
        for (key, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                let mark = if url.contains('?') { '&' } else { '?' };
                url.push_str(&format!("{mark}{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
            }
        }
        Some(url)
    }
}

/// `key="value", key=value`; a value in quotes may have commas in it.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_owned();
        let value = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, rest) = quoted.split_once('"').unwrap_or((quoted, ""));
                text = rest;
                value
            }
            None => {
                let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
                text = rest;
                value.trim()
            }
        };
        found.push((key, value.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(header).unwrap();
        let expected = "https://auth.example/token?service=r%2Eexample&scope=repository%3Aa%2Fb%3Apull%2Cpush";
        assert_eq!(challenge.token_url().unwrap(), expected);
        assert_eq!(Challenge::parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        assert_eq!(
            Challenge::parse("bearer realm=https://a.example/t").unwrap().token_url().unwrap(),
            "https://a.example/t"
        );
        for bad in ["", "Digest x", "Bearer", "Bearer service=\"x\"", "Bearer realm"] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
    }
}
