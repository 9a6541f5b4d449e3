//! Services. Addresses and node ports are given out by the API server, not here.

use serde_json::{Value, json};

use super::{default, items, spec};

pub fn service(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "type", || json!("ClusterIP"));
    default(spec, "sessionAffinity", || json!("None"));
    let kind = spec["type"].as_str().unwrap_or("").to_string();
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", || json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", || json!("Cluster"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", || json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", || json!(true));
    }
    for port in items(spec, "ports") {
        default(port, "protocol", || json!("TCP"));
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", || number);
        }
    }
    let map = object.as_object_mut();
    super::set(map, "status", json!({"loadBalancer": {}}));
}
