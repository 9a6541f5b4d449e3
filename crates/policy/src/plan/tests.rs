use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;

fn config() -> Config {
    Config {
        table: "t".into(),
        node_name: "here".into(),
        cluster_dns: "10.43.0.10".parse().ok(),
        families: vec![Family::V4],
    }
}

fn pod(namespace: &str, name: &str, node: &str, ip: &str, labels: Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIP": ip, "phase": "Running"}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn policy(name: &str, spec: Value) -> Arc<NetworkPolicy> {
    let policy = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(policy).unwrap())
}

fn cluster() -> (Vec<Arc<Pod>>, Vec<Arc<Namespace>>) {
    let pods = vec![
        pod("default", "db", "here", "10.42.0.2", json!({"app": "db"})),
        pod("default", "web", "here", "10.42.0.3", json!({"app": "web"})),
        pod("default", "far", "there", "10.42.1.2", json!({"app": "web"})),
        pod("other", "web", "there", "10.42.1.3", json!({"app": "web"})),
    ];
    let namespace = |name: &str| {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"name": name}}})).unwrap())
    };
    (pods, vec![namespace("default"), namespace("other")])
}

/// The rules that decide for an address, with sets written out.
fn decided(table: &Table, map: &str, address: &str) -> Vec<String> {
    let Some(Some(verdict)) = table.sets[map].elements.get(address) else { return vec!["free".into()] };
    let chain = &table.chains[verdict.trim_start_matches("goto ")];
    let mut lines = Vec::new();
    for rule in chain {
        match rule.strip_prefix("jump ") {
            Some(inner) => lines.extend(table.chains[inner].iter().map(|line| {
                let mut line = line.clone();
                for (name, set) in &table.sets {
                    let listed: Vec<&str> = set.elements.keys().map(String::as_str).collect();
                    line = line.replace(&format!("@{name}"), &listed.join(","));
                }
                line
            })),
            None => lines.push(rule.clone()),
        }
    }
    lines
}

fn check(spec: Value, map: &str, address: &str, wanted: &[&str]) {
    let (pods, namespaces) = cluster();
    let table = rules(&config(), Family::V4, &[policy("p", spec.clone())], &pods, &namespaces);
    assert_eq!(decided(&table, map, address), wanted, "{spec}");
    kernel_takes(&table.full("ip t"));
}

/// The kernel must understand what is planned.
fn kernel_takes(script: &str) {
    let command = format!("nft -f - <<'END'\n{script}\nEND\n");
    let output = Command::new("unshare").args(["-n", "bash", "-c", &command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn peers_are_pods_namespaces_and_blocks() {
    let db = json!({"matchLabels": {"app": "db"}});
    let from = |peers: Value| json!({"podSelector": db, "ingress": [{"from": peers}]});
    check(json!({"podSelector": db}), "ingress", "10.42.0.2", &["drop"]);
    check(json!({"podSelector": db}), "ingress", "10.42.0.3", &["free"]);
    check(json!({"podSelector": db}), "egress", "10.42.0.2", &["free"]);
    check(json!({"podSelector": db, "ingress": [{}]}), "ingress", "10.42.0.2", &["accept", "drop"]);
    check(
        from(json!([{"podSelector": {"matchLabels": {"app": "web"}}}])),
        "ingress",
        "10.42.0.2",
        &["ip saddr 10.42.0.3,10.42.1.2 accept", "drop"],
    );
    check(
        from(json!([{"namespaceSelector": {"matchLabels": {"name": "other"}}}])),
        "ingress",
        "10.42.0.2",
        &["ip saddr 10.42.1.3 accept", "drop"],
    );
    check(
        from(json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}])),
        "ingress",
        "10.42.0.2",
        &["ip saddr 10.42.0.3,10.42.1.2,10.42.1.3 accept", "drop"],
    );
    check(
        from(json!([{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}])),
        "ingress",
        "10.42.0.2",
        &["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16, 10.2.0.0/16 } accept", "drop"],
    );
    check(from(json!([{"podSelector": {"matchLabels": {"app": "nobody"}}}])), "ingress", "10.42.0.2", &["drop"]);
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let db = json!({"matchLabels": {"app": "db"}});
    let ports = |ports: Value| json!({"podSelector": db, "ingress": [{"ports": ports}]});
    check(
        ports(json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])),
        "ingress",
        "10.42.0.2",
        &["tcp dport 80 accept", "udp dport 53 accept", "drop"],
    );
    check(
        ports(json!([{"port": 8000, "endPort": 8010}, {"protocol": "SCTP"}])),
        "ingress",
        "10.42.0.2",
        &["tcp dport 8000-8010 accept", "meta l4proto sctp accept", "drop"],
    );
    check(
        ports(json!([{"port": "web"}])),
        "ingress",
        "10.42.0.2",
        &["ip daddr . tcp dport { 10.42.0.2 . 8080 } accept", "drop"],
    );
    check(ports(json!([{"port": "unknown"}])), "ingress", "10.42.0.2", &["drop"]);
    let out = json!({"podSelector": db, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "web"}]}]});
    check(
        out.clone(),
        "egress",
        "10.42.0.2",
        &["ip daddr 10.42.0.3,10.42.1.2 ip daddr . tcp dport { 10.42.0.3 . 8080, 10.42.1.2 . 8080 } accept", "drop"],
    );
    check(out, "ingress", "10.42.0.2", &["free"]);
}

#[test]
fn policies_add_up_and_differences_do_too() {
    let (pods, namespaces) = cluster();
    let all = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let web = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 80}]}]});
    let states = [
        rules(&config(), Family::V4, &[], &pods, &namespaces),
        rules(&config(), Family::V4, &[policy("all", all.clone())], &pods, &namespaces),
        rules(&config(), Family::V4, &[policy("all", all), policy("web", web.clone())], &pods, &namespaces),
        rules(&config(), Family::V4, &[policy("web", web)], &pods[..1], &namespaces),
    ];
    assert_eq!(decided(&states[2], "ingress", "10.42.0.3"), ["tcp dport 80 accept", "drop"]);
    assert_eq!(decided(&states[2], "ingress", "10.42.0.2"), ["drop"]);
    assert_eq!(decided(&states[2], "egress", "10.42.0.3"), ["drop"]);
    for from in &states {
        for to in &states {
            kernel_takes(&[from.full("ip t"), to.difference(from, "ip t")].join("\n"));
        }
    }
}

#[test]
fn each_family_has_the_addresses_and_networks_of_its_own() {
    let (mut pods, namespaces) = cluster();
    for (n, pod) in pods.iter_mut().enumerate() {
        let mut both = pod.as_ref().clone();
        let ips = json!([{"ip": both.status.as_ref().unwrap().pod_ip}, {"ip": format!("fd42::{n}")}]);
        both.status.as_mut().unwrap().pod_ips = serde_json::from_value(ips).unwrap();
        *pod = Arc::new(both);
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": [{
        "from": [{"podSelector": {"matchLabels": {"app": "web"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}},
                 {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}],
        "ports": [{"port": "web"}]}]});
    let table = rules(&config(), Family::V6, &[policy("p", spec)], &pods, &namespaces);
    let port = "ip6 daddr . tcp dport { fd42::0 . 8080 } accept".replace("fd42::0", "fd42::");
    let wanted = [
        format!("ip6 saddr 2001:db8::/32 ip6 saddr != {{ 2001:db8:1::/48 }} {port}"),
        format!("ip6 saddr fd42::1,fd42::2 {port}"),
        "drop".into(),
    ];
    assert_eq!(decided(&table, "ingress", "fd42::"), wanted);
    kernel_takes(&table.full("ip6 t"));
}
