//! What the API server hands on: a further API server, and HTTP to services.

use pki::{Authority, Usage};
use testkit::Cluster;

/// An API server of one group; it tells who asked. Beside it a plain HTTP server that tells the path.
const SERVER: &str = r#"
import http.server, json, ssl, sys, threading
class Plain(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer(("path %s by %s" % (self.path, self.headers.get("Authorization"))).encode())
    def answer(self, body, code=200):
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Api(Plain):
    def do_GET(self):
        group = "/apis/tides.example.com/v1"
        me = dict(self.connection.getpeercert()["subject"][0])["commonName"]
        if me != "front-proxy-client":
            return self.answer(b"{}", 401)
        if self.path == group:
            body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "tides.example.com/v1", "resources": [
                {"name": "tides", "singularName": "tide", "namespaced": True, "kind": "Tide", "verbs": ["get", "list"]}]}
        elif self.path.startswith(group + "/namespaces/default/tides/"):
            body = {"kind": "Tide", "apiVersion": "tides.example.com/v1", "metadata": {"name": self.path.split("/")[-1],
                "annotations": {"user": self.headers["X-Remote-User"], "groups": ",".join(self.headers.get_all("X-Remote-Group"))}}}
        else:
            return self.answer(json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}).encode(), 404)
        self.answer(json.dumps(body).encode())
api = http.server.ThreadingHTTPServer(("0.0.0.0", 9444), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.load_verify_locations(sys.argv[3])
context.verify_mode = ssl.CERT_REQUIRED
api.socket = context.wrap_socket(api.socket, server_side=True)
threading.Thread(target=api.serve_forever, daemon=True).start()
print("ready", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 9080), Plain).serve_forever()
"#;

#[test]
fn other_servers_and_services_answer_through_the_api() -> anyhow::Result<()> {
    use base64::Engine as _;
    let Some(cluster) = Cluster::start_current(&["--disable-agent"])? else { return Ok(()) };
    let folder = cluster.server.folder().join("other");
    let authority = Authority::load_or_create(&folder, "ca")?;
    let identity =
        authority.load_or_issue(&folder, "tides", "tides", None, &[Usage::Server], &["tides.default.svc".into()])?;
    std::fs::write(folder.join("server.py"), SERVER)?;
    std::fs::write(folder.join("cert.pem"), &identity.certificate_pem)?;
    std::fs::write(folder.join("key.pem"), &identity.key_pem)?;
    // The extension trusts whom the cluster says it should.
    let config =
        cluster.kubectl(&["-n", "kube-system", "get", "configmap", "extension-apiserver-authentication", "-o", "json"]);
    let config: serde_json::Value = serde_json::from_str(&config.stdout)?;
    std::fs::write(folder.join("front.pem"), config["data"]["requestheader-client-ca-file"].as_str().unwrap_or(""))?;
    let files = ["server.py", "cert.pem", "key.pem", "front.pem"].map(|f| folder.join(f).display().to_string());
    let words: Vec<String> = std::iter::once("python3".to_string()).chain(files).collect();
    let server = cluster.server.beside(&words)?;
    cluster.eventually("the other server listens", || Ok(server.lines() == ["ready"]))?;

    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
    let address = cluster.server.address();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: tides}}\nspec: {{ports: [{{name: api, port: 443, targetPort: 9444}}, {{name: web, port: 80, targetPort: 9080}}]}}\n\
         ---\napiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: v1.tides.example.com}}\nspec:\n  group: tides.example.com\n  version: v1\n  \
         groupPriorityMinimum: 1000\n  versionPriority: 10\n  caBundle: {bundle}\n  service: {{name: tides, namespace: default}}\n"
    ))?;
    let available = || -> anyhow::Result<String> {
        let service = cluster.get("apiservice", "v1.tides.example.com")?;
        let condition = &service["status"]["conditions"][0];
        Ok(format!("{} {}", condition["status"].as_str().unwrap_or(""), condition["reason"].as_str().unwrap_or("")))
    };
    cluster.eventually("it has no endpoints", || Ok(available()? == "False MissingEndpoints"))?;
    let missing = cluster.kubectl(&["get", "--raw", "/apis/tides.example.com/v1"]);
    assert!(missing.stderr.contains("no endpoints available for service \"tides\""), "{missing:?}");
    cluster.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: tides, labels: {{kubernetes.io/service-name: tides}}}}\naddressType: IPv4\n\
         ports: [{{name: api, port: 9444}}, {{name: web, port: 9080}}]\nendpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]\n"
    ))?;
    cluster.eventually("it is available", || Ok(available()? == "True Passed"))?;

    assert!(cluster.ok(&["api-resources"])?.contains("tides.example.com/v1"));
    let tide = cluster.get("tides.tides.example.com", "high")?;
    assert_eq!(tide["metadata"]["annotations"]["user"], "kubernetes-admin");
    assert!(tide["metadata"]["annotations"]["groups"].as_str().is_some_and(|g| g.contains("system:masters")), "{tide}");
    // Rights are asked here, and somebody else's name can't be smuggled in.
    let denied = cluster.kubectl(&["--as", "nobody", "get", "tides.tides.example.com", "high"]);
    assert!(denied.stderr.contains("cannot get resource \"tides\" in API group \"tides.example.com\""), "{denied:?}");

    let through =
        |path: &str| cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/services/{path}")]);
    assert_eq!(through("tides:web/proxy/a/b/c?d=e").stdout, "path /a/b/c?d=e by None");
    assert_eq!(through("tides:80/proxy/").stdout, "path / by None");
    assert_eq!(through("tides:80/proxy/moved").stdout, "path /elsewhere by None", "redirects stay behind the proxy");
    let wrong = through("tides:81/proxy/");
    assert!(wrong.stderr.contains("no service port \"81\" found for service \"tides\""), "{wrong:?}");
    let denied =
        cluster.kubectl(&["--as", "nobody", "get", "--raw", "/api/v1/namespaces/default/services/tides:80/proxy/"]);
    assert!(denied.stderr.contains("cannot get resource \"services/proxy\""), "{denied:?}");

    drop(server);
    cluster.ok(&["annotate", "apiservice", "v1.tides.example.com", "look=again"])?;
    cluster.eventually("it is gone", || Ok(available()? == "False FailedDiscoveryCheck"))?;
    // What it served stays known, so that nobody takes its objects for gone.
    let discovery = cluster.kubectl(&["get", "--raw", "/apis"]).stdout;
    assert!(discovery.contains("tides.example.com"), "{discovery}");
    let refused = cluster.kubectl(&["get", "--raw", "/apis/tides.example.com/v1"]);
    assert!(refused.stderr.contains("service unavailable"), "{refused:?}");
    Ok(())
}

const SCRAPER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: scraper}
rules: [{apiGroups: [''], resources: [nodes/metrics, nodes/stats], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scraper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: scraper}
subjects: [{kind: ServiceAccount, name: scraper, namespace: default}]
";

/// As Prometheus and metrics-server ask kubelets: with the token of a service account.
#[test]
fn kubelets_ask_the_api_for_the_rights_of_clients() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(SCRAPER)?;
    let token = cluster.ok(&["create", "token", "scraper"])?.trim().to_string();
    let address = cluster.server.address();
    let ask = |token: &str, path: &str| {
        let header = format!("Authorization: Bearer {token}");
        let mut words = vec!["curl", "-sk", "--max-time", "5", "-w", "\n%{http_code}"];
        if !token.is_empty() {
            words.extend(["-H", &header]);
        }
        let url = format!("https://{address}:10250{path}");
        words.push(&url);
        let words: Vec<String> = words.into_iter().map(String::from).collect();
        let output = cluster.server.run(&words, "").stdout;
        let (body, code) = output.rsplit_once('\n').unwrap_or(("", ""));
        (code.to_string(), body.to_string())
    };
    let (code, body) = ask(&token, "/metrics/cadvisor");
    assert!(code == "200" && body.contains("container_memory_working_set_bytes"), "{code}: {body}");
    assert_eq!(ask(&token, "/stats/summary").0, "200");
    for path in ["/pods", "/exec/default/p/c?command=id", "/containerLogs/default/p/c"] {
        let (code, body) = ask(&token, path);
        assert!(code == "403" && body.contains("system:serviceaccount:default:scraper"), "{path}: {code} {body}");
    }
    for wrong in ["", "nonsense"] {
        assert_eq!(ask(wrong, "/metrics/cadvisor").0, "401");
    }
    Ok(())
}
