//! Gateways and HTTPRoutes on real traffic.

use pki::{Authority, Usage};
use testkit::Cluster;

use crate::ingress::{curl, site};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: timonel
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: '*.shop.example'}
  - {name: other, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: secure, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
  - {name: database, port: 5432, protocol: TCP}
";

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: web, sectionName: http}, {name: web, sectionName: secure}]
  hostnames: [www.shop.example]
  rules:
  - backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /two}}, {headers: [{name: version, value: '2'}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /inner}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Forwarded-Proto, value: changed}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Said, value: 'yes'}], remove: [server]}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /both}}]
    backendRefs: [{name: one, port: 80, weight: 3}, {name: two, port: 80, weight: 1}]
  - matches: [{path: {type: PathPrefix, value: /gone}}]
    backendRefs: [{name: gone, port: 80}]
---
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: guest, namespace: elsewhere}
spec:
  parentRefs: [{name: web, namespace: default}]
  rules: [{backendRefs: [{name: one, namespace: default, port: 80}]}]
";

const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: guests}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: elsewhere}]
  to: [{group: '', kind: Service}]
";

const CONTRADICTION: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: contradiction}
spec:
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}], backendRefs: [{name: one, port: 80}]}]
";

/// `type=status:reason` of the conditions at a JSON pointer.
fn conditions(object: &serde_json::Value, at: &str) -> String {
    let list = object.pointer(at).and_then(|l| l.as_array()).cloned().unwrap_or_default();
    let text = |c: &serde_json::Value, key: &str| c[key].as_str().unwrap_or("").to_string();
    let one = |c: &serde_json::Value| format!("{}={}:{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn routes_are_served_where_gateways_let_them() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let address = cluster.server.address();
    let folder = cluster.server.folder().join("tls");
    let authority = Authority::load_or_create(&folder, "ca")?;
    authority.load_or_issue(&folder, "cert", "shop", None, &[Usage::Server], &["www.shop.example".into()])?;
    let (cert, key) = (folder.join("cert.crt"), folder.join("cert.key"));
    cluster.apply(&[site("one"), site("two")].concat())?;
    cluster.ok(&["wait", "--for=condition=Accepted", "gatewayclass/timonel", "--timeout=20s"])?;
    cluster.apply(&[GATEWAY, "---", ROUTES].concat())?;
    cluster.wait_pod("one")?;
    cluster.wait_pod("two")?;

    // What is wrong is said where people look for it.
    let listener = |index: usize| {
        let gateway = cluster.get("gateway", "web")?;
        anyhow::Ok(conditions(&gateway, &format!("/status/listeners/{index}/conditions")))
    };
    cluster.eventually("the TCP listener is refused", || {
        Ok(listener(3)?.contains("Accepted=False:UnsupportedProtocol"))
    })?;
    assert!(listener(2)?.contains("ResolvedRefs=False:InvalidCertificateRef"), "{}", listener(2)?);
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], CONTRADICTION);
    assert!(
        refused.stderr.contains("RequestRedirect filter must not be used together with backendRefs"),
        "{refused:?}"
    );

    let ask = |path: &str, more: &[&str]| {
        let url = format!("http://{address}{path}");
        curl(&cluster, &[&["-H", "Host: www.shop.example", url.as_str()], more].concat())
    };
    cluster.eventually("the route is served", || Ok(ask("/x", &[]).starts_with("200")))?;
    assert_eq!(ask("/x?y=z", &[]), format!("200 one /x?y=z www.shop.example http {address}"));
    assert_eq!(ask("/two/x", &[]), format!("200 two /two/x www.shop.example http {address}"));
    assert!(ask("/x", &["-H", "Version: 2"]).starts_with("200 two"));
    assert_eq!(ask("/inner/x", &[]), format!("200 one /x inner.example changed {address}"));
    let heads = ask("/inner", &["-D", "-", "-o", "/dev/null"]).to_ascii_lowercase();
    assert!(heads.contains("x-said: yes") && !heads.contains("server:"), "{heads}");
    let moved = ask("/old/x?y=z", &["-o", "/dev/null", "-w", "\n%{http_code} %{redirect_url}"]);
    assert_eq!(moved.trim(), "301 https://www.shop.example:8443/new/x?y=z");
    assert!(ask("/gone", &[]).starts_with("500 500: there is no service default/gone"), "{}", ask("/gone", &[]));
    let both: Vec<String> = (0..40).map(|_| ask("/both", &[])[4..7].to_string()).collect();
    let (one, two) = (both.iter().filter(|b| *b == "one").count(), both.iter().filter(|b| *b == "two").count());
    assert!(one + two == 40 && one > two && two > 0, "{one} {two}");
    let elsewhere = curl(&cluster, &["-H", "Host: www.other.example", &format!("http://{address}/")]);
    assert!(elsewhere.starts_with("404"), "{elsewhere}");

    // Another namespace's route gets a service once it is allowed to.
    let guest = || curl(&cluster, &[&format!("http://{address}:8080/")]);
    assert!(guest().starts_with("500 500: backendRefs: no ReferenceGrant in default"), "{}", guest());
    let told = || {
        let route =
            serde_json::from_str(&cluster.ok(&["get", "-n", "elsewhere", "httproute", "guest", "-o", "json"])?)?;
        anyhow::Ok(conditions(&route, "/status/parents/0/conditions"))
    };
    assert_eq!(told()?, "Accepted=True:Accepted ResolvedRefs=False:RefNotPermitted");
    cluster.apply(GRANT)?;
    cluster.eventually("the service may be used", || Ok(guest().starts_with("200 one")))?;
    cluster.eventually("its status says so", || Ok(told()?.ends_with("ResolvedRefs=True:ResolvedRefs")))?;

    // TLS, with a certificate that comes late.
    let (cert, key) = (format!("--cert={}", cert.display()), format!("--key={}", key.display()));
    cluster.ok(&["create", "secret", "tls", "cert", &cert, &key])?;
    cluster.ok(&["annotate", "gateway", "web", "look=again"])?;
    let ca = folder.join("ca.crt").display().to_string();
    let resolve = format!("www.shop.example:8443:{address}");
    let secure = ["--cacert", &ca, "--resolve", &resolve, "https://www.shop.example:8443/"];
    let secure: Vec<String> = ["curl", "-s", "-m", "5"].iter().chain(&secure).map(ToString::to_string).collect();
    let answer = format!("one / www.shop.example:8443 https {address}");
    cluster.eventually("the certificate is served", || Ok(cluster.server.run(&secure, "").stdout.trim() == answer))?;
    cluster.eventually("the listener says so", || Ok(listener(2)?.ends_with("Programmed=True:Programmed")))?;
    let gateway = cluster.ok(&["get", "gateway", "web"])?;
    assert!(gateway.contains(&address) && gateway.contains("True"), "{gateway}");
    assert_eq!(cluster.get("gateway", "web")?["status"]["listeners"][0]["attachedRoutes"], 1);

    // A port that nobody wants any more is closed; Ingresses keep theirs.
    cluster.ok(&["delete", "gateway", "web"])?;
    cluster.eventually("the port is closed", || Ok(guest().starts_with("000")))?;
    cluster.eventually("the route is served no more", || Ok(ask("/x", &[]).starts_with("404")))?;
    cluster.eventually("nothing is said of it", || {
        Ok(cluster.get("httproute", "shop")?["status"]["parents"].as_array().is_none_or(Vec::is_empty))
    })?;
    cluster.apply(include_str!("../../../examples/gateway.yaml"))?;
    cluster.ok(&["wait", "--for=condition=Programmed", "gateway/front", "--timeout=20s"])?;
    let old = || curl(&cluster, &["-o", "/dev/null", &format!("http://{address}:8080/old/x")]);
    cluster.eventually("the example is served", || Ok(old().starts_with("302")))
}
