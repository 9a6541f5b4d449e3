//! NamespaceLifecycle: nothing new in a namespace that isn't there or is being deleted.

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use crate::ApiServer;

/// Refuses a new object without a namespace that may take it.
///
/// # Errors
/// 404 without the namespace, 403 while it is being deleted.
pub fn check(server: &ApiServer, kind: &Kind, object: &Value) -> Result<(), Status> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespaces = server.cache.of(kinds::NAMESPACES);
    let name = object.namespace();
    let Some(namespace) = namespaces.get(name) else {
        return Err(kinds::NAMESPACES.not_found(name));
    };
    if namespace.field(namespaces.kind, "status.phase") == "Terminating" {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = kind.forbidden(object.name(), &why);
        // By this cause controllers know that it is no use to try again.
        let cause = json!({"reason": "NamespaceTerminating", "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace"});
        status.details.get_or_insert_default()["causes"] = json!([cause]);
        return Err(status);
    }
    Ok(())
}
