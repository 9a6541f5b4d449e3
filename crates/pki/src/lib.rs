//! Certificates, keys, tokens and kubeconfig files.
//!
//! A cluster has one certificate authority, made on the first start of its first server. It signs the servers'
//! certificates, the clients' and the nodes' (through CertificateSigningRequests). A node joins with a [`JoinToken`],
//! which names the authority by its hash, so that a new node can tell the real server from an impostor before it says
//! its secret.
//!
//! No key leaves this crate in a log line; key files are written with mode 0600.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod ca;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod csr;
mod files;
pub mod rotation;
mod signer;
mod token;
mod trust;

pub use ca::{
    Authority, CertificateFacts, Identity, PkiError, Usage, belongs, certificate_facts, certificate_names, new_key,
    public_key, request, self_signed, signed_by,
};
pub use csr::{RequestFacts, Terms, request_facts};
pub use files::kubeconfig;
pub use rotation::{Kept, Rotating};
pub use signer::{TokenKey, detached_signature};
pub use token::{JoinToken, TokenError, random_secret};
pub use trust::{Anybody, certified_key};

/// Hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
