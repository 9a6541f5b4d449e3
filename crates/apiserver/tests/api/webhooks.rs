//! Admission webhooks, over HTTPS as they are.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::server::Server;

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A webhook server: each path is another sort of webhook.
struct Hooks {
    address: SocketAddr,
    bundle: String,
    asked: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

fn answer(path: &str, review: &Value) -> Value {
    let request = &review["request"];
    let denied = |message: String| json!({"allowed": false, "status": {"message": message}});
    let patch = |operations: Value| base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    let label = |key: &str, value: &str| {
        json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "add", "path": format!("/metadata/labels/{key}"), "value": value}]))})
    };
    match path {
        "/deny" => json!({"allowed": false, "status": {"code": 418, "message": "no tea"}}),
        "/plain" => json!({"allowed": false}),
        "/invalid" => json!({"allowed": false, "status": {"code": 422, "reason": "Invalid", "message": "too much",
            "details": {"causes": [{"field": "data.a", "reason": "FieldValueInvalid", "message": "no"}]}}}),
        "/options" => denied(request["options"].to_string()),
        "/kind" => denied(format!(
            "{} {} of {}: {}",
            review["apiVersion"],
            request["kind"]["version"],
            request["requestKind"]["version"],
            request["object"]["apiVersion"]
        )),
        "/mark" => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "add", "path": "/spec/mark", "value": request["object"]["apiVersion"]}]))}),
        "/scale" => denied(format!(
            "{}/{} of {}: {} was {}",
            request["kind"]["group"],
            request["object"]["kind"],
            request["resource"]["resource"],
            request["object"]["spec"]["replicas"],
            request["oldObject"]["spec"]["replicas"]
        )),
        "/fewer" => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]))}),
        "/half" => json!({"allowed": true, "patch": patch(json!([]))}),
        "/warn" => json!({"allowed": true, "warnings": ["it is late"]}),
        "/first" => label("first", request["operation"].as_str().unwrap()),
        // Only changes what the first one has changed before.
        "/second" if request["object"]["metadata"]["labels"]["first"].is_string() => label("second", "seen"),
        "/stray" => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "add", "path": "/spec/stray", "value": 1}, {"op": "add", "path": "/spec/kept", "value": "b"}]))}),
        "/port" if request["operation"] == "UPDATE" => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "add", "path": "/spec/ports/-", "value": {"name": "b", "port": 81, "stray": 1}}]))}),
        "/rename" => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": patch(json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]))}),
        _ => json!({"allowed": true}),
    }
}

impl Hooks {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = pki::Authority::load_or_create(folder.path(), "ca").unwrap();
        let identity = authority.issue("hooks", None, &[pki::Usage::Server], &["127.0.0.1".to_string()]).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), count.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        count.fetch_add(1, Ordering::Relaxed);
                        async move { Ok::<_, Infallible>(review(request).await) }
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem());
        Hooks { address, bundle, asked, _folder: folder }
    }

    /// A webhook at `path`; `extra` is merged into it.
    async fn configure(&self, server: &Server, mutating: bool, name: &str, path: &str, extra: Value) {
        let mut hook = json!({"name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://{}{path}", self.address), "caBundle": self.bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
            "matchConditions": [{"name": "mine", "expression": format!("request.name.startsWith('{name}')")}]});
        apimachinery::patch::merge_patch(&mut hook, &extra);
        let (kind, plural) = match mutating {
            true => ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
            false => ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
        };
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]});
        server.create(&format!("{CONFIGURATIONS}/{plural}"), object).await;
    }
}

async fn review(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_string();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    if path == "/slow" {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    if path == "/broken" {
        let mut answer = Response::new(Full::new(Bytes::from("out of order")));
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        return answer;
    }
    let mut response = answer(&path, &review);
    let uid = if path == "/confused" { json!("another") } else { review["request"]["uid"].clone() };
    response["uid"] = uid;
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Response::new(Full::new(Bytes::from(answer.to_string())))
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"own": "1"}}})
}

#[tokio::test]
async fn webhooks_decide_within_their_policies() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    let ignore = json!({"failurePolicy": "Ignore"});
    for (mutating, name, path, extra) in [
        (false, "deny", "/deny", json!({})),
        (false, "warn", "/warn", json!({})),
        (false, "broken", "/broken", json!({})),
        (false, "tolerated", "/broken", ignore.clone()),
        (false, "confused", "/confused", json!({})),
        (true, "half", "/half", json!({})),
        (false, "plain", "/plain", json!({})),
        (false, "slow", "/slow", json!({"timeoutSeconds": 1})),
        (false, "sleepy", "/slow", json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"})),
        (true, "rename", "/rename", json!({})),
        (false, "effects", "/warn", json!({"sideEffects": "NoneOnDryRun"})),
        (
            false,
            "stranger",
            "/warn",
            json!({"clientConfig": {"caBundle": base64::engine::general_purpose::STANDARD.encode(pki::self_signed("x").unwrap().certificate_pem)}}),
        ),
    ] {
        hooks.configure(&server, mutating, name, path, extra).await;
    }
    for (name, code, words) in [
        ("deny", 418, "admission webhook \"deny.example.com\" denied the request: no tea"),
        ("warn", 201, ""),
        ("broken", 500, "failed calling webhook \"broken.example.com\": failed to call webhook: it answered 500"),
        ("tolerated", 201, ""),
        ("confused", 500, "expected response.uid="),
        ("half", 500, "webhook returned response.patch but not response.patchType"),
        ("plain", 400, "admission webhook \"plain.example.com\" denied the request without explanation"),
        ("slow", 500, "context deadline exceeded"),
        ("sleepy", 201, ""),
        ("rename", 500, "changed the object's name"),
        ("stranger", 500, "failed calling webhook"),
        ("unrelated", 201, ""),
    ] {
        let (got, answer) = server.json("POST", MAPS, &map(name)).await;
        assert!(got == code && answer["message"].as_str().unwrap_or("").contains(words), "{name}: {got} {answer}");
    }
    let request = Request::post(format!("{MAPS}?dryRun=All")).header("content-type", "application/json");
    let answer = server.send(request.body(Bytes::from(map("warn2").to_string())).unwrap()).await;
    assert_eq!(answer.headers()["warning"], "299 - \"it is late\"");
    assert_eq!(server.json("POST", &format!("{MAPS}?dryRun=All"), &map("effects")).await.0, 201);
    let (code, answer) = server.json("DELETE", &format!("{MAPS}/warn"), &json!({})).await;
    assert_eq!(code, 200, "deletions are asked about too: {answer}");
    let bad = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "bad"},
        "webhooks": [{"name": "nodots", "admissionReviewVersions": ["v1"], "sideEffects": "Some", "clientConfig": {}}]});
    let (code, answer) = server.json("POST", &format!("{CONFIGURATIONS}/validatingwebhookconfigurations"), &bad).await;
    assert_eq!(code, 422, "{answer}");
}

#[tokio::test]
async fn webhooks_are_asked_again_about_what_others_changed() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    // In the order of their names: the one that needs the other's change comes first, and wants to be asked again.
    hooks
        .configure(&server, true, "a", "/second", json!({"reinvocationPolicy": "IfNeeded", "matchConditions": []}))
        .await;
    hooks.configure(&server, true, "b", "/first", json!({"matchConditions": []})).await;
    let made = server.create(MAPS, map("m")).await;
    assert_eq!(made["metadata"]["labels"], json!({"own": "1", "first": "CREATE", "second": "seen"}));
    assert_eq!(hooks.asked.load(Ordering::Relaxed), 3);
    // Selectors keep webhooks out of what isn't theirs.
    hooks
        .configure(
            &server,
            false,
            "c",
            "/deny",
            json!({"matchConditions": [], "objectSelector": {"matchLabels": {"strict": "1"}}}),
        )
        .await;
    hooks
        .configure(
            &server,
            false,
            "d",
            "/deny",
            json!({"matchConditions": [], "namespaceSelector": {"matchLabels": {"strict": "1"}}}),
        )
        .await;
    server.create(MAPS, map("n")).await;
    let mut strict = map("o");
    strict["metadata"]["labels"]["strict"] = "1".into();
    assert_eq!(server.json("POST", MAPS, &strict).await.0, 418);
}

#[tokio::test]
async fn what_webhooks_add_to_custom_resources_is_pruned_by_their_schema() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "kept": {"type": "string"}, "color": {"type": "string", "default": "blue"}}}}}}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let rules = json!({"rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["tabs"]}]});
    hooks.configure(&server, true, "stray", "/stray", rules).await;
    let tabs = "/apis/example.com/v1/namespaces/default/tabs";
    let tab = json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": "stray"}, "spec": {}});
    let made = server.create(tabs, tab).await;
    assert_eq!(made["spec"], json!({"kept": "b", "color": "blue"}));
    let (code, changed) = server.json("PATCH", &format!("{tabs}/stray"), &json!({"spec": {"color": "red"}})).await;
    assert_eq!((code.as_u16(), &changed["spec"]), (200, &json!({"kept": "b", "color": "red"})));
}

#[tokio::test]
async fn what_webhooks_add_to_an_object_that_is_updated_gets_its_defaults() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    let rules =
        json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["services"]}]});
    hooks.configure(&server, true, "port", "/port", rules).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "port"},
        "spec": {"ports": [{"name": "a", "port": 80}]}});
    server.create(services, service).await;
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let (code, changed) = server.json("PATCH", &format!("{services}/port"), &labels).await;
    let ports = json!([{"name": "a", "port": 80, "protocol": "TCP", "targetPort": 80},
        {"name": "b", "port": 81, "protocol": "TCP", "targetPort": 81}]);
    assert_eq!((code.as_u16(), &changed["spec"]["ports"]), (200, &ports), "{changed}");
}

/// A definition of two versions that differ in nothing but their names.
fn two_versions() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version =
        |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "tabs", "kind": "Tab"},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

#[tokio::test]
async fn webhooks_are_asked_in_the_version_that_they_know() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", two_versions()).await;
    let rules = |policy: &str| {
        json!({"matchPolicy": policy, "matchConditions": [], "admissionReviewVersions": ["v1beta1", "v1"],
        "rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["tabs"]}]})
    };
    hooks.configure(&server, false, "exact", "/deny", rules("Exact")).await;
    let tabs = "/apis/example.com/v1beta1/namespaces/default/tabs";
    let tab = |name: &str| json!({"apiVersion": "example.com/v1beta1", "kind": "Tab", "metadata": {"name": name}, "spec": {}});
    server.create(tabs, tab("a")).await;
    // What it writes comes back in the version of the request.
    hooks.configure(&server, true, "mark", "/mark", rules("Equivalent")).await;
    let made = server.create(tabs, tab("b")).await;
    assert_eq!((&made["apiVersion"], &made["spec"]["mark"]), (&json!("example.com/v1beta1"), &json!("example.com/v1")));
    hooks.configure(&server, false, "kind", "/kind", rules("Equivalent")).await;
    let (_, status) = server.json("POST", tabs, &tab("c")).await;
    let words = "\"admission.k8s.io/v1beta1\" \"v1\" of \"v1beta1\": \"example.com/v1\"";
    assert!(status["message"].as_str().unwrap().ends_with(words), "{status}");
    // Versions of built-in kinds, too.
    let scalers = json!({"matchConditions": [],
        "rules": [{"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["horizontalpodautoscalers"]}]});
    hooks.configure(&server, false, "scalers", "/kind", scalers).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target}});
    let (_, status) =
        server.json("POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", &scaler).await;
    let words = "\"admission.k8s.io/v1\" \"v1\" of \"v2\": \"autoscaling/v1\"";
    assert!(status["message"].as_str().unwrap().ends_with(words), "{status}");
}

#[tokio::test]
async fn who_scales_a_workload_is_judged_by_the_scale() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    for name in ["judged", "changed"] {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        server.create(deployments, deployment).await;
    }
    let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments/scale"]}]);
    hooks.configure(&server, false, "judged", "/scale", json!({ "rules": rules })).await;
    hooks.configure(&server, true, "changed", "/fewer", json!({ "rules": rules })).await;
    let three = json!({"spec": {"replicas": 3}});
    let (code, answer) = server.json("PATCH", &format!("{deployments}/judged/scale"), &three).await;
    let words = "\"autoscaling\"/\"Scale\" of \"deployments\": 3 was 1";
    assert!(code == 400 && answer["message"].as_str().unwrap().contains(words), "{code} {answer}");
    let (code, scale) = server.json("PATCH", &format!("{deployments}/changed/scale"), &three).await;
    assert_eq!((code.as_u16(), &scale["spec"]["replicas"]), (200, &json!(2)), "{scale}");
    assert_eq!(server.read(&format!("{deployments}/changed")).await["spec"]["replicas"], 2);
    // By an expression, too.
    let policies = format!("{CONFIGURATIONS}/validatingadmissionpolicies");
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "few"},
        "spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "object.spec.replicas < 2 || oldObject.spec.replicas > 4"}]}});
    server.create(&policies, policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "few"},
        "spec": {"policyName": "few", "validationActions": ["Deny"]}});
    server.create(&format!("{CONFIGURATIONS}/validatingadmissionpolicybindings"), binding).await;
    let (code, answer) = server.json("PATCH", &format!("{deployments}/changed/scale"), &three).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("failed expression"), "{code} {answer}");
}

#[tokio::test]
async fn webhooks_see_what_those_before_them_made_and_speak_for_themselves() {
    let server = Server::start().await;
    let hooks = Hooks::start().await;
    hooks.configure(&server, true, "a", "/first", json!({"matchConditions": []})).await;
    let marked = json!({"matchConditions": [], "objectSelector": {"matchLabels": {"first": "CREATE"}}});
    hooks.configure(&server, true, "b", "/second", marked).await;
    let made = server.create(MAPS, map("m")).await;
    assert_eq!(made["metadata"]["labels"], json!({"own": "1", "first": "CREATE", "second": "seen"}));
    // Code, reason and causes are the webhook's.
    hooks.configure(&server, false, "invalid", "/invalid", json!({})).await;
    let (code, status) = server.json("POST", MAPS, &map("invalid")).await;
    assert_eq!((code.as_u16(), &status["reason"]), (422, &json!("Invalid")), "{status}");
    assert_eq!(status["details"]["causes"][0]["field"], "data.a");
    // They are told of the request's options.
    hooks.configure(&server, false, "options", "/options", json!({})).await;
    let options = |status: Value| -> Value {
        let text = status["message"].as_str().unwrap();
        serde_json::from_str(text.split_once("request: ").unwrap().1).unwrap()
    };
    let (_, status) = server.json("POST", &format!("{MAPS}?fieldManager=me&dryRun=All"), &map("options")).await;
    let wanted =
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "dryRun": ["All"]});
    assert_eq!(options(status), wanted);
    server.create(MAPS, map("late")).await;
    let named = json!({"matchConditions": [{"name": "late", "expression": "request.operation == 'DELETE'"}]});
    hooks.configure(&server, false, "deletes", "/options", named).await;
    let body = json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 5});
    let (_, status) = server.json("DELETE", &format!("{MAPS}/late"), &body).await;
    let wanted = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Foreground", "gracePeriodSeconds": 5});
    assert_eq!(options(status), wanted);
}
