use http::Request;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::table::RouteMatch;

fn ingress(name: &str, annotations: Value, spec: Value) -> Arc<Ingress> {
    let ingress = json!({"metadata": {"name": name, "namespace": "n", "annotations": annotations}, "spec": spec});
    Arc::new(serde_json::from_value(ingress).unwrap())
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(path, kind, service)| {
            json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
        })
        .collect();
    let mut rule = json!({"http": {"paths": paths}});
    if !host.is_empty() {
        rule["host"] = host.into();
    }
    rule
}

fn services(names: &[&str]) -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
    let service = |name: &&str| {
        let service =
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
        Arc::new(serde_json::from_value(service).unwrap())
    };
    let slice = |name: &&str| {
        let slice = json!({"metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}], "endpoints": [{"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]});
        Arc::new(serde_json::from_value(slice).unwrap())
    };
    (names.iter().map(service).collect(), names.iter().map(slice).collect())
}

fn built(ingresses: &[Arc<Ingress>], services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> VirtualHosts {
    let mut hosts = VirtualHosts::default();
    add(&mut hosts, ingresses, &Services::new(services, slices), &mut Expressions::default());
    hosts.sort();
    hosts
}

fn request(path: &str) -> http::request::Parts {
    Request::get(path).body(()).unwrap().into_parts().0
}

fn check(ingresses: &[Arc<Ingress>], cases: &[(&str, &str, &str)]) {
    let (services, slices) = services(&["a", "b", "c", "d"]);
    let hosts = built(ingresses, &services, &slices);
    for (host, path, wanted) in cases {
        let found = hosts.route(host, &request(path));
        let display = |found: RouteMatch| {
            format!("{} {}", found.action.backends[0].name, found.rewrite_path(found.action.path.as_ref(), path))
        };
        let found = found.map(display);
        assert_eq!(found.unwrap_or_else(|| "none".into()), *wanted, "{host} {path}");
    }
}

#[test]
fn hosts_and_paths_lead_to_services() {
    let spec = json!({"rules": [
        rule("www.letschat.com", &[("/", "Prefix", "a"), ("/api", "Prefix", "b"), ("/api/v1", "Exact", "c")]),
        rule("*.example.com", &[("/", "Prefix", "d")]),
        rule("", &[("/any", "ImplementationSpecific", "c")])]});
    check(
        &[ingress("i", json!({}), spec)],
        &[
            ("www.letschat.com", "/", "n/a:80 /"),
            ("WWW.LetsChat.com", "/apix", "n/a:80 /apix"),
            ("www.letschat.com", "/api", "n/b:80 /api"),
            ("www.letschat.com", "/api/", "n/b:80 /api/"),
            ("www.letschat.com", "/api/v1", "n/c:80 /api/v1"),
            ("www.letschat.com", "/api/v1/x", "n/b:80 /api/v1/x"),
            ("x.example.com", "/y", "n/d:80 /y"),
            ("x.y.example.com", "/y", "none"),
            ("example.com", "/y", "none"),
            ("other.org", "/any/thing", "n/c:80 /any/thing"),
            ("other.org", "/", "none"),
        ],
    );
}

#[test]
fn the_default_backend_takes_what_is_left_and_the_older_rule_wins() {
    let default = json!({"defaultBackend": {"service": {"name": "d", "port": {"name": "web"}}}});
    let one = json!({"rules": [rule("h", &[("/x", "Prefix", "a")])]});
    let two = json!({"rules": [rule("h", &[("/x", "Prefix", "b"), ("/x/y", "Prefix", "c")])]});
    let all = [ingress("one", json!({}), one), ingress("two", json!({}), two), ingress("default", json!({}), default)];
    check(
        &all,
        &[("h", "/x", "n/a:80 /x"), ("h", "/x/y/z", "n/c:80 /x/y/z"), ("h", "/", "n/d:web /"), ("g", "/", "n/d:web /")],
    );
}

#[test]
fn annotations_rewrite_paths() {
    let spec = |path: &str, kind: &str| json!({"rules": [rule("h", &[(path, kind, "a")])]});
    let rewrite = |target: &str| json!({"nginx.ingress.kubernetes.io/rewrite-target": target});
    check(
        &[ingress("i", rewrite("/$2"), spec("/app(/|$)(.*)", "ImplementationSpecific"))],
        &[("h", "/app", "n/a:80 /"), ("h", "/app/x/y", "n/a:80 /x/y"), ("h", "/application", "none")],
    );
    check(&[ingress("i", rewrite("/"), spec("/app", "Prefix"))], &[("h", "/app/x", "n/a:80 /")]);
}

#[test]
fn endpoints_are_the_ready_ones_and_missing_services_have_none() {
    let (services, slices) = services(&["a"]);
    let spec = json!({"rules": [rule("h", &[("/", "Prefix", "a"), ("/gone", "Prefix", "gone")])],
        "tls": [{"hosts": ["h"], "secretName": "cert"}]});
    let body = json!({"nginx.ingress.kubernetes.io/proxy-body-size": "2m"});
    let all = [ingress("i", body, spec)];
    let hosts = built(&all, &services, &slices);
    let found = hosts.route("h", &request("/")).unwrap();
    assert_eq!(found.action.backends[0].endpoints, ["10.0.0.1:8080".into()]);
    assert!(found.action.redirect.as_ref().is_some_and(|r| r.only_http));
    assert_eq!(found.action.max_body_bytes, Some(2 << 20));
    assert!(hosts.route("h", &request("/gone")).unwrap().action.backends[0].endpoints.is_empty());
    assert_eq!(secrets(&all), [("n".to_string(), "cert".to_string(), vec!["h".to_string()])]);
}

#[test]
fn only_ingresses_of_own_classes_are_served() {
    let class = |name: &str, controller: &str, default: bool| {
        let class = json!({"metadata": {"name": name, "annotations": {DEFAULT_CLASS_ANNOTATION: default.to_string()}}, "spec": {"controller": controller}});
        Arc::new(serde_json::from_value::<IngressClass>(class).unwrap())
    };
    let all = [
        ingress("mine", json!({}), json!({"ingressClassName": "timonel"})),
        ingress("theirs", json!({}), json!({"ingressClassName": "other"})),
        ingress("old", json!({"kubernetes.io/ingress.class": "timonel"}), json!({})),
        ingress("plain", json!({}), json!({})),
    ];
    let names = |classes: &[Arc<IngressClass>]| served(&all, classes).iter().map(|i| i.name_any()).collect::<Vec<_>>();
    assert_eq!(names(&[class("timonel", CONTROLLER_NAME, true), class("other", "x", false)]), ["mine", "old", "plain"]);
    assert_eq!(names(&[class("timonel", CONTROLLER_NAME, false)]), ["mine", "old"]);
    assert_eq!(names(&[]), [""; 0]);
}
