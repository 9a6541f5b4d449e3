//! Rules of nftables: whatever texts services, endpoints, pods and policies have, none gets into a script.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Family;
use libfuzzer_sys::fuzz_target;
use network::nft::TableSync;
use proxy::plan::{self, NodeTopology, Planner};
use serde_json::{Value, json};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Option<Arc<T>> {
    serde_json::from_value(value).ok().map(Arc::new)
}

/// Words that begin or end something in a script.
fn is_sound(script: &str, text: &str) -> bool {
    let is_harmless = text.parse::<IpAddr>().is_ok() || text.chars().all(|c| c.is_ascii_alphanumeric() || " ./_:-".contains(c));
    is_harmless || text.len() < 8 || !script.contains(text)
}

fuzz_target!(|parts: (&str, &str, i32, i32)| {
    let (text, other, number, port) = parts;
    let service = json!({"metadata": {"name": text, "namespace": other}, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.43.0.5", text],
        "externalIPs": [text, other], "loadBalancerSourceRanges": [text, "10.0.0.0/8"], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": number}},
        "ports": [{"name": text, "port": port, "nodePort": number, "protocol": "TCP"}, {"name": other, "port": 80, "protocol": text}]},
        "status": {"loadBalancer": {"ingress": [{"ip": other}]}}});
    let slice = json!({"metadata": {"name": "s", "namespace": other, "labels": {"kubernetes.io/service-name": text}}, "addressType": "IPv4",
        "ports": [{"name": text, "port": number, "protocol": "TCP"}], "endpoints": [{"addresses": [other, text, "10.42.0.2"], "nodeName": text}]});
    let pod = json!({"metadata": {"name": text, "namespace": other}, "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [
        {"containerPort": port, "hostPort": number, "hostIP": text, "protocol": other}, {"containerPort": 80, "hostPort": 80, "hostIP": other}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": text}, {"ip": "10.42.0.3"}]}});
    let (Some(service), Some(slice), Some(pod)) = (read(service), read(slice), read(pod)) else { return };
    let Ok(cluster_cidr) = "10.42.0.0/16".parse() else { return };
    let config = proxy::Config { table: "t".into(), node_name: "a".into(), cluster_cidr, cluster_dns: None, bridge: Some("b0".into()) };
    let mut rules = Planner::new(Family::V4).parts(&config, &NodeTopology::default(), &[service], &[slice]);
    rules.extend(plan::host_port_parts(Family::V4, &[pod]));
    let script = TableSync::new("ip t", "services").diff_script(plan::base_table(&config, Family::V4), rules);
    assert!(!script.contains("unsound!") && is_sound(&script, text) && is_sound(&script, other), "{script}");
});
