use std::sync::Arc;

use gateway::kinds::GatewayClass;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn object<T: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Arc<T> {
    let metadata = json!({"name": name, "namespace": "n", "uid": name, "generation": 3});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn snapshot(gateway: Value, routes: Vec<Value>) -> GatewaySnapshot {
    let class: Arc<GatewayClass> = object("c", json!({"controllerName": CONTROLLER_NAME}));
    let mut spec = gateway;
    spec["gatewayClassName"] = "c".into();
    let routes = routes.into_iter().enumerate().map(|(i, spec)| object(&format!("r{i}"), spec)).collect();
    GatewaySnapshot::new(&[class], vec![object("g", spec)], routes, vec![], &[])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Around: one node, a good certificate `good`, a service `web` with port 80.
fn with<T>(second: i64, look: impl FnOnce(&Around<'_>) -> T) -> T {
    look(&Around {
        addresses: &["10.0.0.1".into()],
        certificate: &|_, name| if name == "good" { Ok(()) } else { Err("it isn't there".into()) },
        service: &|_, name, port| if (name, port) == ("web", Some(80)) { Ok(()) } else { Err("missing".into()) },
        now: at(second),
    })
}

fn shown(conditions: &[Condition]) -> String {
    let one = |c: &Condition| format!("{}={}:{}", c.type_, c.status, c.reason);
    conditions.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn gateway(spec: Value, routes: Vec<Value>) -> (String, Vec<String>, Vec<String>) {
    let snapshot = snapshot(spec, routes);
    let status = with(1, |around| gateway_status(&snapshot, &snapshot.gateways[0], around));
    let listener = |l: &ListenerStatus| format!("{}({}) {}", l.name, l.attached_routes, shown(&l.conditions));
    let addresses = status.addresses.iter().filter_map(|a| a.value.clone()).collect();
    (shown(&status.conditions), addresses, status.listeners.iter().map(listener).collect())
}

#[test]
fn a_gateway_says_how_each_listener_is() {
    let (whole, addresses, listeners) = gateway(
        json!({"listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "good"}]}},
            {"name": "bare", "port": 444, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "bad"}]}},
            {"name": "db", "port": 5432, "protocol": "TCP"}]}),
        vec![json!({"parentRefs": [{"name": "g", "sectionName": "http"}]}), json!({"parentRefs": [{"name": "g"}]})],
    );
    assert_eq!(whole, "Accepted=True:ListenersNotValid Programmed=True:Programmed");
    assert_eq!(addresses, ["10.0.0.1"]);
    let good =
        "Accepted=True:Accepted Conflicted=False:NoConflicts ResolvedRefs=True:ResolvedRefs Programmed=True:Programmed";
    assert_eq!(listeners[0], format!("http(2) {good}"));
    assert_eq!(listeners[1], format!("https(1) {good}"));
    assert_eq!(
        listeners[2],
        "bare(1) Accepted=True:Accepted Conflicted=False:NoConflicts ResolvedRefs=False:InvalidCertificateRef Programmed=False:Invalid"
    );
    assert!(listeners[3].contains("Accepted=False:UnsupportedProtocol"), "{}", listeners[3]);
}

#[test]
fn addresses_are_those_of_nodes() {
    let asks = |address: Value| {
        let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
        gateway(json!({"listeners": listeners, "addresses": [address]}), vec![]).0
    };
    assert_eq!(asks(json!({"value": "10.0.0.1"})), "Accepted=True:Accepted Programmed=True:Programmed");
    assert_eq!(asks(json!({"value": "10.0.0.9"})), "Accepted=True:Accepted Programmed=False:AddressNotUsable");
    let named = asks(json!({"type": "Hostname", "value": "x"}));
    assert_eq!(named, "Accepted=False:UnsupportedAddress Programmed=False:UnsupportedAddress");
}

#[test]
fn a_route_says_who_takes_it_and_what_it_lacks() {
    let listeners =
        json!({"listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"}]});
    let route = |spec: Value| {
        let mut spec = spec;
        spec["parentRefs"] = json!([{"name": "g"}, {"name": "somebody-else"}]);
        let snapshot = snapshot(listeners.clone(), vec![spec]);
        let status = with(1, |around| route_status(&snapshot, &snapshot.routes[0], around));
        status.parents.iter().map(|p| format!("{} {}", p.parent_ref.name, shown(&p.conditions))).collect::<Vec<_>>()
    };
    let rule = |service: &str| json!({"rules": [{"backendRefs": [{"name": service, "port": 80}]}]});
    assert_eq!(route(rule("web")), ["g Accepted=True:Accepted ResolvedRefs=True:ResolvedRefs"]);
    assert_eq!(route(rule("gone")), ["g Accepted=True:Accepted ResolvedRefs=False:BackendNotFound"]);
    let elsewhere = json!({"hostnames": ["b.example.com"]});
    assert_eq!(route(elsewhere), ["g Accepted=False:NoMatchingListenerHostname ResolvedRefs=True:ResolvedRefs"]);
    let odd = json!({"rules": [{"filters": [{"type": "RequestMirror"}]}]});
    assert_eq!(route(odd), ["g Accepted=False:UnsupportedValue ResolvedRefs=True:ResolvedRefs"]);
}

#[test]
fn what_stays_keeps_its_time_and_others_words_stay() {
    let listeners = json!({"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]});
    let theirs = json!({"parentRef": {"name": "x"}, "controllerName": "them", "conditions": []});
    let mut snapshot = snapshot(listeners, vec![json!({"parentRefs": [{"name": "g"}]})]);
    let mut route = HTTPRoute::clone(&snapshot.routes[0]);
    route.status = Some(HTTPRouteStatus { parents: vec![serde_json::from_value(theirs).unwrap()] });
    let first = with(1, |around| route_status(&snapshot, &route, around));
    assert_eq!(first.parents.len(), 2);
    route.status = Some(first.clone());
    assert_eq!(with(2, |around| route_status(&snapshot, &route, around)), first);
    // Without its Gateway nothing is said any more of us, and of them what they said.
    snapshot.gateways.clear();
    let after = with(3, |around| route_status(&snapshot, &route, around));
    assert_eq!(after.parents.iter().map(|p| p.controller_name.as_str()).collect::<Vec<_>>(), ["them"]);
    assert!(has_our_status(&route));
}
