//! Tickets: short-lived tokens with which a machine that holds the join token may ask for the certificate of one node.

use apimachinery::{Status, clock};
use serde::{Deserialize, Serialize};

use super::{BOOTSTRAPPERS, User};
use crate::ApiServer;

/// The extra of a user that says for which node it may ask.
pub const NODE_NAME: &str = "timonel.io/node-name";
/// Before the tokens that are tickets.
const PREFIX: &str = "timonel-join.";
const ISSUER: &str = "timonel/join";
const AUDIENCE: &str = "timonel-join";
/// How long a ticket is valid, in seconds.
const LIFETIME_SECONDS: i64 = 600;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: Vec<String>,
    sub: String,
    nbf: i64,
    exp: i64,
}

/// A ticket for the node `name`.
///
/// # Errors
/// 500 when the server's key can't sign.
pub fn issue(server: &ApiServer, name: &str) -> Result<String, Status> {
    let now = clock::now().as_second();
    let claims = Claims {
        iss: ISSUER.into(),
        aud: vec![AUDIENCE.into()],
        sub: name.into(),
        nbf: now - LIFETIME_SECONDS,
        exp: now + LIFETIME_SECONDS,
    };
    let ticket = server.config.token_key.issue(&claims).map_err(|e| Status::internal(e.to_string()))?;
    Ok(format!("{PREFIX}{ticket}"))
}

/// The user that a ticket makes; none if the token is none.
pub fn user(server: &ApiServer, token: &str) -> Option<User> {
    let ticket = token.strip_prefix(PREFIX)?;
    let claims: Claims = server.config.token_key.verify(ticket, ISSUER, Some(AUDIENCE)).ok()?;
    let mut user = User::new("system:bootstrap:timonel", &[BOOTSTRAPPERS]);
    user.extra.push((NODE_NAME.into(), vec![claims.sub]));
    Some(user)
}
