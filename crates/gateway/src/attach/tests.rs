use super::*;
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(name: &str, namespace: &str, spec: Value) -> Arc<T> {
    let meta = json!({"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

fn snapshot(listeners: Value, routes: Vec<Arc<HTTPRoute>>, grants: Vec<Arc<ReferenceGrant>>) -> GatewaySnapshot {
    let class: Arc<GatewayClass> = object("ours", "", json!({"controllerName": CONTROLLER_NAME}));
    let gateways = vec![
        object("web", "infra", json!({"gatewayClassName": "ours", "listeners": listeners})),
        object("other", "infra", json!({"gatewayClassName": "theirs", "listeners": []})),
    ];
    let namespace = json!({"metadata": {"name": "shop", "labels": {"kind": "app"}}});
    GatewaySnapshot::new(&[class], gateways, routes, grants, &[Arc::new(serde_json::from_value(namespace).unwrap())])
}

fn route(namespace: &str, spec: Value) -> Arc<HTTPRoute> {
    let mut spec = spec;
    spec["parentRefs"] = json!([{"name": "web", "namespace": "infra"}, {"name": "other", "namespace": "infra"}]);
    object("r", namespace, spec)
}

fn outcome(snapshot: &GatewaySnapshot) -> String {
    let parents = snapshot.route_parents(&snapshot.routes[0]);
    assert_eq!(parents.len(), 1, "one of the Gateways is ours");
    match &parents[0].attached {
        Ok(all) => all.iter().map(|a| format!("{}:{}", a.listener, a.hosts.join("+"))).collect::<Vec<_>>().join(" "),
        Err(problem) => problem.reason.into(),
    }
}

#[test]
fn hosts_are_those_that_both_want() {
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("", &[], &[""]),
        ("a.example.com", &[], &["a.example.com"]),
        ("", &["A.example.com"], &["a.example.com"]),
        ("*.example.com", &["a.example.com", "b.a.example.com", "example.com"], &["a.example.com", "b.a.example.com"]),
        ("a.example.com", &["*.example.com"], &["a.example.com"]),
        ("*.example.com", &["*.a.example.com", "*.com"], &["*.a.example.com", "*.example.com"]),
        ("a.example.com", &["b.example.com"], &[]),
        ("*.example.com", &["badexample.com"], &[]),
    ];
    for (listener, hosts, wanted) in cases {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(intersect_hostnames(listener, &hosts), wanted, "{listener} {hosts:?}");
    }
}

#[test]
fn routes_attach_where_they_are_allowed() {
    let listener = |name: &str, allowed: Value| {
        json!({"name": name, "port": 80, "protocol": "HTTP",
            "hostname": format!("{name}.example.com"), "allowedRoutes": {"namespaces": allowed}})
    };
    let by_label = json!({"from": "Selector", "selector": {"matchLabels": {"kind": "app"}}});
    let listeners = json!([
        listener("same", json!({"from": "Same"})),
        listener("all", json!({"from": "All"})),
        listener("some", by_label),
    ]);
    let case =
        |namespace: &str, spec: Value| outcome(&snapshot(listeners.clone(), vec![route(namespace, spec)], vec![]));
    assert_eq!(case("infra", json!({})), "0:same.example.com 1:all.example.com");
    assert_eq!(case("shop", json!({})), "1:all.example.com 2:some.example.com");
    assert_eq!(case("elsewhere", json!({"hostnames": ["*.example.com"]})), "1:all.example.com");
    assert_eq!(case("elsewhere", json!({"hostnames": ["same.example.com"]})), "NoMatchingListenerHostname");
    let closed = json!([listener("same", json!({"from": "Same"}))]);
    assert_eq!(outcome(&snapshot(closed, vec![route("shop", json!({}))], vec![])), "NotAllowedByListeners");
}

#[test]
fn listeners_in_each_others_way_are_refused() {
    let of = |listeners: Value| {
        let snapshot = snapshot(listeners, vec![], vec![]);
        let gateway = snapshot.gateways[0].clone();
        let all =
            (0..gateway.spec.listeners.len()).map(|i| snapshot.listener_problem(&gateway, i).map_or("", |p| p.reason));
        all.collect::<Vec<_>>().join(",")
    };
    let listener = |port: u16, protocol: &str, host: &str| {
        json!({"name": format!("{port}{host}"), "port": port,
            "protocol": protocol, "hostname": host})
    };
    assert_eq!(of(json!([listener(80, "HTTP", "a"), listener(80, "HTTP", "b"), listener(443, "HTTPS", "a")])), ",,");
    assert_eq!(of(json!([listener(80, "HTTP", "a"), listener(80, "HTTP", "a")])), "HostnameConflict,HostnameConflict");
    assert_eq!(of(json!([listener(80, "HTTP", "a"), listener(80, "HTTPS", "b")])), "ProtocolConflict,ProtocolConflict");
    assert_eq!(of(json!([listener(5432, "TCP", "a")])), "UnsupportedProtocol");
    let taken = json!([listener(443, "HTTP", "a"), listener(80, "HTTPS", "a"), listener(10250, "HTTPS", "a")]);
    assert_eq!(of(taken), "PortUnavailable,PortUnavailable,PortUnavailable");
}

#[test]
fn another_namespace_has_to_allow_references() {
    let grant = |to: Value| {
        object(
            "g",
            "data",
            json!({"to": [to], "from": [
            {"group": GROUP, "kind": "HTTPRoute", "namespace": "shop"}]}),
        )
    };
    let to: HTTPBackendRef = serde_json::from_value(json!({"name": "db", "namespace": "data", "port": 80})).unwrap();
    let allowed = |grants: Vec<Arc<ReferenceGrant>>, from: &str| {
        let snapshot = snapshot(json!([]), vec![route(from, json!({}))], grants);
        snapshot.backend_service(&snapshot.routes[0], &to).map_err(|p| p.reason)
    };
    let found = Ok(("data".to_string(), "db".to_string()));
    assert_eq!(allowed(vec![grant(json!({"group": "", "kind": "Service"}))], "shop"), found);
    assert_eq!(allowed(vec![grant(json!({"group": "", "kind": "Service", "name": "db"}))], "shop"), found);
    assert_eq!(allowed(vec![], "data"), found);
    for (grants, from) in [
        (vec![], "shop"),
        (vec![grant(json!({"group": "", "kind": "Service", "name": "other"}))], "shop"),
        (vec![grant(json!({"group": "", "kind": "Secret"}))], "shop"),
        (vec![grant(json!({"group": "", "kind": "Service"}))], "elsewhere"),
    ] {
        assert_eq!(allowed(grants, from), Err("RefNotPermitted"));
    }
}
