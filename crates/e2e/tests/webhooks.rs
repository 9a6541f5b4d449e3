//! Admission webhooks on a server without a node.

use pki::{Authority, Usage};
use testkit::Cluster;

/// Adds a label to what it is asked to change, and denies what has the label `deny`.
const SERVER: &str = r#"
import base64, http.server, json, ssl, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        response = {"uid": request["uid"], "allowed": True}
        labels = ((request["object"] or {}).get("metadata") or {}).get("labels") or {}
        if self.path == "/mutate":
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

#[test]
fn webhooks_change_and_refuse() -> anyhow::Result<()> {
    use base64::Engine as _;
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let folder = cluster.server.folder().join("hook");
    let authority = Authority::load_or_create(&folder, "ca")?;
    let identity = authority.keep(&folder, "hook", "hook", None, &[Usage::Server], &["127.0.0.1".into()])?;
    let script = folder.join("hook.py");
    std::fs::write(&script, SERVER)?;
    std::fs::write(folder.join("cert.pem"), &identity.certificate_pem)?;
    std::fs::write(folder.join("key.pem"), &identity.key_pem)?;
    let words = ["python3".into(), script.display().to_string()];
    let files = ["cert.pem", "key.pem"].map(|f| folder.join(f).display().to_string());
    let server = cluster.server.beside(&words.into_iter().chain(files).collect::<Vec<_>>())?;
    cluster.eventually("the webhook listens", || Ok(server.lines() == ["ready"]))?;
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
