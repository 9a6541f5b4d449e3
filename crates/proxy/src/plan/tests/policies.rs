//! Which traffic a service's policies are about, and which services are others' matter.

use super::*;

/// The endpoints that the chain of an element of a map leads to, and those of the chains that this one goes to for some sources.
fn led_to(rules: &Table, set: &str, key: &str) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let Some(goto) = rules.sets[set].elements.get(key).and_then(Option::as_deref) else { return Default::default() };
    let of = |chain: &str| rules.chains.get(chain).cloned().unwrap_or_default();
    let targets = |rules: &[String]| -> Vec<String> {
        rules.iter().filter_map(|rule| Some(rule.split_once("dnat to ")?.1.to_string())).collect()
    };
    let chain = of(goto.trim_start_matches("goto "));
    let others = chain.iter().filter_map(|rule| rule.split_once(" goto "));
    let others = others.map(|(sources, chain)| (sources.to_string(), targets(&of(chain)))).collect();
    (targets(&chain), others)
}

#[test]
fn the_clusters_own_traffic_is_no_matter_of_the_external_policy() {
    let extra = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.5"],
                       "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let own = |to: &[&str]| -> Vec<(String, Vec<String>)> {
        ["ip saddr 10.42.0.0/16", "fib saddr type local ct mark set ct mark or 0x4000"]
            .map(|from| (from.into(), to.iter().map(ToString::to_string).collect()))
            .into()
    };
    for (endpoints, outside, inside) in [
        // None here: clients outside have to go to another node, pods and programs of this one needn't know.
        (&[("10.42.1.2", "b", true)][..], &[][..], &["10.42.1.2:8080"][..]),
        (
            &[("10.42.0.2", "a", true), ("10.42.1.2", "b", true)],
            &["10.42.0.2:8080"],
            &["10.42.0.2:8080", "10.42.1.2:8080"],
        ),
    ] {
        let rules = rules(&config(), &NodeTopology::default(), &[web(extra.clone())], &[slice("web", endpoints)]);
        for (set, key) in [("services", "192.0.2.5 . tcp . 80"), ("node_ports", "tcp . 30080")] {
            let wanted = (outside.iter().map(ToString::to_string).collect(), own(inside));
            assert_eq!(led_to(&rules, set, key), wanted, "{key} {endpoints:?}");
        }
        assert_eq!(rules.has("refused", "192.0.2.5 . tcp . 80"), outside.is_empty());
        assert_eq!(rules.has("refused_ports", "tcp . 30080"), outside.is_empty());
        kernel_table(&[rules.full_script("ip t")]);
    }
}

#[test]
fn ending_endpoints_of_this_node_serve_though_other_nodes_have_ready_ones() {
    let slices = [slice("web", &[("10.42.0.2", "a", false), ("10.42.1.2", "b", true)])];
    let extra = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
                       "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    let rules = rules(&config(), &NodeTopology::default(), &[web(extra)], &slices);
    assert_eq!(places(&rules), ["10.42.0.2 . 8080"]);
    assert_eq!(led_to(&rules, "node_ports", "tcp . 30080").0, ["10.42.0.2:8080"]);
}

#[test]
fn services_and_addresses_that_others_serve_are_left_to_them() {
    let slices = [slice("web", &[("10.42.0.2", "a", true)])];
    let extra = json!({"type": "LoadBalancer", "healthCheckNodePort": 31000});
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let mut labelled = web(extra.clone()).as_ref().clone();
        labelled.metadata.labels = Some([(label.to_string(), String::new())].into());
        let labelled = [Arc::new(labelled)];
        let rules = rules(&config(), &NodeTopology::default(), &labelled, &slices);
        assert!(rules.sets["services"].elements.is_empty() && rules.chains.is_empty(), "{label}");
        assert!(health(&config(), Family::V4, &labelled, &slices).is_empty(), "{label}");
    }
    for (mode, is_ours) in [(json!(null), true), (json!("VIP"), true), (json!("Proxy"), false)] {
        let mut balanced = web(extra.clone()).as_ref().clone();
        let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.6", "ipMode": mode}]}});
        balanced.status = serde_json::from_value(status).unwrap();
        let rules = rules(&config(), &NodeTopology::default(), &[Arc::new(balanced)], &slices);
        assert_eq!(rules.has("services", "192.0.2.6 . tcp . 80"), is_ours, "{mode}");
    }
}
