//! Admission plugins of upstream that are built in: what they add to objects and what they refuse, beyond plain defaults and validation.
//!
//! [`mutate`] and [`validate`] list them in the order in which they run. `OwnerReferencesPermissionEnforcement` and
//! `ExtendedResourceToleration` run where an administrator turns them on; the others always do, as by upstream's default.

mod certificates;
mod claim_resize;
mod default_classes;
mod device_admin_access;
mod escalation;
mod external_ips;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod owner_references;
mod pod_certificates;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod token_audience;
mod tolerations;

use api::{Kind, kinds, static_pods};
use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use super::{AdmissionAttributes, Operation, Plugin};
use crate::ApiServer;
use crate::authentication::User;
use crate::registry::Filter;

pub use node_restriction::{SERVER, restrict_token};
pub use pod_security::admit as pod_security;
pub use resource_quota::{Admitted, Quotas, admit as resource_quota};
pub use service_account::wait_for_account;
pub use token_audience::restrict as restrict_audience;

/// Lets the plugins change an object on its way in.
///
/// # Errors
/// 403 or 404 of the plugin that refuses the object.
pub fn mutate(
    server: &ApiServer,
    user: &User,
    kind: &Kind,
    operation: Operation,
    object: &mut Value,
) -> Result<(), Status> {
    if operation == Operation::Create {
        namespace_lifecycle::check(server, kind, object)?;
        if kind == kinds::PODS {
            pod(server, object)?;
        } else if kind == kinds::PERSISTENT_VOLUME_CLAIMS {
            default_classes::set_storage_class(server, object);
            add_finalizer(object, "kubernetes.io/pvc-protection");
        } else if kind == kinds::PERSISTENT_VOLUMES {
            add_finalizer(object, "kubernetes.io/pv-protection");
        } else if kind == kinds::NODES {
            node_taint::add(object);
        } else if kind == kinds::INGRESSES {
            default_classes::set_ingress_class(server, object);
        } else if kind == kinds::CERTIFICATE_SIGNING_REQUESTS {
            certificates::set_user(user, object);
        }
    } else if kind == kinds::PODS {
        tolerations::add_defaults(object);
    }
    Ok(())
}

fn pod(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    // A mirror pod is what its node says, and doesn't use the API.
    if !static_pods::is_mirror(pod) {
        service_account::admit(server, pod)?;
    }
    priority::admit(server, pod)?;
    tolerations::add_defaults(pod);
    runtime_class::admit(server, pod)?;
    if server.config.plugins.contains(&Plugin::ExtendedResourceToleration) {
        runtime_class::tolerate_extended_resources(pod);
    }
    limit_ranger::apply_defaults(server, pod);
    Ok(())
}

/// Refuses an object that is valid by itself, because of its writer or of other objects.
///
/// # Errors
/// 403 or 422 of the plugin that refuses the object.
pub fn validate(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    node_restriction::check(attributes, object)?;
    certificates::check(server, attributes, object)?;
    pod_certificates::check(server, attributes, object)?;
    escalation::check(server, attributes, object)?;
    claim_resize::check(server, attributes, object)?;
    device_admin_access::check(server, attributes, object)?;
    external_ips::check(server, attributes, object)?;
    priority::check(server, attributes, object)?;
    if server.config.plugins.contains(&Plugin::OwnerReferencesPermissionEnforcement) {
        owner_references::check(server, attributes, object)?;
    }
    limit_ranger::check(server, attributes, object)?;
    Ok(())
}

/// StorageObjectInUseProtection.
fn add_finalizer(object: &mut Value, finalizer: &str) {
    let mut all: Vec<String> = object.strings_at(&["metadata", "finalizers"]).into_iter().map(String::from).collect();
    if !all.iter().any(|f| f == finalizer) {
        all.push(finalizer.into());
        object.set_meta("finalizers", all);
    }
}

/// The objects of a kind in a namespace.
fn in_namespace(server: &ApiServer, kind: &'static Kind, namespace: &str) -> Vec<Value> {
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    server.cache.of(kind).list(&filter).0.iter().map(|e| e.parse()).collect()
}

/// Appends to the list at `key`, made if it is missing.
fn push(object: &mut Value, key: &str, item: Value) {
    if !object[key].is_array() {
        object[key] = json!([]);
    }
    if let Some(list) = object[key].as_array_mut() {
        list.push(item);
    }
}
