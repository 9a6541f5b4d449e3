//! `Service`: one name and address for many Pods.

mod columns;
mod defaults;
pub mod families;
mod validate;

use apimachinery::{ObjectExt as _, Quantity, names};
use serde_json::Value;

use super::GROUP;
use crate::kinds::quota::{Usage, add, count};
use crate::kinds::{ALL, Deletion, Kind, Strategy, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["svc"],
    categories: ALL,
    selectable: &["spec.clusterIP", "spec.type"],
    subresources: &[Subresource::Status, Subresource::ServiceProxy],
    strategy: Strategy {
        made_by_updates: true,
        // Since v1.37 a name may begin with a digit (KEP-5311).
        name: names::dns1123_label,
        defaults: defaults::service,
        prepare_update: |new, old, _| drop_what_the_type_lacks(new, old),
        validate: validate::validate,
        validate_status: Some(validate::status),
        printer: columns::PRINTER,
        usage,
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Service", "services")
};

/// A service that changes its type loses the fields that only the old type has, unless its writer set them anew. (Its
/// node ports are the allocator's to take back.)
fn drop_what_the_type_lacks(new: &mut Value, old: &Value) {
    let balanced = |s: &Value| s.str_at(&["spec", "type"]) == "LoadBalancer";
    let external = |s: &Value| balanced(s) || s.str_at(&["spec", "type"]) == "NodePort";
    let loses_balancing = balanced(old) && !balanced(new);
    let loses_outside = external(old) && !external(new);
    for (field, loses) in [
        ("externalTrafficPolicy", loses_outside),
        ("healthCheckNodePort", loses_outside),
        ("allocateLoadBalancerNodePorts", loses_balancing),
        ("loadBalancerClass", loses_balancing),
    ] {
        if loses && new["spec"][field] == old["spec"][field] {
            new.child_mut("spec").remove(field);
        }
    }
}

fn usage(service: &Value, usage: &mut Usage) {
    count(usage, KIND.plural);
    let balanced = service["spec"]["type"] == "LoadBalancer";
    if balanced {
        count(usage, "services.loadbalancers");
    }
    if service["spec"]["type"] == "NodePort" || (balanced && service["spec"]["allocateLoadBalancerNodePorts"] != false)
    {
        let ports = service.array_at(&["spec", "ports"]).len();
        add(usage, "services.nodeports", Quantity::from_int(ports as i64));
    }
}
