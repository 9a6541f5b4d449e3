//! Who sends a request: a component of this process, a client certificate, or a bearer token.

mod bootstrap;
pub mod ticket;
mod tokens;
pub mod used_tokens;
mod user;

use std::sync::Arc;

use apimachinery::Status;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;

pub use tokens::{Claims, Named, Tokens};
pub use user::{AUTHENTICATED, BOOTSTRAPPERS, MASTERS, NODES, UNAUTHENTICATED, User};

use crate::{ApiServer, Peer};

/// The user that sends a request. Credentials must be valid: a bad token is refused even where anonymous
/// requests would be let in.
///
/// # Errors
/// 401 for a certificate or token that is shown and not valid.
pub fn authenticate(server: &ApiServer, headers: &HeaderMap, peer: &Peer) -> Result<User, Status> {
    let facts = match peer {
        Peer::Component(user) => return Ok(user.as_ref().clone()),
        Peer::Remote(facts) => facts,
        // It may have a token besides.
        Peer::Unknown if bearer(headers).is_none() => return Err(Status::unauthorized()),
        Peer::Unknown => &None,
    };
    let mut user = match (bearer(headers), facts) {
        (Some(token), _) => by_token(server, token)?,
        (None, Some(facts)) => by_certificate(facts),
        (None, None) => return Ok(User::new("system:anonymous", &[UNAUTHENTICATED])),
    };
    if !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    Ok(user)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn by_certificate(facts: &Arc<pki::CertificateInfo>) -> User {
    User { name: facts.common_name.clone(), groups: facts.organizations.clone(), ..User::default() }
}

/// The user of a bearer token: the join token, a bootstrap token, a ticket, or a service account token.
///
/// # Errors
/// 401 when it is none of these.
pub fn by_token(server: &ApiServer, token: &str) -> Result<User, Status> {
    let secret = server.config.join_secret.as_bytes();
    if !secret.is_empty() && bool::from(token.as_bytes().ct_eq(secret)) {
        return Ok(User::new("system:bootstrap:timonel", &[BOOTSTRAPPERS]));
    }
    if let Some(user) = bootstrap::user(server, token).or_else(|| ticket::user(server, token)) {
        return Ok(user);
    }
    server.tokens.user(server, token).map_err(|why| {
        tracing::debug!(%why, "rejected a bearer token");
        Status::unauthorized()
    })
}
