//! Bootstrap tokens: `ID.SECRET`, kept in Secrets of kube-system (upstream's "Authenticating with Bootstrap Tokens").

use api::kinds;
use apimachinery::ObjectExt as _;
use base64::Engine as _;
use subtle::ConstantTimeEq as _;

use super::{BOOTSTRAPPERS, User};
use crate::ApiServer;

/// The user whose token it is, if it is one that is known, may be used for this, and has not expired.
pub fn user(server: &ApiServer, token: &str) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    if !plain(id, 6) || !plain(secret, 16) {
        return None;
    }
    let entry = server.cache.of(kinds::SECRETS).get(&format!("kube-system/bootstrap-token-{id}"))?;
    let kept = entry.parse();
    let data = |key: &str| -> String {
        let bytes = base64::engine::general_purpose::STANDARD.decode(kept.str_at(&["data", key]));
        bytes.ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    let known = kept["type"] == "bootstrap.kubernetes.io/token"
        && !kept.is_deleting()
        && data("token-id") == id
        && bool::from(data("token-secret").as_bytes().ct_eq(secret.as_bytes()))
        && data("usage-bootstrap-authentication") == "true";
    if !known || has_expired(&data("expiration")) {
        return None;
    }
    let extra = data("auth-extra-groups");
    let mut user = User::new(format!("system:bootstrap:{id}"), &[BOOTSTRAPPERS]);
    // Only groups below this prefix, as upstream: else the writer of a Secret could become an administrator.
    user.groups
        .extend(extra.split(',').map(str::trim).filter(|g| g.starts_with("system:bootstrappers:")).map(String::from));
    Some(user)
}

/// An expiration that can't be read is over.
fn has_expired(expiration: &str) -> bool {
    let at = expiration.parse::<jiff::Timestamp>();
    !expiration.is_empty() && at.map_or(true, |at| at <= apimachinery::clock::now())
}
