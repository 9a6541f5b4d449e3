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

fn annotated(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), Value::from(*value))).collect()
}

#[test]
fn a_canary_takes_its_share_of_its_own_namespace() {
    let (services, slices) = services(&["a", "b"]);
    let main =
        ingress("main", json!({}), json!({"rules": [rule("h", &[("/", "Prefix", "a"), ("/x", "Prefix", "a")])]}));
    let canary = annotated(&[
        ("canary", "true"),
        ("canary-by-header", "X-Canary"),
        ("canary-by-cookie", "c"),
        ("canary-weight", "30"),
    ]);
    let canary = ingress(
        "canary",
        canary,
        json!({"rules": [rule("H", &[("/", "Prefix", "b")]), rule("only", &[("/", "Prefix", "b")])]}),
    );
    let mut foreign = (*canary).clone();
    foreign.metadata.namespace = Some("other".into());
    foreign.spec.as_mut().unwrap().rules.as_mut().unwrap()[0].http.as_mut().unwrap().paths[0].path = Some("/x".into());
    // In whatever order they come.
    for all in [[canary.clone(), main.clone(), Arc::new(foreign.clone())], [main, Arc::new(foreign), canary]] {
        let hosts = built(&all, &services, &slices);
        let found = hosts.route("h", &request("/")).unwrap();
        assert_eq!(found.action.backends[0].name, "n/a:80");
        let canary = found.action.canary.as_ref().unwrap();
        assert_eq!((canary.backend.name.as_str(), canary.backend.endpoints.len()), ("n/b:80", 1));
        let takes = |headers: &[(&str, &str)], chance| {
            let mut request = Request::get("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            canary.takes(request.body(()).unwrap().headers(), chance)
        };
        assert!(takes(&[], 29) && !takes(&[], 30));
        assert!(takes(&[("x-canary", "always")], 99) && !takes(&[("x-canary", "never")], 0));
        assert!(takes(&[("x-canary", "other"), ("cookie", "d=never; c=always")], 99));
        assert!(!takes(&[("cookie", "c=never")], 0) && takes(&[("cookie", "cc=never")], 0));
        assert!(hosts.route("h", &request("/x")).unwrap().action.canary.is_none(), "another namespace's");
        assert!(hosts.route("only", &request("/")).is_none(), "a canary alone serves nothing");
    }
}

#[test]
fn annotations_redirect_and_restrict() {
    let (services, slices) = services(&["a"]);
    let with = |pairs: &[(&str, &str)]| {
        let all = [ingress("i", annotated(pairs), json!({"rules": [rule("h", &[("/", "Prefix", "a")])]}))];
        built(&all, &services, &slices)
    };
    let action = |pairs: &[(&str, &str)]| with(pairs).route("h", &request("/p")).unwrap().action;
    let found = action(&[("whitelist-source-range", "10.0.0.0/8, fd00::1"), ("denylist-source-range", "10.1.0.0/16")]);
    let allows = |address: &str| found.access.allows(address.parse().unwrap());
    assert!(
        allows("10.2.0.1") && allows("fd00::1") && !allows("10.1.0.1") && !allows("192.0.2.1") && !allows("fd00::2")
    );
    assert!(action(&[("auth-url", "http://auth/")]).access.refused.is_some());
    assert_eq!(action(&[("proxy-read-timeout", "5")]).backend_timeout, Some(std::time::Duration::from_secs(5)));
    assert_eq!(action(&[("upstream-vhost", "inner")]).host.as_deref(), Some("inner"));
    let to = action(&[("temporal-redirect", "https://b/"), ("permanent-redirect", "https://c/")]);
    assert_eq!(to.redirect.as_ref().and_then(|to| to.url.as_deref()), Some("https://b/"));
    let root = with(&[("app-root", "/app")]);
    assert!(root.route("h", &request("/")).unwrap().action.redirect.is_some());
    assert!(root.route("h", &request("/p")).unwrap().action.redirect.is_none());
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
