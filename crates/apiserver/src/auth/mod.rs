//! Who is asking (authentication) and whether they may (authorization).

mod bootstrap;
pub mod escalation;
mod impersonation;
mod node;
mod rbac;
pub mod roles;
mod tokens;

use std::sync::Arc;

use apimachinery::{FieldSelector, Status};
use http::{HeaderMap, header};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

pub use rbac::{Attributes, Rbac};
pub use tokens::{Claims, Named, Tokens};

use crate::request::Info;
use crate::{ApiServer, Peer, audit};

pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const NODES: &str = "system:nodes";
/// Those who hold the join token: they may ask for a node's certificate, and nothing else.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// An authenticated requester.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    pub uid: String,
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_string()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// As `authentication.k8s.io/v1` writes a user.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        for (key, values) in &self.extra {
            info["extra"][key] = json!(values);
        }
        info
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups =
            ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), AUTHENTICATED].map(String::from);
        User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: groups.into(),
            uid: uid.into(),
            extra: Vec::new(),
        }
    }
}

/// Finds out who sent a request. Credentials that are shown must be good: a bad token is refused even where anonymous
/// requests would be let in.
pub fn authenticate(server: &ApiServer, headers: &HeaderMap, peer: &Peer) -> Result<User, Status> {
    let facts = match peer {
        Peer::Component(user) => return Ok(user.as_ref().clone()),
        Peer::Remote(facts) => facts,
        // A token may still make somebody of him.
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
    impersonation::act(server, headers, user)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn by_certificate(facts: &Arc<pki::CertificateFacts>) -> User {
    User { name: facts.common_name.clone(), groups: facts.organizations.clone(), ..User::default() }
}

pub fn by_token(server: &ApiServer, token: &str) -> Result<User, Status> {
    let secret = server.config.join_secret.as_bytes();
    if !secret.is_empty() && bool::from(token.as_bytes().ct_eq(secret)) {
        return Ok(User::new("system:bootstrap:timonel", &[BOOTSTRAPPERS]));
    }
    if let Some(user) = bootstrap::user(server, token).or_else(|| crate::joining::user(server, token)) {
        return Ok(user);
    }
    server.tokens.user(server, token).map_err(|why| {
        tracing::debug!(%why, "rejected a bearer token");
        Status::unauthorized()
    })
}

/// Whether `user` may do what `attributes` say.
pub fn allows(server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> bool {
    user.is_in(MASTERS)
        || (user.is_in(NODES) && node::allows(server, user, attributes))
        || server.rbac.allows(server, user, attributes)
}

/// What allows it, if anything does; empty where there is nothing to tell.
pub fn reason(server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> Option<String> {
    if user.is_in(MASTERS) || (user.is_in(NODES) && node::allows(server, user, attributes)) {
        return Some(String::new());
    }
    server.rbac.reason(server, user, attributes)
}

/// Refuses a resource request that its user may not make, in upstream's words.
pub fn authorize(server: &ApiServer, user: &User, info: &Info) -> Result<(), Status> {
    authorize_as(server, user, info, info.verb)
}

/// Like [`authorize`], with another verb than the request's own.
pub fn authorize_as(server: &ApiServer, user: &User, info: &Info, verb: &str) -> Result<(), Status> {
    let selected = selected_name(info);
    let name = selected.as_deref().unwrap_or(&info.path.name);
    let resource = info.resource();
    let (group, namespace) = (info.kind.group, info.namespace());
    demand(server, user, &Attributes { verb, group, resource: &resource, namespace, name, path: "" })
}

/// The one object that a list or watch selects by its name: it is asked about as that one, as the selector is applied to
/// what is answered. No other verb is: a creation, say, doesn't look at selectors.
fn selected_name(info: &Info) -> Option<String> {
    if !info.path.name.is_empty() || !matches!(info.verb, "list" | "watch") {
        return None;
    }
    let selected = FieldSelector::parse(info.query.get("fieldSelector")).unwrap_or_default();
    selected.terms.into_iter().find(|(path, _, equal)| *equal && path == "metadata.name").map(|(_, name, _)| name)
}

/// Refuses what a user may not do with a resource.
pub fn demand(server: &ApiServer, user: &User, wanted: &Attributes<'_>) -> Result<(), Status> {
    if allows(server, user, wanted) {
        audit::annotate("authorization.k8s.io/reason", || reason(server, user, wanted).unwrap_or_default());
        return Ok(());
    }
    let Attributes { verb, group, resource, namespace, name, .. } = *wanted;
    let scope = match namespace {
        "" => "at the cluster scope".to_string(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}", user.name);
    Err(Status::forbidden(group, resource, name, &why))
}
