mod hostile;
mod policies;

use std::process::{Command, Stdio};

use informer::Pod;
use serde_json::json;

use super::*;

/// All rules of a node at once: what the parts of a [`Planner`] come to.
fn rules(config: &Config, topology: &NodeTopology, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Table {
    let by_service = by_service(Family::V4, slices);
    let mut table = base_table(config, Family::V4);
    let context = PlanContext { config, topology, family: Family::V4 };
    for service in services {
        let key = name_of(service);
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        add_service(context, service, key, slices, &mut table);
    }
    table
}

fn config() -> Config {
    Config {
        table: "timonel".into(),
        node_name: "a".into(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        cluster_dns: "10.43.0.10".parse().ok(),
        bridge: Some("timonel0".into()),
    }
}

fn service(name: &str, spec: serde_json::Value) -> Arc<Service> {
    let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(service).unwrap())
}

fn slice(service: &str, endpoints: &[(&str, &str, bool)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, node, ready)| {
            json!({"addresses": [address], "nodeName": node,
                   "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
        })
        .collect();
    let slice = json!({"metadata": {"name": format!("{service}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn web(extra: serde_json::Value) -> Arc<Service> {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ports": [{"port": 80, "protocol": "TCP"}]});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    service("web", spec)
}

#[test]
fn service_without_endpoints_is_refused() {
    let rules = rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[]);
    assert!(rules.has("refused", "10.43.0.5 . tcp . 80"));
    assert!(rules.sets["services"].elements.is_empty() && rules.chains.is_empty());
}

#[test]
fn traffic_is_spread_over_ready_endpoints() {
    let slices = [slice("web", &[("10.42.0.2", "a", true), ("10.42.1.2", "b", true), ("10.42.1.3", "b", false)])];
    let rules = rules(&config(), &NodeTopology::default(), &[web(json!({"externalIPs": ["192.0.2.5"]}))], &slices);
    // From inside by elements alone.
    assert_eq!(rules.sets["services"].elements["10.43.0.5 . tcp . 80"].as_deref(), Some("goto pick_tcp_2"));
    assert_eq!(places(&rules), ["10.42.0.2 . 8080", "10.42.1.2 . 8080"]);
    // From outside by a chain of its own.
    assert_eq!(rules.chains.len(), 1);
    let wanted = [
        "ct mark set ct mark or 0x4000",
        "meta l4proto tcp numgen random mod 2 0 dnat to 10.42.0.2:8080",
        "meta l4proto tcp dnat to 10.42.1.2:8080",
    ];
    assert_eq!(*rules.chains.values().next().unwrap(), wanted);
}

/// What the service `web` has in each of the shared places.
fn places(rules: &Table) -> Vec<&str> {
    let at = |n: usize| rules.sets.get(&format!("tcp_{n}"))?.elements.get("10.43.0.5 . 80")?.as_deref();
    (0..shared::MAX_SHARED_ENDPOINTS).map_while(at).collect()
}

#[test]
fn a_change_of_a_service_with_few_endpoints_writes_no_rule() {
    let of = |endpoints: &[(&str, &str, bool)]| {
        let mut planner = Planner::new(Family::V4);
        planner.parts(&config(), &NodeTopology::default(), &[web(json!({}))], &[slice("web", endpoints)])
    };
    let mut table_sync = network::nft::TableSync::new("ip t", "services");
    let all: Vec<String> = (1..=shared::MAX_SHARED_ENDPOINTS).map(|n| format!("10.42.0.{n}")).collect();
    let all: Vec<_> = all.iter().map(|address| (address.as_str(), "a", true)).collect();
    for (number, endpoints) in [&all[..1], &all[..3], &all[1..], &all[..], &all[..0], &all[..2]].into_iter().enumerate()
    {
        let script = table_sync.diff_script(base_table(&config(), Family::V4), of(endpoints));
        let is_element = |line: &str| line.starts_with("add element ") || line.starts_with("delete element ");
        assert!(number == 0 || (!script.is_empty() && script.lines().all(is_element)), "{script}");
    }
}

#[test]
fn many_endpoints_are_chosen_among_by_one_look() {
    let addresses: Vec<String> = (1..=9).map(|n| format!("10.42.0.{n}")).collect();
    let endpoints: Vec<_> = addresses.iter().map(|a| (a.as_str(), "a", true)).collect();
    let rules = rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[slice("web", &endpoints)]);
    let chain = rules.chains.values().next().unwrap();
    assert!(chain.len() == 1 && chain[0].contains("numgen random mod 9 map { 0 : 10.42.0.1 . 8080"), "{chain:?}");
}

#[test]
fn ending_endpoints_serve_while_no_other_is_left() {
    let rules =
        rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[slice("web", &[("10.42.1.3", "b", false)])]);
    assert_eq!(places(&rules), ["10.42.1.3 . 8080"]);
}

#[test]
fn local_policy_leaves_other_nodes_out() {
    let slices = [slice("web", &[("10.42.1.2", "b", true)])];
    let extra = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
                       "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let rules = rules(&config(), &NodeTopology::default(), &[web(extra)], &slices);
    assert!(rules.has("refused_ports", "tcp . 30080"));
    assert!(rules.has("services", "10.43.0.5 . tcp . 80"));
}

#[test]
fn dns_and_headless_services_have_no_rules() {
    let dns = service("dns", json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}));
    let headless = service("db", json!({"clusterIP": "None", "ports": [{"port": 80, "protocol": "TCP"}]}));
    let rules = rules(&config(), &NodeTopology::default(), &[dns, headless], &[]);
    assert!(rules.sets["services"].elements.is_empty() && rules.sets["refused"].elements.is_empty());
}

#[test]
fn difference_of_equal_rulesets_is_empty() {
    let slices = [slice("web", &[("10.42.0.2", "a", true)])];
    let one = rules(&config(), &NodeTopology::default(), &[web(json!({}))], &slices);
    assert_eq!(one.diff_script(&one.clone(), "t"), "");
}

/// What the kernel has after `scripts`, run in a network namespace of its own.
fn kernel_table(scripts: &[String]) -> String {
    let mut command = String::from("set -e\n");
    for script in scripts {
        command.push_str(&format!("nft -f - <<'END'\n{script}\nEND\n"));
    }
    command.push_str("nft -s list table ip t\n");
    let mut shell = Command::new("unshare");
    let shell = shell.args(["-n", "bash", "-s"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    // Nothing is printed before the last line.
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), command.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{command}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Chains and elements in a fixed order, as the kernel keeps the order of writing.
fn sorted(table: &str) -> Vec<String> {
    let mut blocks: Vec<String> = table
        .split("\n\n")
        .map(|b| {
            let mut lines: Vec<&str> = b.split(&['\n', ','][..]).map(str::trim).collect();
            if b.contains("elements") {
                lines.sort_unstable();
            }
            lines.join("\n").replace("elements = {", "").replace('}', "")
        })
        .collect();
    blocks.sort();
    blocks
        .iter()
        .flat_map(|b| b.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty()))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[test]
fn differences_lead_to_what_a_full_write_makes() {
    let node_port = json!({"type": "NodePort", "sessionAffinity": "ClientIP",
                           "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let states = [
        rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[]),
        rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[slice("web", &[("10.42.0.2", "a", true)])]),
        rules(
            &config(),
            &NodeTopology::default(),
            &[web(node_port)],
            &[slice("web", &[("10.42.0.2", "a", true), ("10.42.1.2", "b", true)])],
        ),
        rules(&config(), &NodeTopology::default(), &[web(json!({}))], &[slice("web", &[("10.42.1.2", "b", true)])]),
        rules(&config(), &NodeTopology::default(), &[], &[]),
    ];
    for from in &states {
        for to in &states {
            let stepwise = kernel_table(&[from.full_script("ip t"), to.diff_script(from, "ip t")]);
            let at_once = kernel_table(&[to.full_script("ip t")]);
            assert_eq!(sorted(&stepwise), sorted(&at_once));
        }
    }
}

#[test]
fn steps_lead_to_what_a_full_write_makes() {
    let of = |name: &str, n: usize, extra: serde_json::Value| {
        let mut spec = json!({"type": "ClusterIP", "clusterIP": format!("10.43.0.{}", 20 + n), "ports": [{"port": 80, "protocol": "TCP"}]});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        service(name, spec)
    };
    // Endpoints that two services have in common stay while one of them has them.
    let ends = |name: &str, numbers: &[u8]| {
        let addresses: Vec<String> = numbers.iter().map(|n| format!("10.42.0.{n}")).collect();
        slice(name, &addresses.iter().map(|a| (a.as_str(), "a", true)).collect::<Vec<_>>())
    };
    let sticky = json!({"sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.77"]});
    let (a, b, c) = (of("a", 0, json!({})), of("b", 1, sticky), of("c", 2, json!({})));
    let (a1, a2, b1, c1) =
        (ends("a", &[1, 2]), ends("a", &[2, 3, 4]), ends("b", &[2, 4]), ends("c", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
    type State = (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>);
    let states: [State; 8] = [
        (vec![a.clone()], vec![a1.clone()]),
        (vec![a.clone(), b.clone()], vec![a1.clone(), b1.clone()]),
        (vec![a.clone(), b.clone(), c.clone()], vec![a2.clone(), b1.clone(), c1.clone()]),
        (vec![a.clone(), b.clone(), c.clone()], vec![a2.clone(), c1.clone()]),
        (vec![b.clone(), c.clone()], vec![b1.clone(), c1.clone()]),
        (vec![b.clone()], vec![b1.clone()]),
        (vec![], vec![]),
        (vec![a, b, c], vec![a1, b1, c1]),
    ];
    let mut table_sync = network::nft::TableSync::new("ip t", "services");
    let mut planner = Planner::new(Family::V4);
    let mut scripts = Vec::new();
    for (services, slices) in states {
        let parts = planner.parts(&config(), &NodeTopology::default(), &services, &slices);
        scripts.push(table_sync.diff_script(base_table(&config(), Family::V4), parts.clone()));
        assert!(table_sync.diff_script(base_table(&config(), Family::V4), parts).is_empty(), "nothing is left to do");
        let at_once =
            kernel_table(&[rules(&config(), &NodeTopology::default(), &services, &slices).full_script("ip t")]);
        assert_eq!(sorted(&kernel_table(&scripts)), sorted(&at_once));
    }
}

#[test]
fn near_endpoints_are_preferred_where_all_say_where_they_are() {
    let hinted = |hints: &[(&str, &str, &str)]| {
        let endpoints: Vec<_> = hints
            .iter()
            .map(|(address, node, zone)| {
                let mut hints = json!({});
                if !zone.is_empty() {
                    hints["forZones"] = json!([{ "name": zone }]);
                }
                if !node.is_empty() {
                    hints["forNodes"] = json!([{ "name": node }]);
                }
                json!({"addresses": [address], "conditions": {"ready": true}, "hints": hints})
            })
            .collect();
        let slice = json!({"metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
        Arc::new(serde_json::from_value::<EndpointSlice>(slice).unwrap())
    };
    let topology = NodeTopology { zone: Some("z1".into()) };
    for (hints, topology, chosen) in [
        (&[("10.42.0.2", "", "z1"), ("10.42.1.2", "", "z2")][..], &topology, &["10.42.0.2"][..]),
        (&[("10.42.0.2", "", "z2"), ("10.42.1.2", "", "z2")], &topology, &["10.42.0.2", "10.42.1.2"]),
        (&[("10.42.0.2", "", "z1"), ("10.42.1.2", "", "")], &topology, &["10.42.0.2", "10.42.1.2"]),
        (&[("10.42.0.2", "b", "z1"), ("10.42.1.2", "a", "z1")], &topology, &["10.42.1.2"]),
        // One without a hint for nodes: then none of these hints counts, and those for zones do.
        (&[("10.42.0.2", "", "z1"), ("10.42.1.2", "a", "z2")], &topology, &["10.42.0.2"]),
        (&[("10.42.0.2", "", ""), ("10.42.1.2", "a", "z1")], &topology, &["10.42.0.2", "10.42.1.2"]),
        (&[("10.42.0.2", "", "z1"), ("10.42.1.2", "", "z2")], &NodeTopology::default(), &["10.42.0.2", "10.42.1.2"]),
    ] {
        let rules = rules(&config(), topology, &[web(json!({}))], &[hinted(hints)]);
        let wanted: Vec<String> = chosen.iter().map(|address| format!("{address} . 8080")).collect();
        assert_eq!(places(&rules), wanted, "{hints:?}");
    }
}

#[test]
fn health_ports_count_what_is_here() {
    let slices = [slice("web", &[("10.42.0.2", "a", true), ("10.42.0.3", "a", false), ("10.42.1.2", "b", true)])];
    let found =
        health(&config(), Family::V4, &[web(json!({"type": "LoadBalancer", "healthCheckNodePort": 31000}))], &slices);
    assert_eq!(found[&31000], HealthCheck { service: ("default".into(), "web".into()), local: 1 });
    assert!(health(&config(), Family::V4, &[web(json!({}))], &slices).is_empty());
}

#[test]
fn rules_of_the_other_family_are_of_its_addresses_alone() {
    let mut config = config();
    config.cluster_cidr = "10.42.0.0/16,fd42::/56".parse().unwrap();
    let service =
        web(json!({"type": "LoadBalancer", "clusterIPs": ["10.43.0.5", "fd43::5"], "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"], "externalIPs": ["2001:db8::9", "192.0.2.9"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}));
    let mut balanced = service.as_ref().clone();
    balanced.status =
        serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}))
            .unwrap();
    let addresses: Vec<String> = (1..=9).map(|n| format!("fd42::{n}")).collect();
    let endpoints: Vec<_> = addresses.iter().map(|a| (a.as_str(), "a", true)).collect();
    let mut six = slice("web", &endpoints).as_ref().clone();
    six.address_type = "IPv6".into();
    let slices = [Arc::new(six), slice("web", &[("10.42.0.2", "a", true)])];
    let plain = {
        let mut plain = balanced.clone();
        plain.spec.as_mut().unwrap().session_affinity = None;
        plain
    };
    for service in [balanced, plain] {
        let mut planner = Planner::new(Family::V6);
        let parts = planner.parts(&config, &NodeTopology::default(), &[Arc::new(service)], &slices);
        let mut table_sync = network::nft::TableSync::new("ip6 t", "services");
        let script = table_sync.diff_script(base_table(&config, Family::V6), parts);
        for four in ["192.0.2", "10.42.", "10.43.", "ip saddr", "ip daddr"] {
            assert!(!script.contains(four), "{four}: {script}");
        }
        for key in ["fd43::5 . tcp . 80", "2001:db8::9 . tcp . 80", "2001:db8::1 . tcp . 80", "2001:db8::/32"] {
            assert!(script.contains(key), "{key}: {script}");
        }
        assert!(kernel_table(&["add table ip t".into(), script]).is_ascii(), "the kernel takes it");
    }
}

#[test]
fn ports_of_the_machine_are_told_apart_by_address_and_protocol() {
    let pod = |name: &str, ip: &str, host: serde_json::Value, protocol: &str| {
        let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": host, "protocol": protocol});
        Arc::new(
            serde_json::from_value::<Pod>(json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [port]}]}, "status": {"podIP": ip}}))
            .unwrap(),
        )
    };
    let pods = [
        pod("loopback", "10.42.0.2", json!("127.0.0.1"), "TCP"),
        pod("address", "10.42.0.3", json!("192.0.2.1"), "TCP"),
        pod("datagrams", "10.42.0.4", json!("192.0.2.1"), "UDP"),
        pod("everywhere", "10.42.0.5", json!("0.0.0.0"), "SCTP"),
        pod("other-family", "10.42.0.6", json!("fd00::1"), "TCP"),
        pod("nowhere", "10.42.0.7", json!("no address"), "TCP"),
    ];
    let parts = host_port_parts(Family::V4, &pods);
    let leads = |set: &str, key: &str| {
        let part = parts.values().find(|part| part.has(set, key))?;
        part.chains.values().flatten().next().map(|rule| rule.rsplit(' ').next().unwrap().to_string())
    };
    assert_eq!(leads("services", "127.0.0.1 . tcp . 8080").as_deref(), Some("10.42.0.2:80"));
    assert_eq!(leads("services", "192.0.2.1 . tcp . 8080").as_deref(), Some("10.42.0.3:80"));
    assert_eq!(leads("services", "192.0.2.1 . udp . 8080").as_deref(), Some("10.42.0.4:80"));
    assert_eq!(leads("node_ports", "sctp . 8080").as_deref(), Some("10.42.0.5:80"));
    assert_eq!(parts.len(), 4);
    let mut table_sync = network::nft::TableSync::new("ip t", "services");
    kernel_table(&[table_sync.diff_script(base_table(&config(), Family::V4), parts)]);
}

/// A service of a megabyte may name ten thousand ports and as many networks that may come: each stands there once.
#[test]
fn ports_and_source_ranges_are_not_multiplied() {
    const MANY: usize = 300;
    let ports: Vec<_> =
        (0..MANY).map(|n| json!({"name": format!("p{n}"), "port": 1000 + n, "protocol": "TCP"})).collect();
    let ranges: Vec<_> = (0..MANY).map(|n| format!("192.0.{}.{}/32", n / 100, n % 100 * 2)).collect();
    let service = web(json!({"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ranges}));
    let mut balanced = service.as_ref().clone();
    balanced.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}})).unwrap();
    let mut all = slice("web", &[("10.42.0.2", "a", true)]).as_ref().clone();
    all.ports = serde_json::from_value(
        (0..MANY).map(|n| json!({"name": format!("p{n}"), "port": 8080, "protocol": "TCP"})).collect(),
    )
    .unwrap();
    let table = rules(&config(), &NodeTopology::default(), &[Arc::new(balanced)], &[Arc::new(all)]);
    let rules: Vec<&String> = table.chains.values().flatten().collect();
    assert_eq!(rules.iter().filter(|rule| rule.contains("192.0.1.50")).count(), 1);
    let place = table.sets["services"].elements["198.51.100.1 . tcp . 1007"].clone().unwrap();
    let guarded = &table.chains[place.trim_start_matches("goto ")];
    let guard = &table.chains[guarded[0].trim_start_matches("jump ")];
    assert!(
        guard[0].starts_with("ip saddr { 192.0.0.0") && guard[0].ends_with(" return") && guard[1] == "drop",
        "{guard:?}"
    );
    assert!(table.chains.contains_key(guarded[1].trim_start_matches("goto ")));
    assert!(kernel_table(&[table.full_script("ip t")]).is_ascii(), "the kernel takes it");
}
