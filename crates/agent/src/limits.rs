//! The bounds of what an agent serves, each with a name and a default.

use std::time::Duration;

use serde::Deserialize;

/// The bounds of a server's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of those who have shown a certificate, at one time; more wait.
    pub connections: usize,
    /// Of them, those of one identity.
    pub connections_per_identity: usize,
    /// Connections that have not shown a certificate yet; when there are more, the oldest ends.
    pub handshakes: usize,
    /// Of them, those from one address (IPv6: from one network of 64 bits); when there are more, its oldest ends.
    pub handshakes_per_address: usize,
    /// How long a TLS handshake, and then a request's head, may take.
    pub handshake: Duration,
    /// How long open requests get to finish when the server stops.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_identity: 256,
            handshakes: 256,
            handshakes_per_address: 32,
            handshake: Duration::from_secs(10),
            farewell: Duration::from_secs(10),
        }
    }
}

/// The bounds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Requests of one identity in each second, in the long run.
    pub requests_per_second: u32,
    /// Requests of one identity at once.
    pub request_burst: u32,
    /// How long a request may take that does not depend on a program, a user or the size of something.
    pub request_time: Duration,
    /// How long nothing may come of a body.
    pub body_idle: Duration,
    /// The longest archive in bytes.
    pub archive_bytes: u64,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            requests_per_second: 200,
            request_burst: 400,
            request_time: Duration::from_secs(600),
            body_idle: Duration::from_secs(60),
            archive_bytes: 256 << 30,
        }
    }
}

/// `[limits]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    connections: usize,
    connections_per_identity: usize,
    handshakes: usize,
    handshakes_per_address: usize,
    requests_per_second: u32,
    request_burst: u32,
    request_seconds: u64,
    body_idle_seconds: u64,
    archive_bytes: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (connections, requests) = (Limits::default(), RequestLimits::default());
        Self {
            connections: connections.connections,
            connections_per_identity: connections.connections_per_identity,
            handshakes: connections.handshakes,
            handshakes_per_address: connections.handshakes_per_address,
            requests_per_second: requests.requests_per_second,
            request_burst: requests.request_burst,
            request_seconds: requests.request_time.as_secs(),
            body_idle_seconds: requests.body_idle.as_secs(),
            archive_bytes: requests.archive_bytes,
        }
    }
}

impl LimitsConfig {
    /// The key of a bound that would let nobody in.
    pub(crate) fn zero(&self) -> Option<&'static str> {
        let keys = [
            ("connections", self.connections == 0),
            ("connections_per_identity", self.connections_per_identity == 0),
            ("handshakes", self.handshakes == 0),
            ("handshakes_per_address", self.handshakes_per_address == 0),
            ("requests_per_second", self.requests_per_second == 0),
            ("request_burst", self.request_burst == 0),
            ("request_seconds", self.request_seconds == 0),
            ("body_idle_seconds", self.body_idle_seconds == 0),
        ];
        keys.into_iter().find(|(_, zero)| *zero).map(|(key, _)| key)
    }

    /// The bounds of connections.
    pub(crate) fn connections(&self) -> Limits {
        Limits {
            connections: self.connections,
            connections_per_identity: self.connections_per_identity,
            handshakes: self.handshakes,
            handshakes_per_address: self.handshakes_per_address,
            ..Limits::default()
        }
    }

    /// The bounds of requests.
    pub(crate) fn requests(&self) -> RequestLimits {
        RequestLimits {
            requests_per_second: self.requests_per_second,
            request_burst: self.request_burst,
            request_time: Duration::from_secs(self.request_seconds),
            body_idle: Duration::from_secs(self.body_idle_seconds),
            archive_bytes: self.archive_bytes,
        }
    }
}
