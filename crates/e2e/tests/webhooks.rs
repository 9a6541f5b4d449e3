//! Admission webhooks on a server without a node.

use pki::{Authority, Usage};
use testkit::Cluster;
use testkit::node::Beside;

/// Adds a label to what it is asked to change, and denies what has the label `deny`.
const SERVER: &str = r#"
import base64, http.server, json, ssl, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        response = {"uid": request["uid"], "allowed": True}
        labels = ((request["object"] or {}).get("metadata") or {}).get("labels") or {}
        if self.path.split("?")[0] == "/mutate":
            patch = [{"op": "add", "path": "/metadata/labels", "value": dict(labels, seen=request["operation"])}]
            response.update(patchType="JSONPatch", patch=base64.b64encode(json.dumps(patch).encode()).decode())
            response["warnings"] = ["the webhook was here"]
        elif "deny" in labels or (request["operation"] == "DELETE" and request["name"] == "kept"):
            response.update(allowed=False, status={"message": "not on my watch"})
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 9443), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

fn hook(kind: &str, name: &str, url: &str, policy: &str, bundle: &str) -> String {
    format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nwebhooks:\n- name: {name}.example.com\n  \
         clientConfig: {{url: '{url}', caBundle: {bundle}}}\n  rules: [{{operations: ['*'], apiGroups: [''], apiVersions: [v1], resources: [configmaps]}}]\n  \
         namespaceSelector: {{matchLabels: {{watched: 'yes'}}}}\n  failurePolicy: {policy}\n  \
         matchConditions: [{{name: not-spared, expression: \"request.name != 'spared'\"}}]\n  sideEffects: None\n  timeoutSeconds: 2\n  admissionReviewVersions: [v1]\n"
    )
}

/// Runs a program that serves TLS on loopback beside the cluster.
fn serve(cluster: &Cluster, program: &str) -> anyhow::Result<(Beside, Authority)> {
    let folder = cluster.server.folder().join("hook");
    let authority = Authority::load_or_create(&folder, "ca")?;
    let identity = authority.load_or_issue(&folder, "hook", "hook", None, &[Usage::Server], &["127.0.0.1".into()])?;
    let script = folder.join("hook.py");
    std::fs::write(&script, program)?;
    std::fs::write(folder.join("cert.pem"), &identity.certificate_pem)?;
    std::fs::write(folder.join("key.pem"), &identity.key_pem)?;
    let words = ["python3".into(), script.display().to_string()];
    let files = ["cert.pem", "key.pem"].map(|f| folder.join(f).display().to_string());
    let server = cluster.server.beside(&words.into_iter().chain(files).collect::<Vec<_>>())?;
    cluster.eventually("the webhook listens", || Ok(server.lines() == ["ready"]))?;
    Ok((server, authority))
}

#[test]
fn admission_webhooks_mutate_and_refuse() -> anyhow::Result<()> {
    use base64::Engine as _;
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let (server, authority) = serve(&cluster, SERVER)?;
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
    cluster.ok(&["label", "namespace", "default", "watched=yes"])?;
    cluster.apply(
        &[
            hook("MutatingWebhookConfiguration", "change", "https://127.0.0.1:9443/mutate", "Fail", &bundle),
            hook("ValidatingWebhookConfiguration", "judge", "https://127.0.0.1:9443/validate", "Fail", &bundle),
        ]
        .concat(),
    )?;
    let map = |name: &str, labels: &str| {
        let yaml = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n");
        cluster.kubectl_with(&["apply", "-f", "-"], &yaml)
    };
    let made = map("a", "");
    assert!(made.code == 0 && made.stderr.contains("Warning: the webhook was here"), "{made:?}");
    assert_eq!(cluster.get("configmap", "a")?["metadata"]["labels"]["seen"], "CREATE");
    cluster.ok(&["annotate", "configmap", "a", "x=y"])?;
    assert_eq!(cluster.get("configmap", "a")?["metadata"]["labels"]["seen"], "UPDATE");
    let denied = map("b", "deny: me");
    let told = "admission webhook \"judge.example.com\" denied the request: not on my watch";
    assert!(denied.code != 0 && denied.stderr.contains(told), "{denied:?}");
    assert!(cluster.kubectl(&["get", "configmap", "b"]).code != 0);
    assert_eq!(map("kept", "").code, 0);
    let kept = cluster.kubectl(&["delete", "configmap", "kept"]);
    assert!(kept.code != 0 && kept.stderr.contains("not on my watch"), "{kept:?}");
    // Nor is what its match conditions leave out.
    let spared = map("spared", "deny: me");
    assert!(spared.code == 0 && !spared.stderr.contains("the webhook was here"), "{spared:?}");
    // Other namespaces and kinds aren't asked about.
    cluster.ok(&["create", "secret", "generic", "s"])?;
    assert!(cluster.get("secret", "s")?["metadata"]["labels"].is_null());

    // One that is gone: Fail refuses and says so, Ignore lets pass.
    drop(server);
    let failed = map("c", "");
    assert!(failed.code != 0 && failed.stderr.contains("failed calling webhook \"change.example.com\""), "{failed:?}");
    for (kind, name) in [("MutatingWebhookConfiguration", "change"), ("ValidatingWebhookConfiguration", "judge")] {
        cluster.apply(&hook(kind, name, "https://127.0.0.1:9443/", "Ignore", &bundle))?;
    }
    assert_eq!(map("c", "").code, 0);
    Ok(())
}

/// Converts between `v1`, which has `spec.host` and `spec.port`, and `v2`, which has `spec.address` of both.
const CONVERTER: &str = r#"
import http.server, json, ssl, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        def convert(o):
            spec = o["spec"]
            if request["desiredAPIVersion"].endswith("/v2"):
                spec = {"address": "%s:%d" % (spec["host"], spec["port"])}
            else:
                host, port = spec["address"].split(":")
                spec = {"host": host, "port": int(port)}
            return dict(o, apiVersion=request["desiredAPIVersion"], spec=spec)
        response = {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": [convert(o) for o in request["objects"]]}
        if any("broken" in o["metadata"].get("labels", {}) for o in request["objects"]):
            response = {"uid": request["uid"], "result": {"status": "Failed", "message": "I can't"}}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 9445), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

#[test]
fn a_webhook_converts_between_versions() -> anyhow::Result<()> {
    use base64::Engine as _;
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let (server, authority) = serve(&cluster, CONVERTER)?;
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
    let version = |name: &str, storage: bool, fields: &str| {
        format!(
            "  - name: {name}\n    served: true\n    storage: {storage}\n    schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{{fields}}}}}}}}}}}\n"
        )
    };
    let definition = |two: bool| {
        let versions = [
            version("v1", !two, "host: {type: string}, port: {type: integer}"),
            version("v2", two, "address: {type: string}"),
        ];
        format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: lamps.example.com}}\nspec:\n  group: example.com\n  scope: Namespaced\n  \
             names: {{plural: lamps, kind: Lamp}}\n  conversion:\n    strategy: Webhook\n    webhook:\n      conversionReviewVersions: [v1]\n      \
             clientConfig: {{url: 'https://127.0.0.1:9445/', caBundle: {bundle}}}\n  versions:\n{}",
            versions.concat()
        )
    };
    cluster.apply(&definition(false))?;
    cluster.ok(&["wait", "--for=condition=Established", "crd/lamps.example.com", "--timeout=10s"])?;
    let lamp = |version: &str, name: &str, labels: &str, spec: &str| {
        let yaml = format!(
            "apiVersion: example.com/{version}\nkind: Lamp\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {spec}\n"
        );
        cluster.kubectl_with(&["apply", "-f", "-"], &yaml)
    };
    assert_eq!(lamp("v1", "a", "", "{host: x, port: 1}").code, 0);
    assert_eq!(lamp("v2", "b", "", "{address: 'y:2'}").code, 0);
    let read = |version: &str, name: &str| -> anyhow::Result<String> {
        Ok(cluster.get(&format!("lamps.{version}.example.com"), name)?["spec"].to_string())
    };
    // Both are read in both versions, alone and in lists.
    assert_eq!(read("v2", "a")?, r#"{"address":"x:1"}"#);
    assert_eq!(read("v1", "b")?, r#"{"host":"y","port":2}"#);
    let listed = cluster.ok(&["get", "lamps.v2.example.com", "-o", "jsonpath={.items[*].spec.address}"])?;
    assert_eq!(listed, "x:1 y:2");
    // A change in one version shows in the other; what is stored before stays readable after the storage version changed.
    cluster.ok(&["patch", "lamps.v2.example.com", "a", "--type=merge", "-p", "{\"spec\":{\"address\":\"z:3\"}}"])?;
    assert_eq!(read("v1", "a")?, r#"{"host":"z","port":3}"#);
    cluster.apply(&definition(true))?;
    assert_eq!(read("v1", "a")?, r#"{"host":"z","port":3}"#);
    assert_eq!(read("v2", "a")?, r#"{"address":"z:3"}"#);
    // What can't be converted is an error that names the webhook's reason, and nothing else.
    let broken = lamp("v1", "c", "broken: 'yes'", "{host: x, port: 1}");
    assert!(
        broken.code != 0 && broken.stderr.contains("conversion webhook for example.com/v1, Kind=Lamp failed: I can't"),
        "{broken:?}"
    );
    drop(server);
    let gone = cluster.kubectl(&["get", "lamps.v1.example.com", "a"]);
    assert!(gone.code == 0 || gone.stderr.contains("can't be reached"), "{gone:?}");
    let gone = cluster.kubectl(&["get", "lamps.v2.example.com", "a"]);
    assert!(gone.code != 0 && gone.stderr.contains("can't be reached"), "{gone:?}");
    Ok(())
}
