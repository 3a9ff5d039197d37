//! The gate before every route: who calls, whether that may be, how often and how much, and a line in the audit log.

mod audit;
mod body;
mod rate;
mod rules;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use drover_api::Shown;
use drover_engine::{Node, NodeError};
use drover_model::{
    AuditRecord, Caller, ContainerId, ContainerName, Identity, NodeName, Object, UserName, Verdict, decide,
};
use tokio::sync::watch;

pub(crate) use audit::{AuditLog, LARGEST_FILE};
use rate::{Rates, Taken};
use rules::{Bound, Names, Rule, rule};

use crate::limits::RequestLimits;
use crate::roster::Roster;
use crate::routes::Refusal;

/// How much of a path is written into the audit log, in bytes.
const LONGEST_PATH: usize = 256;

/// Whoever is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// What its certificate says.
    pub shown: Shown,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// What a path names, and whose it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The user who has it.
    pub owner: Option<UserName>,
    /// The container that it is about: what was decided is decided about this one, whatever its name leads to later.
    pub container: Option<(ContainerId, ContainerName)>,
}

/// Said by a route about which container it was, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Concerns(pub ContainerName);

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    node: Arc<Node>,
    name: NodeName,
    roster: watch::Receiver<Arc<Roster>>,
    log: Arc<AuditLog>,
    rates: Rates,
    limits: RequestLimits,
}

impl Gate {
    pub fn new(
        node: Arc<Node>,
        name: NodeName,
        roster: watch::Receiver<Arc<Roster>>,
        log: Arc<AuditLog>,
        limits: RequestLimits,
    ) -> Arc<Self> {
        let rates = Rates::new(limits.requests_per_second, limits.request_burst);
        Arc::new(Self { node, name, roster, log, rates, limits })
    }

    /// The last lines of the audit log.
    pub async fn audit(&self, count: usize) -> std::io::Result<Vec<AuditRecord>> {
        let log = Arc::clone(&self.log);
        tokio::task::spawn_blocking(move || log.tail(count)).await.map_err(std::io::Error::other)?
    }

    /// Whether it is a node that may send containers.
    pub fn is_peer(&self, visitor: &Visitor) -> bool {
        matches!(self.roster.borrow().caller(&visitor.shown), Caller::Peer(_))
    }

    /// Writes that a link was opened, or refused.
    pub async fn linked(&self, visitor: &Visitor, allowed: bool) {
        let caller = self.roster.borrow().caller(&visitor.shown);
        let pending = self.pending(&caller, visitor.address, "LINK", "");
        pending.end(if allowed { 101 } else { 403 }, None).await;
    }

    /// Writes that a node joined with a token, or may not.
    pub async fn joined(&self, name: &NodeName, address: SocketAddr, allowed: bool) {
        let caller = Caller::Stranger(Identity::Node(name.clone()));
        let pending = self.pending(&caller, address, "JOIN", "");
        pending.end(if allowed { 201 } else { 403 }, None).await;
    }

    fn pending(&self, caller: &Caller, address: SocketAddr, method: &str, path: &str) -> Pending {
        let mut path = path.to_owned();
        path.truncate((0..=LONGEST_PATH.min(path.len())).rev().find(|&end| path.is_char_boundary(end)).unwrap_or(0));
        let record = AuditRecord {
            time: now(),
            node: self.name.clone(),
            identity: Some(caller.identity()),
            role: caller.role(),
            method: method.to_owned(),
            path,
            container: None,
            status: None,
            duration_ms: 0.0,
            address: address.to_string(),
        };
        Pending { log: Arc::clone(&self.log), record: Some(record), begun: Instant::now(), is_telling: false }
    }

    /// What the path names, and whose it is.
    async fn find(&self, caller: &Caller, names: Names, name: &str) -> Result<Found, NodeError> {
        let invalid = |_| NodeError::no_container(name);
        match names {
            Names::Nothing => Ok(Found::default()),
            Names::Container => {
                // What is another's is found as well, by its whole id or name: the log shall say that somebody tried.
                let others = || self.node.container(name).map_err(|_| NodeError::no_container(name));
                let own = self.node.container_of(caller, name);
                let spec = if caller.has_only_own() { own.or_else(|_| others())? } else { own? }.spec;
                Ok(Found { owner: spec.owner, container: Some((spec.id, spec.name)) })
            }
            Names::Migration => {
                let id = name.parse().map_err(invalid)?;
                let owner = self.node.migration(&id)?.borrow().owner.clone();
                Ok(Found { owner, container: None })
            }
            Names::Volume => {
                let volume = name.parse().map_err(invalid)?;
                let record = self.node.volume(&volume).map_err(|_| NodeError::no_volume(&volume))?;
                Ok(Found { owner: record.spec.owner, container: None })
            }
            Names::Copy => {
                let id = name.parse().map_err(invalid)?;
                Ok(Found { owner: self.node.copy_owner(&id).await?, container: None })
            }
        }
    }

    /// Decides about a request to a route; what its path names when it may go on.
    async fn decide(&self, caller: &Caller, rule: &Rule, named: Option<&str>) -> Result<Found, Refused> {
        let refused = || Refused { refusal: Refusal::forbidden(caller, rule.action), is_audited: true };
        if decide(caller, rule.action, Object::Any) != Verdict::Allowed {
            return Err(refused());
        }
        let Some(name) = named.filter(|_| rule.names != Names::Nothing) else { return Ok(Found::default()) };
        let found = self.find(caller, rule.names, name).await;
        let found = found.map_err(|error| Refused { refusal: error.into(), is_audited: false })?;
        match decide(caller, rule.action, Object::One(found.owner.as_ref())) {
            Verdict::Allowed => Ok(found),
            Verdict::Refused => Err(refused()),
            Verdict::Hidden => Err(Refused { refusal: Self::missing(rule.names, name).into(), is_audited: true }),
        }
    }

    /// What is said about that which is not there: also to whoever may not know that it is.
    fn missing(names: Names, name: &str) -> NodeError {
        let other = || NodeError::no_container(name);
        match names {
            Names::Nothing | Names::Container => other(),
            Names::Migration => name.parse().map_or_else(|_| other(), |id| NodeError::no_migration(&id)),
            Names::Volume => name.parse().map_or_else(|_| other(), |name| NodeError::no_volume(&name)),
            Names::Copy => name.parse().map_or_else(|_| other(), |id| NodeError::no_copy(&id)),
        }
    }
}

/// A request that does not go on.
struct Refused {
    refusal: Refusal,
    is_audited: bool,
}

/// The middleware: every request passes here.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Some(visitor) = request.extensions().get::<Arc<Visitor>>().cloned() else {
        return Refusal::nobody().into_response();
    };
    let caller = gate.roster.borrow().caller(&visitor.shown);
    let mut pending = gate.pending(&caller, visitor.address, request.method().as_str(), request.uri().path());
    match gate.rates.take(&caller.identity(), Instant::now()) {
        Taken::Yes => {}
        // One line tells of a flood as well as a thousand do, which would wash the log away.
        Taken::NoMore => return pending.refuse(Refusal::too_often(gate.limits.requests_per_second)).await,
        Taken::No => {
            pending.forget();
            return Refusal::too_often(gate.limits.requests_per_second).into_response();
        }
    }
    let (mut parts, body) = request.into_parts();
    let (rule, named) = asked(&mut parts).await;
    let Some(rule) = rule else {
        if matches!(caller, Caller::Stranger(_)) {
            return pending.refuse(Refusal::stranger(&caller)).await;
        }
        pending.forget();
        let is_route = parts.extensions.get::<MatchedPath>().is_some();
        return if is_route { Refusal::no_method() } else { Refusal::no_route() }.into_response();
    };
    let found = match gate.decide(&caller, &rule, named.as_deref()).await {
        Ok(found) => found,
        Err(Refused { refusal, is_audited: true }) => return pending.refuse(refusal).await,
        Err(Refused { refusal, is_audited: false }) => {
            pending.forget();
            return refusal.into_response();
        }
    };
    pending.is_telling = rule.action.changes();
    let about = found.container.as_ref().map(|(_, name)| name.clone());
    parts.extensions.insert(found);
    parts.extensions.insert(caller);
    let request = Request::from_parts(parts, body::bounded(body, rule.bound, &gate.limits));
    let response = match rule.bound {
        Bound::Prompt => match tokio::time::timeout(gate.limits.request_time, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Refusal::too_slow(gate.limits.request_time).into_response(),
        },
        Bound::Long | Bound::Archive => next.run(request).await,
    };
    let is_refusal = matches!(response.status().as_u16(), 401 | 403);
    if rule.action.changes() || is_refusal {
        let about = about.or_else(|| response.extensions().get::<Concerns>().map(|about| about.0.clone()));
        pending.end(response.status().as_u16(), about).await;
    } else {
        pending.forget();
    }
    response
}

/// The rule for a request, and what its path names.
async fn asked(parts: &mut Parts) -> (Option<Rule>, Option<String>) {
    let route = parts.extensions.get::<MatchedPath>().cloned();
    let rule = route.and_then(|route| rule(&parts.method, route.as_str()));
    let named = match RawPathParams::from_request_parts(parts, &()).await {
        Ok(params) => params.iter().next().map(|(_, value)| value.to_owned()),
        Err(_) => None,
    };
    (rule, named)
}

/// A line of the audit log that is still to be written. When the caller goes away before there is an answer, it is written
/// without a status: what was begun may have happened.
struct Pending {
    log: Arc<AuditLog>,
    record: Option<AuditRecord>,
    begun: Instant,
    /// Whether something may have been changed.
    is_telling: bool,
}

impl Pending {
    fn take(&mut self) -> Option<AuditRecord> {
        let mut record = self.record.take()?;
        record.duration_ms = (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        Some(record)
    }

    async fn end(mut self, status: u16, container: Option<ContainerName>) {
        if let Some(record) = self.take() {
            let log = Arc::clone(&self.log);
            log.write(AuditRecord { status: Some(status), container, ..record }).await;
        }
    }

    async fn refuse(self, refusal: Refusal) -> Response {
        let response = refusal.into_response();
        self.end(response.status().as_u16(), None).await;
        response
    }

    fn forget(mut self) {
        self.record = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(record) = self.take().filter(|_| self.is_telling) {
            let log = Arc::clone(&self.log);
            tokio::spawn(async move { log.write(record).await });
        }
    }
}

/// Now, as RFC 3339 in UTC.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
