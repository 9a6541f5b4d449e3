//! Certificates, keys, tokens and kubeconfig files.
//!
//! A cluster has one certificate authority, created at the first start of its first server. It signs the certificates of the servers, of the
//! clients and, through CertificateSigningRequests, of the nodes. A node joins with a [`JoinToken`], which has the hash of the authority's
//! certificate, so that a new node can authenticate the server before it sends the secret.
//!
//! No key leaves this crate in a log line; key files are written with mode 0600.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod ca;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod certificate_request;
mod jwt;
mod kubeconfig;
mod pem;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod pod_certificate;
pub mod rotation;
mod tls;
mod token;

pub use ca::{
    Authority, CertificateInfo, Identity, PkiError, Usage, create_certificate_request, is_signed_by, key_matches,
    new_key, parse_certificate, parse_certificate_der, public_key, self_signed,
};
pub use certificate_request::{CertificateRequest, SigningProfile, parse_certificate_request};
pub use jwt::{TokenKey, detached_signature};
pub use kubeconfig::kubeconfig;
pub use pem::{PemBlock, pem_blocks, to_pem};
pub use pod_certificate::{
    KEY_TYPES, KeyAndRequest, KeyFault, KeyType, Leaf, is_certificate, key_of_request, leaf, new_key_and_request,
    trust_anchors,
};
pub use rotation::{ManagedCertificate, RotatingCertificate};
pub use tls::{InsecureSkipVerify, certified_key};
pub use token::{JoinToken, TokenError, random_secret};

/// Hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
