//! Rules of network policies: whatever texts policies, pods and namespaces have, none gets into a script.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use libfuzzer_sys::fuzz_target;
use network::nft::TableSync;
use policy::plan::{self, Input};
use serde_json::{Value, json};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Option<Arc<T>> {
    serde_json::from_value(value).ok().map(Arc::new)
}

fn is_sound(script: &str, text: &str) -> bool {
    let is_harmless =
        text.parse::<IpAddr>().is_ok() || text.chars().all(|c| c.is_ascii_alphanumeric() || " ./_:-".contains(c));
    is_harmless || text.len() < 8 || !script.contains(text)
}

fuzz_target!(|parts: (&str, &str, i32, i32)| {
    let (text, other, number, port) = parts;
    let peers = json!([{"ipBlock": {"cidr": text, "except": [other]}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": [text]}},
        {"podSelector": {"matchExpressions": [{"key": text, "operator": other, "values": [other]}]}},
        {"namespaceSelector": {"matchLabels": {text: other}}}]);
    let ports = json!([{"port": number, "endPort": port, "protocol": text}, {"port": other, "protocol": "TCP"}, {"port": 80}]);
    let network_policy = json!({"metadata": {"name": text, "namespace": "b"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress", text],
        "ingress": [{"from": peers, "ports": ports}], "egress": [{"to": peers, "ports": ports}]}});
    let pod = |name: &str, ip: &str| {
        json!({"metadata": {"name": name, "namespace": "b", "labels": {text: other}}, "spec": {"nodeName": "a", "containers": [{"name": "c",
            "ports": [{"name": other, "containerPort": port}]}]}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": text}]}})
    };
    let (Some(network_policy), Some(one), Some(two)) = (read::<NetworkPolicy>(network_policy), read::<Pod>(pod(other, "10.42.0.2")), read::<Pod>(pod("p", other))) else { return };
    let Some(namespace) = read::<Namespace>(json!({"metadata": {"name": "b", "labels": {text: other}}})) else { return };
    let config = policy::Config { table: "t".into(), node_name: "a".into(), cluster_dns: None, families: vec![Family::V4, Family::V6] };
    for family in [Family::V4, Family::V6] {
        let (policies, pods, namespaces) = ([network_policy.clone()], [one.clone(), two.clone()], [namespace.clone()]);
        let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &[] };
        let table = plan::rules(&config, family, input, |_| true);
        let script = TableSync::new("ip t", "policies").diff_script(table, std::collections::BTreeMap::new());
        assert!(is_sound(&script, text) && is_sound(&script, other), "{script}");
    }
});
