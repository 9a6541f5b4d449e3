//! Whether a user may do what a request asks: `system:masters` everything, nodes by the Node authorizer, all others by RBAC.

mod impersonation;
mod node;
mod rbac;
pub mod roles;

use apimachinery::{FieldSelector, Status};
use http::Method;

pub use impersonation::impersonate;
pub use rbac::{Attributes, Rbac, Rule, has};

use crate::authentication::{MASTERS, NODES, User};
use crate::request::ResourceRequest;
use crate::{ApiServer, audit};

/// Whether `user` may do what `attributes` say.
pub fn allows(server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> bool {
    user.is_in(MASTERS)
        || (user.is_in(NODES) && node::allows(server, user, attributes))
        || server.rbac.allows(server, user, attributes)
}

/// The reason why it is allowed, as access reviews have it; none if it isn't.
pub fn reason(server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> Option<String> {
    if user.is_in(MASTERS) || (user.is_in(NODES) && node::allows(server, user, attributes)) {
        return Some(String::new());
    }
    server.rbac.reason(server, user, attributes)
}

/// Refuses a resource request that its user may not make, in upstream's words.
///
/// # Errors
/// 403 without the right.
pub fn authorize(server: &ApiServer, user: &User, info: &ResourceRequest) -> Result<(), Status> {
    authorize_as(server, user, info, info.verb)
}

/// Like [`authorize`], with another verb than the request's own.
///
/// # Errors
/// 403 without the right.
pub fn authorize_as(server: &ApiServer, user: &User, info: &ResourceRequest, verb: &str) -> Result<(), Status> {
    let selected = selected_name(info);
    let name = selected.as_deref().unwrap_or(&info.path.name);
    let resource = info.resource();
    let (group, namespace) = (info.kind.group, info.namespace());
    demand(server, user, &Attributes { verb, group, resource: &resource, namespace, name, path: "" })
}

/// The one object that a list or watch selects by its name: it is asked about as that one, as the selector is applied to
/// what is answered. No other verb is: a creation, say, doesn't look at selectors.
fn selected_name(info: &ResourceRequest) -> Option<String> {
    if !info.path.name.is_empty() || !matches!(info.verb, "list" | "watch") {
        return None;
    }
    let selected = FieldSelector::parse(info.query.get("fieldSelector")).unwrap_or_default();
    selected.terms.into_iter().find(|(path, _, equal)| *equal && path == "metadata.name").map(|(_, name, _)| name)
}

/// Refuses what a user may not do with a resource.
///
/// # Errors
/// 403 without the right.
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

/// Whether a path that is no resource may be asked for.
///
/// # Errors
/// 403 without the right.
pub fn authorize_path(server: &ApiServer, user: &User, method: &Method, path: &str) -> Result<(), Status> {
    let verb = method.as_str().to_ascii_lowercase();
    let attributes = Attributes { verb: &verb, group: "", resource: "", namespace: "", name: "", path };
    if allows(server, user, &attributes) {
        return Ok(());
    }
    let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
    Err(Status::new(403, "Forbidden", format!("forbidden: {why}")))
}
