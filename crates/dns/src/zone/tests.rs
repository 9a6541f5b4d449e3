use serde_json::{Value, json};

use super::*;

fn zone() -> Zone {
    let service = |name: &str, namespace: &str, spec: Value| {
        let value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        Arc::new(serde_json::from_value::<Service>(value).unwrap())
    };
    let ip = |ip: &str, ports: Value| json!({"clusterIP": ip, "clusterIPs": [ip], "ports": ports});
    let two = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "metrics", "port": 9090}]);
    let both = json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8", "fd43::8"], "ports": [{"port": 80}]});
    let services = [
        service("nginx", "default", json!({"clusterIP": "None", "ports": [{"name": "web", "port": 80}]})),
        service("quiet", "default", json!({"clusterIP": "None"})),
        service("portless", "default", json!({"clusterIP": "None"})),
        service("early", "default", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
        service("api", "shop", ip("10.43.0.7", two)),
        service("both", "shop", both),
        service("out", "default", json!({"type": "ExternalName", "externalName": "example.org"})),
        service("number", "default", json!({"type": "ExternalName", "externalName": "192.0.2.1"})),
        service("lost", "gone", ip("10.43.0.9", json!([{"port": 80}]))),
    ];
    let slice = |service: &str, namespace: &str, family: &str, ports: Value, endpoints: Value| {
        let value = json!({"metadata": {"name": format!("{service}-1"), "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "ports": ports, "endpoints": endpoints});
        Arc::new(serde_json::from_value::<EndpointSlice>(value).unwrap())
    };
    let web = json!([{"name": "web", "port": 8080, "protocol": "TCP"}]);
    let two = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "metrics", "port": 9090, "protocol": "TCP"}]);
    let slices = [
        slice(
            "nginx",
            "default",
            "IPv4",
            web.clone(),
            json!([
            {"addresses": ["10.42.0.2"], "hostname": "web-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"], "hostname": "web-1", "conditions": {"ready": false}},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": true}}]),
        ),
        slice("nginx", "default", "IPv6", web, json!([{"addresses": ["fd42::"]}])),
        slice("portless", "default", "IPv4", Value::Null, json!([{"addresses": ["10.42.0.5"]}])),
        slice(
            "early",
            "default",
            "IPv4",
            json!([]),
            json!([{"addresses": ["10.42.0.6"], "conditions": {"ready": false}}]),
        ),
        slice(
            "api",
            "shop",
            "IPv4",
            two,
            json!([
            {"addresses": ["10.42.0.4"]}, {"addresses": ["10.42.0.7"], "hostname": "first"}]),
        ),
    ];
    let namespaces = ["default", "shop", "empty"]
        .map(|name| Arc::new(serde_json::from_value::<Namespace>(json!({"metadata": {"name": name}})).unwrap()));
    Zone::build("cluster.local", "10.43.0.10".parse().ok(), &services, &slices, &namespaces)
}

fn said(zone: &Zone, name: &str, kind: RecordType) -> String {
    match zone.answer(&parse_name(name), kind) {
        ZoneAnswer::Records(records) => records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(" | "),
        ZoneAnswer::NoData(_) => "no data".into(),
        ZoneAnswer::NameError(_) => "no such name".into(),
        ZoneAnswer::NotReady => "not yet".into(),
        ZoneAnswer::NotInZone => "elsewhere".into(),
    }
}

fn check(name: &str, kind: RecordType, want: &str) {
    assert_eq!(said(&zone(), name, kind), want, "{name} {kind}");
}

#[test]
fn services_have_their_addresses_and_ports() {
    check("api.shop.svc.cluster.local", RecordType::A, "10.43.0.7");
    check("API.Shop.svc.cluster.local", RecordType::A, "10.43.0.7");
    check("api.shop.svc.cluster.local", RecordType::AAAA, "no data");
    check("api.shop.svc.cluster.local", RecordType::TXT, "no data");
    check("both.shop.svc.cluster.local", RecordType::AAAA, "fd43::8");
    let api = "api.shop.svc.cluster.local";
    check(&format!("_http._tcp.{api}"), RecordType::SRV, &format!("0 100 80 {api}."));
    check(&format!("http.tcp.{api}"), RecordType::SRV, &format!("0 100 80 {api}."));
    check(&format!("_http._tcp.{api}"), RecordType::A, "10.43.0.7");
    check(&format!("_http._udp.{api}"), RecordType::SRV, "no such name");
    check(api, RecordType::SRV, &format!("0 50 80 {api}. | 0 50 9090 {api}."));
    check("both.shop.svc.cluster.local", RecordType::SRV, "0 50 80 both.shop.svc.cluster.local.");
}

#[test]
fn headless_services_have_their_endpoints() {
    let nginx = "nginx.default.svc.cluster.local";
    check(nginx, RecordType::A, "10.42.0.2 | 10.42.0.4");
    check(nginx, RecordType::AAAA, "fd42::");
    check(&format!("web-0.{nginx}"), RecordType::A, "10.42.0.2");
    check("WEB-0.Nginx.default.svc.cluster.local", RecordType::A, "10.42.0.2");
    check(&format!("web-1.{nginx}"), RecordType::A, "no such name");
    check(&format!("10-42-0-4.{nginx}"), RecordType::A, "10.42.0.4");
    check(&format!("fd42--0.{nginx}"), RecordType::AAAA, "fd42::");
    let three = format!("0 33 8080 web-0.{nginx}. | 0 33 8080 10-42-0-4.{nginx}. | 0 33 8080 fd42--0.{nginx}.");
    check(nginx, RecordType::SRV, &three);
    check(&format!("_web._tcp.{nginx}"), RecordType::SRV, &three);
    check(&format!("web-0.{nginx}"), RecordType::SRV, &format!("0 100 8080 web-0.{nginx}."));
    check(&format!("_other._tcp.{nginx}"), RecordType::SRV, "no such name");
    // Without a ready endpoint there is no name; without a port there is one.
    check("quiet.default.svc.cluster.local", RecordType::A, "no such name");
    check("portless.default.svc.cluster.local", RecordType::A, "10.42.0.5");
    check("portless.default.svc.cluster.local", RecordType::SRV, "no data");
    check("early.default.svc.cluster.local", RecordType::A, "10.42.0.6");
    // What SRV records lead to comes with them.
    let ZoneAnswer::Records(records) = zone().answer(&parse_name(nginx), RecordType::SRV) else { panic!("no records") };
    let more: Vec<String> = zone().additional_records(&records).iter().map(|r| r.data.to_string()).collect();
    assert_eq!(more, ["10.42.0.4", "fd42::", "10.42.0.2"]);
}

#[test]
fn endpoints_of_every_service_have_names_both_ways() {
    check("first.api.shop.svc.cluster.local", RecordType::A, "10.42.0.7");
    check("10-42-0-4.api.shop.svc.cluster.local", RecordType::A, "10.42.0.4");
    check("7.0.42.10.in-addr.arpa", RecordType::PTR, "first.api.shop.svc.cluster.local.");
    check("2.0.42.10.in-addr.arpa", RecordType::PTR, "web-0.nginx.default.svc.cluster.local.");
    check("7.0.43.10.in-addr.arpa", RecordType::PTR, "api.shop.svc.cluster.local.");
    let two = "10-42-0-4.nginx.default.svc.cluster.local. | 10-42-0-4.api.shop.svc.cluster.local.";
    check("4.0.42.10.in-addr.arpa", RecordType::PTR, two);
    check("4.0.42.10.in-addr.arpa", RecordType::A, "no data");
    let v6 = format!("8.{}3.4.d.f.ip6.arpa", "0.".repeat(27));
    check(&v6, RecordType::PTR, "both.shop.svc.cluster.local.");
    check(&v6.to_uppercase(), RecordType::PTR, "both.shop.svc.cluster.local.");
    // A pod that isn't ready, and what is no address of the cluster's.
    check("3.0.42.10.in-addr.arpa", RecordType::PTR, "elsewhere");
    for other in
        ["9.9.9.9.in-addr.arpa", "9.9.9.in-addr.arpa", "x.0.42.10.in-addr.arpa", "1.0.ip6.arpa", "in-addr.arpa"]
    {
        check(other, RecordType::PTR, "elsewhere");
    }
}

#[test]
fn names_of_other_hosts_are_aliases() {
    check("out.default.svc.cluster.local", RecordType::A, "example.org.");
    check("out.default.svc.cluster.local", RecordType::CNAME, "example.org.");
    check("x.out.default.svc.cluster.local", RecordType::A, "no such name");
    check("_http._tcp.out.default.svc.cluster.local", RecordType::SRV, "no such name");
    check("number.default.svc.cluster.local", RecordType::A, "no such name");
}

#[test]
fn the_zone_says_what_it_is() {
    check("dns-version.cluster.local", RecordType::TXT, "1.1.0");
    check("dns-version.cluster.local", RecordType::A, "no data");
    check("cluster.local", RecordType::A, "no data");
    check("cluster.local", RecordType::NS, "ns.dns.cluster.local.");
    check("ns.dns.cluster.local", RecordType::A, "10.43.0.10");
    check("svc.cluster.local", RecordType::A, "no data");
    check("pod.cluster.local", RecordType::A, "no data");
    assert!(said(&zone(), "cluster.local", RecordType::SOA).starts_with("ns.dns.cluster.local. hostmaster."));
    check("api.shop.svc.cluster.local", RecordType::SOA, "no data");
}

#[test]
fn there_is_nothing_in_namespaces_that_are_not() {
    check("empty.svc.cluster.local", RecordType::A, "no data");
    check("empty.pod.cluster.local", RecordType::A, "no data");
    check("gone.svc.cluster.local", RecordType::A, "no such name");
    check("lost.gone.svc.cluster.local", RecordType::A, "no such name");
    check("10-42-0-9.gone.pod.cluster.local", RecordType::A, "no such name");
    check("10-42-0-9.default.pod.cluster.local", RecordType::A, "10.42.0.9");
    check("fd42--9.default.pod.cluster.local", RecordType::AAAA, "fd42::9");
    check("10-42-0.default.pod.cluster.local", RecordType::A, "no such name");
}

#[test]
fn other_names_are_told_apart() {
    check("missing.default.svc.cluster.local", RecordType::A, "no such name");
    check("a.b.c.nginx.default.svc.cluster.local", RecordType::A, "no such name");
    check("foo.cluster.local", RecordType::A, "no such name");
    check("example.org", RecordType::A, "elsewhere");
    check("notcluster.local", RecordType::A, "elsewhere");
    check("a\\.b.default.svc.cluster.local", RecordType::A, "no such name");
    // Before anything is known nobody may remember that there is nothing.
    let not_ready = Zone::not_ready("cluster.local");
    assert_eq!(said(&not_ready, "api.shop.svc.cluster.local", RecordType::A), "not yet");
    assert_eq!(said(&not_ready, "example.org", RecordType::A), "elsewhere");
}

#[test]
fn short_names_are_found_from_their_namespace() {
    let search = |name: &str, namespace: &str| {
        let found = zone().search(&parse_name(name), RecordType::A, namespace);
        found.map(|r| r.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(" | "))
    };
    let web = "web-0.nginx.default.svc.cluster.local. | 10.42.0.2";
    assert_eq!(search("web-0.nginx", "default").as_deref(), Some(web));
    assert_eq!(search("web-0.nginx", "shop"), None);
    let api = "api.shop.svc.cluster.local. | 10.43.0.7";
    for partial in ["api.shop", "api.shop.svc", "API.shop"] {
        assert_eq!(search(partial, "default").as_deref(), Some(api), "{partial}");
    }
    assert_eq!(search("api", "shop").as_deref(), Some(api));
    assert_eq!(search("example.org", "default"), None);
}
