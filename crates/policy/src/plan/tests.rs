use std::process::{Command, Stdio};

use serde_json::{Value, json};

use network::nft::Protocol;

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

/// What follows from what the API tells alone.
fn rules(
    config: &Config,
    family: Family,
    policies: &[Arc<NetworkPolicy>],
    pods: &[Arc<Pod>],
    namespaces: &[Arc<Namespace>],
) -> Table {
    super::plan_table(config, family, Input { policies, pods, namespaces, local: &[] }, |_| true)
}

fn check(spec: Value, map: &str, address: &str, wanted: &[&str]) {
    let (pods, namespaces) = cluster();
    let table = rules(&config(), Family::V4, &[policy("p", spec.clone())], &pods, &namespaces);
    assert_eq!(decided(&table, map, address), wanted, "{spec}");
    kernel_takes(&table.full_script("ip t"));
}

/// The kernel must understand what is planned.
fn kernel_takes(script: &str) {
    let mut nft = Command::new("unshare");
    let nft = nft.args(["-n", "nft", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut nft = nft.spawn().unwrap();
    // Nothing is printed before all of it was read.
    std::io::Write::write_all(&mut nft.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
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
            kernel_takes(&[from.full_script("ip t"), to.diff_script(from, "ip t")].join("\n"));
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
    kernel_takes(&table.full_script("ip6 t"));
}

fn local(uid: &str, address: &str, app: &str) -> Arc<LocalPod> {
    let labels = [("app".to_string(), app.to_string())].into();
    let (addresses, ports) = (vec![address.parse().unwrap()], vec![("web".into(), Protocol::Tcp, 9090)]);
    Arc::new(LocalPod { uid: uid.into(), namespace: "default".into(), labels, ports, addresses })
}

#[test]
fn a_pod_is_closed_before_the_api_knows_its_address() {
    let db = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "web"}]}]});
    let policies = [policy("p", db)];
    let mut unknown = pod("default", "new", "here", "", json!({"app": "db"})).as_ref().clone();
    unknown.metadata.uid = Some("u1".into());
    unknown.status = None;
    let (_, namespaces) = cluster();
    // Neither the pod nor its peer is in the API with an address, or there at all.
    let local = [local("u1", "10.42.0.9", "db"), local("u2", "10.42.0.10", "web")];
    for pods in [vec![], vec![Arc::new(unknown)]] {
        let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &local };
        let table = super::plan_table(&config(), Family::V4, input, |_| true);
        assert_eq!(decided(&table, "egress", "10.42.0.9"), ["drop"]);
        let port = if pods.is_empty() { 9090 } else { 8080 };
        let wanted = format!("ip saddr 10.42.0.10 ip daddr . tcp dport {{ 10.42.0.9 . {port} }} accept");
        assert_eq!(decided(&table, "ingress", "10.42.0.9"), [wanted.as_str(), "drop"]);
        assert_eq!(isolated_addresses(&table), ["10.42.0.9".parse().unwrap()].into());
        kernel_takes(&table.full_script("ip t"));
    }
}

#[test]
fn an_address_counts_for_the_pod_that_has_it_now() {
    let mut old = pod("default", "old", "here", "10.42.0.9", json!({"app": "db"})).as_ref().clone();
    old.metadata.uid = Some("old".into());
    let policies = [policy("p", json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]}))];
    let (_, namespaces) = cluster();
    let input = |local| Input { policies: &policies, pods: &[], namespaces: &namespaces, local };
    let pods = [Arc::new(old)];
    let table = super::plan_table(&config(), Family::V4, Input { pods: &pods, ..input(&[]) }, |_| true);
    assert_eq!(decided(&table, "ingress", "10.42.0.9"), ["accept", "drop"]);
    let local = [local("new", "10.42.0.9", "other")];
    let table = super::plan_table(&config(), Family::V4, Input { pods: &pods, ..input(&local) }, |_| true);
    assert_eq!(decided(&table, "ingress", "10.42.0.9"), ["free"]);
}

#[test]
fn ports_have_the_names_that_sidecars_give_them() {
    let container = |name: &str, port: i32, restart: Value| json!({"name": name, "restartPolicy": restart, "ports": [{"name": name, "containerPort": port}]});
    let inits = json!([container("tls", 9443, json!("Always")), container("setup", 7000, Value::Null)]);
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "labels": {"app": "p"}},
        "spec": {"nodeName": "here", "containers": [{"name": "c"}], "initContainers": inits}, "status": {"podIP": "10.42.0.2"}});
    let pods = [Arc::new(serde_json::from_value(pod).unwrap())];
    let named = |name: &str| policy(name, json!({"podSelector": {}, "ingress": [{"ports": [{"port": name}]}]}));
    let decides =
        |name: &str| decided(&rules(&config(), Family::V4, &[named(name)], &pods, &[]), "ingress", "10.42.0.2");
    assert_eq!(decides("tls"), ["ip daddr . tcp dport { 10.42.0.2 . 9443 } accept", "drop"]);
    // One that has ended before the others began listens nowhere.
    assert_eq!(decides("setup"), ["drop"]);
}

#[test]
fn a_policy_that_was_refused_still_closes() {
    let (pods, namespaces) = cluster();
    let policies = [
        policy("good", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]})),
        policy("bad", json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]})),
    ];
    let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &[] };
    let table = super::plan_table(&config(), Family::V4, input, |policy| policy.name_any() != "bad");
    assert_eq!(decided(&table, "ingress", "10.42.0.3"), ["accept", "drop"]);
    assert_eq!(decided(&table, "ingress", "10.42.0.2"), ["drop"]);
}

#[test]
fn what_cannot_be_a_port_allows_nothing() {
    let ports = |port: Value| json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [port]}]});
    for port in [
        json!({"port": 0}),
        json!({"port": -1}),
        json!({"port": 70000}),
        json!({"port": 80, "endPort": 20}),
        json!({"port": 80, "protocol": "TCP } ; flush ruleset"}),
    ] {
        check(ports(port), "ingress", "10.42.0.2", &["drop"]);
    }
}

#[test]
fn no_text_of_an_object_gets_into_a_rule() {
    const HOSTILE: [&str; 7] = [
        "}; add table ip pwned; #",
        "1.1.1.1 }\nadd table ip pwned\n",
        "10.0.0.0/8 } accept; ip saddr { 10.0.0.0/8",
        "@pwned",
        "foo bar",
        "\"pwned\"",
        "fd42::2%eth0; flush ruleset",
    ];
    let of = |text: &str, number: usize| {
        let at = |place: usize, otherwise: &str| {
            if number == place || number == 0 { text.to_string() } else { otherwise.into() }
        };
        let spec = json!({"podSelector": {"matchLabels": {"app": at(1, "db")}}, "policyTypes": ["Ingress", "Egress", at(2, "Ingress")],
            "ingress": [{"from": [{"ipBlock": {"cidr": at(3, "10.0.0.0/8"), "except": [at(4, "10.1.0.0/16"), "10.0.0.0/9"]}},
                                  {"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"name": at(5, "other")}}}],
                         "ports": [{"port": at(6, "web"), "protocol": at(7, "TCP")}]}]});
        let policy = json!({"metadata": {"name": at(8, "p"), "namespace": "default"}, "spec": spec});
        let mut local = local("u1", "10.42.0.2", "db").as_ref().clone();
        local.labels.insert("app".into(), at(1, "db"));
        local.ports.push((at(6, "web"), Protocol::Tcp, 80));
        let (mut pods, namespaces) = cluster();
        let mut one = pods[1].as_ref().clone();
        one.status.as_mut().unwrap().pod_ip = Some(at(9, "10.42.0.3"));
        pods[1] = Arc::new(one);
        let policies = [Arc::new(serde_json::from_value(policy).unwrap())];
        let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &[Arc::new(local)] };
        super::plan_table(&config(), Family::V4, input, |_| true).full_script("ip t")
    };
    assert!(of("", 99).contains("10.42.0.2 . 9090"), "{}", of("", 99));
    let mut all = String::new();
    for text in HOSTILE {
        for number in 0..=9 {
            let script = of(text, number);
            assert!(
                !script.contains(text) && !script.contains("pwned") && !script.contains("unsound!"),
                "{number} {script}"
            );
            all.push_str(&script);
        }
    }
    kernel_takes(&all);
}

/// An object of a megabyte may name ten thousand peers and as many ports: there are as many rules as both together, not one for each of the other.
#[test]
fn peers_and_ports_are_not_multiplied() {
    const MANY: usize = 400;
    let (pods, namespaces) = cluster();
    let block =
        |n: usize| json!({"ipBlock": {"cidr": format!("192.0.{}.{}/32", n / 256, n % 256), "except": ["10.0.0.0/8"]}});
    let everybody = json!({"namespaceSelector": {}});
    let peers: Vec<Value> = (0..MANY).map(block).chain(vec![everybody; MANY]).collect();
    let number = |n: usize| json!({"port": 1000 + n, "protocol": "TCP"});
    let ports: Vec<Value> =
        (0..MANY).map(number).chain(vec![json!({"port": "web", "protocol": "TCP"}); MANY]).collect();
    let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": ports}], "egress": [{"to": peers, "ports": ports}]});
    let table = rules(&config(), Family::V4, &[policy("p", spec)], &pods, &namespaces);
    for direction in ["ingress", "egress"] {
        let jumps = decided(&table, direction, "10.42.0.2");
        // A block each, all pods as one set, and the end.
        assert_eq!(jumps.len(), MANY + 2, "{direction}");
        let (first, ports) = jumps[0].split_once(" jump ").unwrap();
        assert!(first.contains("192.0.0.0/32") && jumps.iter().rev().skip(1).all(|jump| jump.ends_with(ports)));
        let accepted = &table.chains[ports];
        assert_eq!((accepted.len(), accepted[0].as_str()), (MANY + 1, "tcp dport 1000 accept"));
        assert!(accepted[MANY].starts_with("ip daddr . tcp dport { 10.42.0.2 . 8080"), "{}", accepted[MANY]);
    }
    kernel_takes(&table.full_script("ip t"));
}
