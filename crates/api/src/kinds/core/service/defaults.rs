//! Services. Addresses and node ports are given out by the API server, not here.

use serde_json::{Value, json};

use crate::defaults::{default, default_text, items, set, spec};

pub fn service(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or("").to_string();
    let (kind, affinity) = (text("type"), text("sessionAffinity"));
    if affinity == "None" {
        spec.remove("sessionAffinityConfig");
    }
    let timeout = spec.get("sessionAffinityConfig").map(|config| &config["clientIP"]["timeoutSeconds"]);
    if affinity == "ClientIP" && timeout.is_none_or(Value::is_null) {
        spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer"];
    if kinds.contains(&kind.as_str()) {
        default(spec, "internalTrafficPolicy", || json!("Cluster"));
    }
    let given = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|addresses| !addresses.is_empty());
    if kind == "NodePort" || kind == "LoadBalancer" || (kind == "ClusterIP" && given) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", || json!(true));
    }
    for port in items(spec, "ports") {
        default_text(port, "protocol", "TCP");
        // What Go clients send that have no target port to name.
        if port.get("targetPort").is_some_and(|target| *target == 0 || target == "") {
            port.remove("targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", || number);
        }
    }
    let map = object.as_object_mut();
    set(map, "status", json!({"loadBalancer": {}}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_by_address_has_a_time_whatever_was_said_of_it() {
        for config in [json!(null), json!({}), json!({"clientIP": {}}), json!({"clientIP": null})] {
            let mut service = json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}});
            super::service(&mut service);
            assert_eq!(service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800, "{config}");
        }
        let mut service = json!({"spec": {"sessionAffinity": "ClientIP"}});
        super::service(&mut service);
        assert_eq!(service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    }
}
