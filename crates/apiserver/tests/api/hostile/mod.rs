//! What hostile callers try: [`attacks.txt`](attacks.txt) has an attack a line, with the wall that it meets. Beside the attackers another
//! client writes all the time, and is served ([`bystander`]). What doesn't fit into a line stands in the other modules, by who tries it.

mod bystander;
mod certificates;
mod identity;
mod shapes;
mod tenant;
mod words;

use std::sync::Arc;

use apiserver::{Peer, User};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::server::{Server, read};
use bystander::Bystander;

pub const T1: &str = "/api/v1/namespaces/t1";
pub const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
pub const CSR: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Who may do it in his namespace has the stock role `edit`.
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce";

/// What keeps to the restricted standard.
pub fn secure(name: &str) -> Value {
    json!({"name": name, "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

pub fn pod(name: &str, change: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [secure("c")]}});
    set(&mut pod["spec"], change);
    pod
}

fn set(object: &mut Value, change: &Value) {
    for (key, value) in change.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
}

pub fn service(name: &str, change: &Value) -> Value {
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    set(&mut service["spec"], change);
    service
}

pub fn signing(name: &str, signer: &str, user: &str, group: &str, usage: &str) -> Value {
    let pem = pki::create_certificate_request(&pki::new_key().unwrap(), user, group, &[]).unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["digital signature", usage], "request": STANDARD.encode(pem)}})
}

pub fn role(name: &str, kind: &str, rules: &Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

pub fn binding(name: &str, kind: &str, role: &str, subject: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": subject}]})
}

pub fn user(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

/// A cluster with a tenant of t1, another's namespace t2, and two nodes with a pod each.
pub async fn cluster() -> Server {
    let server = Server::start().await;
    for name in ["t1", "t2"] {
        let labels = json!({RESTRICTED: "restricted"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        server.create("/api/v1/namespaces", namespace).await;
        for account in ["default", "robot"] {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
            server.create(&format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await;
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}});
        server.create(&format!("/api/v1/namespaces/{name}/secrets"), secret).await;
    }
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        server.create("/api/v1/nodes", node).await;
    }
    let pods = format!("{T1}/pods");
    server.create(&pods, pod("p", &json!({"nodeName": "n1"}))).await;
    let other = pod("q", &json!({"nodeName": "n2", "serviceAccountName": "robot"}));
    server.create("/api/v1/namespaces/t2/pods", other).await;
    server.create(&format!("{T1}/services"), service("web", &json!({}))).await;
    server
        .create(&format!("{RBAC}/namespaces/t1/rolebindings"), binding("edit", "RoleBinding", "edit", "tenant"))
        .await;
    server
}

/// What the attacks of the table are about, beside that.
async fn prepare(server: &Server) {
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x".repeat(1000)}});
    server.create(&format!("{T1}/configmaps"), map).await;
    let name = json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 7777}]});
    let made = server.json_as(&user("tenant"), "POST", &format!("{T1}/services"), &service("ssrf", &name)).await;
    assert_eq!(made.0, 201, "{}", made.1);
    server.create(&format!("{T1}/pods"), pod("liar", &json!({"nodeName": "n1"}))).await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    server.create(&format!("{T1}/persistentvolumeclaims"), claim).await;
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    server.create(&format!("{T1}/pods"), pod("writer", &json!({"nodeName": "n1", "volumes": volumes}))).await;
    let taint = json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}});
    assert_eq!(server.json("PATCH", "/api/v1/nodes/n1", &taint).await.0, 200);
    // A pod that claims to be somewhere else.
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    server.json("PATCH", &format!("{T1}/pods/liar/status"), &status).await;
    let own =
        signing("own", "kubernetes.io/kube-apiserver-client-kubelet", "system:node:n1", "system:nodes", "client auth");
    assert_eq!(server.json_as(&node(), "POST", CSR, &own).await.0, 201);
    for (name, user, rules) in [
        (
            "debug",
            "debugger",
            json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods/ephemeralcontainers", "pods/resize"]}]),
        ),
        (
            "named",
            "reader",
            json!([
                {"verbs": ["create", "get", "list", "watch", "deletecollection"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["foo"]},
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy",
                    "services/proxy", "nodes/proxy", "pods/log"]}]),
        ),
    ] {
        server.create(&format!("{RBAC}/clusterroles"), role(name, "ClusterRole", &rules)).await;
        let all = binding(name, "ClusterRoleBinding", name, user);
        server.create(&format!("{RBAC}/clusterrolebindings"), all).await;
    }
    let edit = binding("debugger", "RoleBinding", "edit", "debugger");
    server.create(&format!("{RBAC}/namespaces/t1/rolebindings"), edit).await;
}

fn node() -> User {
    User::new("system:node:n1", &["system:nodes", "system:authenticated"])
}

/// A token of t1's account, bound to the pod p.
pub async fn token_of_pod(server: &Server) -> String {
    let spec = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
    let path = format!("{T1}/serviceaccounts/default/token");
    let (code, answer) = server.json_as(&user("tenant"), "POST", &path, &spec).await;
    assert_eq!(code, 201, "{answer}");
    format!("Bearer {}", answer["status"]["token"].as_str().unwrap())
}

/// Tries each, and demands its answer's code and words.
pub async fn refuse(server: &Server, who: &User, attacks: Vec<(&str, String, Value, u16, &str)>) {
    let mut failed = Vec::new();
    for (method, path, body, code, words) in attacks {
        let (got, answer) = server.json_as(who, method, &path, &body).await;
        let message = answer["message"].as_str().unwrap_or("");
        if got != code || !message.contains(words) {
            failed.push(format!("{method} {path} {body}: {got} {answer}"));
        }
    }
    assert!(failed.is_empty(), "{} as {}:\n{}", failed.len(), who.name, failed.join("\n"));
}

const ATTACKS: &str = include_str!("attacks.txt");

/// A line of the table.
struct Attack<'a> {
    who: &'a str,
    method: &'a str,
    path: String,
    body: &'a str,
    /// How the code begins, and what the message has.
    wall: (&'a str, &'a str),
}

fn attacks() -> Vec<Attack<'static>> {
    let read = |line: &'static str| {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [who, request, body, wall] = parts[..] else { panic!("not four parts: {line}") };
        let (method, path) = request.split_once(' ').unwrap();
        let path = path
            .replace("$T1", T1)
            .replace("$T2", "/api/v1/namespaces/t2")
            .replace("$RBAC", RBAC)
            .replace("$CSR", CSR)
            .replace("$REVIEW", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .replace("@selector", &words::selector());
        Attack { who, method, path, body, wall: wall.split_once(' ').unwrap_or((wall, "")) }
    };
    ATTACKS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(read).collect()
}

impl Attack<'_> {
    fn request(&self, body: Vec<u8>, bearer: &str) -> Request<Bytes> {
        let (method, kind) = match self.method {
            "PATCH" => ("PATCH", "application/merge-patch+json"),
            "JSONPATCH" => ("PATCH", "application/json-patch+json"),
            "APPLY" => ("PATCH", "application/apply-patch+yaml"),
            "YAML" => ("POST", "application/yaml"),
            "PROTOBUF" => ("POST", "application/vnd.kubernetes.protobuf"),
            "UPGRADE" => ("GET", "application/json"),
            method => (method, "application/json"),
        };
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(&self.path)
            .header("content-type", kind)
            .header("timonel-node-password", "0123456789abcdef-attack");
        if self.method == "UPGRADE" {
            request = request.header("upgrade", "websocket").header("connection", "Upgrade");
        }
        match self.who {
            "pod" => request = request.header("authorization", bearer),
            "forger" => request = request.header("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0."),
            "nobody" => request = request.header("x-remote-user", "root").header("x-remote-group", "system:masters"),
            _ => {}
        }
        request.body(body.into()).unwrap()
    }

    fn peer(&self) -> Peer {
        match self.who {
            "pod" | "nobody" | "forger" => Peer::Remote(None),
            "node" => Peer::Component(Arc::new(node())),
            "joiner" => {
                let groups = ["system:bootstrappers", "system:authenticated"];
                Peer::Component(Arc::new(User::new("system:bootstrap:timonel", &groups)))
            }
            who => Peer::Component(Arc::new(user(who))),
        }
    }

    /// What is wrong with the answer.
    fn judge(&self, code: u16, answer: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(answer);
        let message = serde_json::from_slice::<Value>(answer).unwrap_or_default()["message"].clone();
        let (begin, words) = self.wall;
        let is_held = code < 500 || begin == code.to_string();
        let is_right = code.to_string().starts_with(begin) && message.as_str().unwrap_or(&text).contains(words);
        let shown: String = text.chars().take(600).collect();
        let of: String = self.body.chars().take(200).collect();
        (!(is_held && is_right)).then(|| format!("{} {} {} {of}: {code} {shown}", self.who, self.method, self.path))
    }
}

/// Lets the attackers `who` try theirs, while another client is served.
async fn try_all(who: &[&str]) {
    let server = Arc::new(cluster().await);
    prepare(&server).await;
    let bearer = token_of_pod(&server).await;
    let uid = server.read("/api/v1/nodes/n1").await["metadata"]["uid"].as_str().unwrap().to_string();
    let bystander = Bystander::start(server.clone()).await;
    let mut failed = Vec::new();
    for (number, attack) in attacks().into_iter().enumerate().filter(|(_, attack)| who.contains(&attack.who)) {
        let body = words::body(attack.body, &format!("x{number}"), &uid);
        let request = attack.request(body, &bearer);
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        let (api, peer) = (server.api.clone(), attack.peer());
        // Beside the bystander, on the same thread: what holds up one holds up the other.
        let answered = tokio::spawn(async move { read(api.handle(request, peer).await).await });
        let (code, _, answer) = answered.await.unwrap();
        failed.extend(attack.judge(code.as_u16(), &answer));
        failed.extend(bystander.complaint().map(|why| format!("{} {}: {why}", attack.method, attack.path)));
    }
    assert!(failed.is_empty(), "{}:\n{}", failed.len(), failed.join("\n"));
    bystander.end().await;
    // What was taken was taken without what was hidden in it.
    let pod = server.read(&format!("{T1}/pods/p")).await;
    let privileged = &pod["spec"]["containers"][0]["securityContext"]["privileged"];
    assert!(pod["spec"]["hostPID"].is_null() && privileged.is_null(), "{pod}");
    let node = server.read("/api/v1/nodes/n1").await;
    assert!(node["metadata"]["ownerReferences"].is_null(), "{node}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tenant_meets_a_wall() {
    try_all(&["tenant", "debugger"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pod_a_node_and_who_wants_to_join_meet_a_wall() {
    try_all(&["pod", "node", "joiner"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nobody_and_who_has_a_little_meet_a_wall() {
    try_all(&["nobody", "forger", "reader"]).await;
}

#[test]
fn the_documentation_counts_them() {
    let attacks = attacks();
    let known = ["tenant", "debugger", "pod", "node", "joiner", "nobody", "forger", "reader"];
    assert!(attacks.iter().all(|attack| known.contains(&attack.who)), "somebody is never let try");
    let said = format!("{} attacks", attacks.len());
    assert!(include_str!("../../../../../docs/security.md").contains(&said), "docs/security.md must say {said:?}");
}
