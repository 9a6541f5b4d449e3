use gateway::kinds::{Gateway, GatewayClass};
use http::Request;
use serde_json::{Value, json};

use super::*;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "n", "uid": name})
}

/// One Gateway with a listener for all hosts, one for `*.example.com`, both on port 80; services `a` and `b`.
fn table(rules: Value, hosts: &[&str]) -> Table {
    table_of(rules, hosts, vec![json!({"name": "g"})])
}

fn table_of(rules: Value, hosts: &[&str], parents: Vec<Value>) -> Table {
    let class: Arc<GatewayClass> =
        object(json!({"metadata": {"name": "c"}, "spec": {"controllerName": ::gateway::CONTROLLER_NAME}}));
    let listeners = json!([{"name": "all", "port": 80, "protocol": "HTTP"},
        {"name": "some", "port": 80, "protocol": "HTTP", "hostname": "*.example.com"}]);
    let gateway: Arc<Gateway> =
        object(json!({"metadata": meta("g"), "spec": {"gatewayClassName": "c", "listeners": listeners}}));
    let route = object(json!({"metadata": meta("r"), "spec": {
        "parentRefs": parents, "hostnames": hosts, "rules": rules}}));
    let snapshot = GatewaySnapshot::new(&[class], vec![gateway], vec![route], vec![], &[]);
    let service = |name: &str| object(json!({"metadata": meta(name), "spec": {"ports": [{"port": 80}]}}));
    let services = [service("a"), service("b")];
    let mut table = Table::default();
    add(&mut table, &snapshot, &Services::new(&services, &[]), &mut Expressions::default());
    table.ports.values_mut().for_each(|port| port.hosts.sort());
    table
}

fn found(table: &Table, host: &str, request: http::request::Builder) -> String {
    let request = request.body(()).unwrap().into_parts().0;
    let Some(found) = table.ports[&80].hosts.route(host, &request) else { return "none".into() };
    let backends = found.action.backends.iter();
    let backends: Vec<String> =
        backends.map(|b| b.invalid.clone().unwrap_or_else(|| format!("{}*{}", b.name, b.weight))).collect();
    format!("{} {}", backends.join("+"), found.rewrite_path(found.action.path.as_ref(), request.uri.path()))
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

#[test]
fn the_rule_that_asks_most_wins() {
    let rules = json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": to("a")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/x"}, "headers": [{"name": "Version", "value": "2"}]},
                     {"path": {"type": "PathPrefix", "value": "/x"}, "queryParams": [{"name": "v", "value": "2"}]},
                     {"path": {"type": "RegularExpression", "value": "/[0-9]+"}}],
         "backendRefs": to("b")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/x"}, "method": "POST"}], "backendRefs": to("gone")}]);
    let table = table(rules, &[]);
    let get = |path: &str| Request::get(path);
    assert_eq!(found(&table, "h", get("/x/y")), "n/a:80*1 /x/y");
    assert_eq!(found(&table, "h", get("/x").header("version", "2")), "n/b:80*1 /x");
    assert_eq!(found(&table, "h", get("/xy").header("version", "2")), "n/a:80*1 /xy");
    assert_eq!(found(&table, "h", get("/x?u=1&v=2")), "n/b:80*1 /x");
    assert_eq!(found(&table, "h", get("/77")), "n/b:80*1 /77");
    assert_eq!(found(&table, "h", get("/77x")), "n/a:80*1 /77x");
    let post = Request::post("/x").header("version", "2");
    assert_eq!(found(&table, "h", post), "there is no service n/gone /x");
}

#[test]
fn hosts_are_those_of_route_and_listener() {
    let rules = json!([{"backendRefs": to("a")}]);
    let of_one = table(rules.clone(), &["a.example.com"]);
    assert_eq!(found(&of_one, "a.example.com", Request::get("/")), "n/a:80*1 /");
    assert_eq!(found(&of_one, "b.example.com", Request::get("/")), "none");
    let of_all = table(rules, &[]);
    // By any number of names, unlike an Ingress' wildcard.
    assert_eq!(found(&of_all, "a.b.example.com", Request::get("/")), "n/a:80*1 /");
    assert_eq!(found(&of_all, "elsewhere.org", Request::get("/")), "n/a:80*1 /");
}

#[test]
fn paths_and_headers_are_changed() {
    let rules = json!([
        {"matches": [{"path": {"value": "/old"}}], "backendRefs": to("a"),
         "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "inner", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new/"}}},
                     {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                         "set": [{"name": "a", "value": "1"}], "add": [{"name": "b", "value": "2"}], "remove": ["c"]}}]},
        {"matches": [{"path": {"value": "/bare"}}], "backendRefs": to("a"),
         "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]},
        {"matches": [{"path": {"value": "/odd"}}], "backendRefs": to("a"), "filters": [{"type": "RequestMirror"}]}]);
    let table = table(rules, &[]);
    assert_eq!(found(&table, "h", Request::get("/old/x")), "n/a:80*1 /new/x");
    assert_eq!(found(&table, "h", Request::get("/old")), "n/a:80*1 /new");
    assert_eq!(found(&table, "h", Request::get("/bare")), "n/a:80*1 /");
    assert_eq!(found(&table, "h", Request::get("/odd")), "filter RequestMirror isn't supported /odd");
    let parts = Request::get("/old").body(()).unwrap().into_parts().0;
    let action = table.ports[&80].hosts.route("h", &parts).unwrap().action;
    let mut headers = http::HeaderMap::new();
    for (name, value) in [("a", "0"), ("b", "1"), ("c", "1")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    action.request.apply(&mut headers);
    let all: Vec<String> = headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    assert_eq!((all.join(" "), action.host.as_deref()), ("a=1 b=1 b=2".into(), Some("inner")));
}

/// Thirty-two ways to name a Gateway, sixteen hosts, sixteen rules and sixty-four matches are half a million rules in ten kilobytes.
#[test]
fn what_a_route_multiplies_is_bounded() {
    let matches: Vec<Value> = (0..64).map(|n| json!({"path": {"type": "Exact", "value": format!("/{n}")}})).collect();
    let rules: Vec<Value> = (0..16).map(|_| json!({"matches": matches, "backendRefs": to("a")})).collect();
    let hosts: Vec<String> = (0..16).map(|n| format!("h{n}.example.com")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let wide = table(json!(rules), &hosts);
    assert!(
        (16_000..=MAX_RULES).contains(&wide.ports[&80].hosts.rule_count()),
        "{}",
        wide.ports[&80].hosts.rule_count()
    );
    // Named in many ways it is the same once.
    let few = json!([{"matches": [{"path": {"value": "/x"}}], "backendRefs": to("a")}]);
    assert_eq!(
        table_of(few.clone(), &["a.example.com"], vec![json!({"name": "g"}); 32]).ports[&80].hosts.rule_count(),
        2
    );
}
