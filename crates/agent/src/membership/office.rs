//! The authority's office: what only the node does that has the key. Everything here blocks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use drover_api::{
    AddUserRequest, Admission, ClusterDocument, ClusterNode, ClusterUser, JoinRequest, Shown, TokenAnswer, TokenRequest,
};
use drover_cluster::{Authority, ClusterError, Directory, Token, TokenBook, fresh_enrolment};
use drover_model::{Identity, NodeName, Role, UserName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Membership, lock};

/// The longest life of a token in seconds, a week.
const LONGEST_TOKEN: u64 = 7 * 24 * 3600;
/// How long certificates of users are valid, in days.
const USER_DAYS: i64 = 30;
/// How many attempts to join may fail from one address in each minute.
const TRIES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// How many addresses are remembered; more have to wait.
const REMEMBERED: usize = 1024;

/// The office.
#[derive(Debug)]
pub(crate) struct Office {
    authority: Authority,
    /// Held through each change, so that versions follow one another.
    book: Mutex<TokenBook>,
    tries: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Office {
    pub fn open(authority: Authority, directory: &Directory) -> Result<Self, ClusterError> {
        let book = Mutex::new(TokenBook::open(directory.tokens())?);
        Ok(Self { authority, book, tries: Mutex::default() })
    }

    /// Whether somebody at this address has failed too often in the last minute.
    fn has_failed(&self, from: IpAddr, now: Instant) -> bool {
        let mut tries = lock(&self.tries);
        tries.retain(|_, (since, _)| now.saturating_duration_since(*since) < MINUTE);
        match tries.get(&from) {
            Some((_, count)) => *count >= TRIES,
            None => tries.len() >= REMEMBERED,
        }
    }

    fn failed(&self, from: IpAddr, now: Instant) {
        lock(&self.tries).entry(from).or_insert((now, 0)).1 += 1;
    }
}

impl Membership {
    fn office(&self) -> Result<&Office, ClusterError> {
        let elsewhere = || ClusterError::Elsewhere(self.believed().document.authority.clone());
        self.office.as_ref().ok_or_else(elsewhere)
    }

    /// A token with which one node may join.
    ///
    /// # Errors
    /// When the authority is elsewhere, too many tokens wait, or the disk refuses.
    pub fn token(&self, request: TokenRequest) -> Result<TokenAnswer, ClusterError> {
        let office = self.office()?;
        let believed = self.believed();
        let own = believed.document.nodes.iter().find(|node| node.name == self.name);
        let own = own.ok_or_else(|| ClusterError::NoNode(self.name.clone()))?;
        let now = OffsetDateTime::now_utc();
        let expires_at = now + Duration::from_secs(request.lifetime_s.min(LONGEST_TOKEN));
        let (id, secret) = lock(&office.book).add(expires_at, request.name, now)?;
        let fingerprint = office.authority.fingerprint();
        let token = Token { node: self.name.clone(), address: own.address, fingerprint, id, secret };
        Ok(TokenAnswer { token: token.encode(), expires_at: expires_at.format(&Rfc3339).unwrap_or_default() })
    }

    /// Lets a node join that has a token.
    ///
    /// # Errors
    /// When the token is not valid, or the name or address is taken.
    pub fn join(&self, request: &JoinRequest, from: IpAddr) -> Result<Admission, ClusterError> {
        let office = self.office()?;
        let now = OffsetDateTime::now_utc();
        if office.has_failed(from, Instant::now()) {
            return Err(ClusterError::ManyTries);
        }
        let mut book = lock(&office.book);
        if let Err(error) = book.check(&request.id, &request.secret, &request.name, now) {
            office.failed(from, Instant::now());
            return Err(error);
        }
        let document = self.believed().document.clone();
        if document.nodes.iter().any(|node| node.name == request.name) {
            return Err(ClusterError::NodeExists(request.name.clone()));
        }
        if let Some(node) = document.nodes.iter().find(|node| node.address == request.address) {
            return Err(ClusterError::AddressTaken(node.name.clone()));
        }
        let node = ClusterNode { name: request.name.clone(), address: request.address, enrolment: fresh_enrolment() };
        let certificate = office.authority.certify(
            &Identity::Node(node.name.clone()),
            Some(node.address.ip()),
            &node.enrolment,
            &request.request,
            (now, time::Duration::days(document.certificate_days.into())),
        )?;
        book.strike(&request.id, now)?;
        self.change(office, |document| document.nodes.push(node))?;
        Ok(self.admission(office, certificate))
    }

    /// A certificate for a new key of somebody who has one already.
    ///
    /// # Errors
    /// When the authority is elsewhere or the request makes no sense.
    pub fn renewed(&self, shown: &Shown, request: &str) -> Result<Admission, ClusterError> {
        let certificate = self.certify(&shown.identity, shown.enrolment.as_deref().unwrap_or_default(), request)?;
        Ok(self.admission(self.office()?, certificate))
    }

    /// Signs a certificate for a member.
    pub(super) fn certify(&self, identity: &Identity, enrolment: &str, request: &str) -> Result<String, ClusterError> {
        let office = self.office()?;
        let believed = self.believed();
        let document = &believed.document;
        let (address, days) = match identity {
            Identity::Node(name) => {
                let node = document.nodes.iter().find(|node| node.name == *name);
                (node.map(|node| node.address.ip()), document.certificate_days.into())
            }
            Identity::User(_) => (None, USER_DAYS),
        };
        let lifetime = (OffsetDateTime::now_utc(), time::Duration::days(days));
        office.authority.certify(identity, address, enrolment, request, lifetime)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// When there is one of this name, or the request makes no sense.
    pub fn add_user(&self, request: AddUserRequest) -> Result<Admission, ClusterError> {
        let office = self.office()?;
        let _book = lock(&office.book);
        if self.believed().document.users.iter().any(|user| user.name == request.name) {
            return Err(ClusterError::UserExists(request.name));
        }
        let AddUserRequest { name, role, request } = request;
        let user = ClusterUser { name, role, enrolment: fresh_enrolment() };
        let certificate = self.certify(&Identity::User(user.name.clone()), &user.enrolment, &request)?;
        self.change(office, |document| document.users.push(user))?;
        Ok(self.admission(office, certificate))
    }

    /// Removes a user: what its certificates open ends.
    ///
    /// # Errors
    /// When there is none, or it is the last administrator.
    pub fn remove_user(&self, name: &UserName) -> Result<(), ClusterError> {
        let office = self.office()?;
        let _book = lock(&office.book);
        self.keep_an_admin(name)?;
        self.change(office, |document| document.users.retain(|user| user.name != *name))
    }

    /// Gives a user another role.
    ///
    /// # Errors
    /// When there is none, or it is the last administrator and would be none any more.
    pub fn set_role(&self, name: &UserName, role: Role) -> Result<(), ClusterError> {
        let office = self.office()?;
        let _book = lock(&office.book);
        if role != Role::Admin {
            self.keep_an_admin(name)?;
        }
        if !self.believed().document.users.iter().any(|user| user.name == *name) {
            return Err(ClusterError::NoUser(name.clone()));
        }
        self.change(office, |document| {
            let users = document.users.iter_mut().filter(|user| user.name == *name);
            users.for_each(|user| user.role = role);
        })
    }

    /// Refuses when there is no such user, or nobody would be an administrator without it.
    fn keep_an_admin(&self, name: &UserName) -> Result<(), ClusterError> {
        let believed = self.believed();
        let users = &believed.document.users;
        let Some(user) = users.iter().find(|user| user.name == *name) else {
            return Err(ClusterError::NoUser(name.clone()));
        };
        let admins = users.iter().filter(|user| user.role == Role::Admin).count();
        if user.role == Role::Admin && admins == 1 { Err(ClusterError::LastAdmin(name.clone())) } else { Ok(()) }
    }

    /// Removes a node: the others do not speak with it any more.
    ///
    /// # Errors
    /// When there is none, or it has the authority's key.
    pub fn remove_node(&self, name: &NodeName) -> Result<(), ClusterError> {
        let office = self.office()?;
        let _book = lock(&office.book);
        if *name == self.name {
            return Err(ClusterError::IsAuthority(name.clone()));
        }
        if !self.believed().document.nodes.iter().any(|node| node.name == *name) {
            return Err(ClusterError::NoNode(name.clone()));
        }
        self.change(office, |document| document.nodes.retain(|node| node.name != *name))
    }

    /// Changes the document; the book is held meanwhile.
    fn change(&self, office: &Office, change: impl FnOnce(&mut ClusterDocument)) -> Result<(), ClusterError> {
        let mut document = self.believed().document.clone();
        change(&mut document);
        document.version += 1;
        document.signed_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        self.accept(office.authority.endorse(&document)?).map(drop)
    }

    fn admission(&self, office: &Office, certificate: String) -> Admission {
        let authority = office.authority.certificate().to_owned();
        Admission { certificate, authority, document: self.believed().signed.clone() }
    }
}
