//! Annotations of ingress-nginx on real traffic.

use anyhow::Context as _;
use testkit::Cluster;

use super::{curl, site};

/// An Ingress of a host for the service `one`, or another one.
fn ingress(name: &str, host: &str, service: &str, annotations: &[(&str, &str)]) -> String {
    let lines: Vec<String> = annotations
        .iter()
        .map(|(annotation, value)| format!("    nginx.ingress.kubernetes.io/{annotation}: {value:?}\n"))
        .collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n{}spec:\n  rules:\n  \
         - {{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}\n",
        lines.concat()
    )
}

#[test]
fn annotations_decide_who_comes_in_and_where_to() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(&[site("one"), site("two")].concat())?;
    cluster.wait_pod("one")?;
    cluster.wait_pod("two")?;
    let address = cluster.server.address();
    let all = [
        ingress("main", "canary.test", "one", &[("upstream-vhost", "inner.test")]),
        ingress(
            "canary",
            "canary.test",
            "two",
            &[("canary", "true"), ("canary-by-header", "X-Canary"), ("canary-weight", "0")],
        ),
        ingress("moved", "moved.test", "one", &[("permanent-redirect", "https://new.test/")]),
        ingress("rooted", "rooted.test", "one", &[("app-root", "/app")]),
        ingress("closed", "closed.test", "one", &[("allowlist-source-range", "203.0.113.0/24")]),
        ingress("open", "open.test", "one", &[("whitelist-source-range", &format!("{address}/32"))]),
        ingress("mistaken", "mistaken.test", "one", &[("denylist-source-range", "everybody")]),
        ingress("guarded", "guarded.test", "one", &[("auth-url", "http://auth.test/")]),
        ingress("shared", "shared.test", "one", &[("enable-cors", "true"), ("cors-allow-origin", "https://a.test")]),
        ingress("odd", "odd.test", "one", &[("limit-rps", "5"), ("proxy-read-timeout", "soon")]),
    ];
    cluster.apply(&all.concat())?;
    let url = format!("http://{address}/x");
    let ask = |host: &str, more: &[&str]| {
        let host = format!("Host: {host}");
        curl(&cluster, &[&["-H", &host], more, &[&url]].concat())
    };
    cluster.eventually("the last host is served", || Ok(ask("odd.test", &[]).starts_with("200 one")))?;
    assert!(ask("canary.test", &[]).starts_with("200 one /x inner.test"));
    assert!(ask("canary.test", &["-H", "X-Canary: always"]).starts_with("200 two"));
    assert!(ask("canary.test", &["-H", "X-Canary: maybe"]).starts_with("200 one"));
    let moved = ask("moved.test", &["-D", "-"]);
    assert!(moved.starts_with("301") && moved.to_lowercase().contains("location: https://new.test/"), "{moved}");
    assert!(ask("rooted.test", &[]).starts_with("200 one"));
    let root = curl(&cluster, &["-D", "-", "-H", "Host: rooted.test", &format!("http://{address}/")]);
    assert!(root.starts_with("302") && root.contains("http://rooted.test/app"), "{root}");
    assert!(ask("closed.test", &[]).starts_with("403"));
    assert!(ask("closed.test", &["-H", "X-Forwarded-For: 203.0.113.1"]).starts_with("403"), "a forged address");
    assert!(ask("open.test", &[]).starts_with("200 one"));
    assert!(ask("mistaken.test", &[]).starts_with("503"), "a restriction that can't be read");
    assert!(ask("guarded.test", &[]).starts_with("503"), "a restriction that isn't served");
    let preflight = ask("shared.test", &["-D", "-", "-X", "OPTIONS", "-H", "Origin: https://a.test"]).to_lowercase();
    assert!(preflight.starts_with("204") && preflight.contains("access-control-allow-origin: https://a.test"));
    let foreign = ask("shared.test", &["-D", "-", "-H", "Origin: https://b.test"]).to_lowercase();
    assert!(foreign.starts_with("200") && !foreign.contains("access-control"), "{foreign}");

    // People hear of what isn't served as it stands, where they look.
    for (name, text) in [
        ("mistaken", "annotation nginx.ingress.kubernetes.io/denylist-source-range: it must be a list of addresses"),
        ("guarded", "annotation nginx.ingress.kubernetes.io/auth-url isn't served: it restricts who may come in"),
        ("odd", "annotation nginx.ingress.kubernetes.io/limit-rps isn't served: it is passed over"),
        ("odd", "proxy-read-timeout: \"soon\" must be a number of seconds; it is passed over"),
    ] {
        let events = || cluster.ok(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
        let seen = cluster.eventually(&format!("{name} has an event: {text}"), || Ok(events()?.contains(text)));
        seen.with_context(|| events().unwrap_or_default())?;
    }
    Ok(())
}
