//! Registries of images: the client's side of the OCI distribution specification over HTTP/1.1 and TLS.
//!
//! Invariants:
//! - whatever is asked for by a digest has it when it is given, or is an error;
//! - every length that a registry tells is bounded before memory is taken for it;
//! - a secret goes to the registry that it is for and to whoever that names as its issuer of tokens, and never without
//!   TLS, but where the configuration allows it;
//! - nobody waits without end for a registry that says nothing.

mod auth;
mod client;
mod connection;
mod credentials;
mod error;
mod manifest;
mod reference;
mod session;
mod upload;

pub use auth::Challenge;
pub use client::{Pulled, Registry};
pub use credentials::{Credentials, CredentialsError, read_credentials};
pub use error::RegistryError;
pub use manifest::{Blob, Document, Manifest};
pub use reference::{InvalidReference, Reference};
pub use session::{Access, AccessError};
