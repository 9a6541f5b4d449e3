//! Requests that are wrong in all ways: each is told by code, reason and words, and nothing else is disturbed.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Wrong {
    method: &'static str,
    path: &'static str,
    kind: &'static str,
    body: Vec<u8>,
    /// Code, reason, and a part of the message.
    want: (u16, &'static str, &'static str),
}

fn wrong(
    method: &'static str,
    path: &'static str,
    body: impl Into<Vec<u8>>,
    want: (u16, &'static str, &'static str),
) -> Wrong {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    Wrong { method, path, kind, body: body.into(), want }
}

fn map(extra: Value) -> Vec<u8> {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    apimachinery::patch::merge_patch(&mut object, &extra);
    object.to_string().into_bytes()
}

/// Objects of other kinds than their path's.
fn of_other_kinds() -> Vec<Wrong> {
    vec![
        wrong(
            "POST",
            MAPS,
            map(json!({"kind": "Secret"})),
            (
                400,
                "BadRequest",
                "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
            ),
        ),
        wrong(
            "POST",
            MAPS,
            map(json!({"kind": "Map"})),
            (400, "BadRequest", "no kind \"Map\" is registered for version \"v1\""),
        ),
        wrong(
            "POST",
            MAPS,
            map(json!({"apiVersion": "apps/v1"})),
            (400, "BadRequest", "the API version in the data (apps/v1) does not match the expected API version (v1)"),
        ),
    ]
}

fn cases() -> Vec<Wrong> {
    let one = "/api/v1/namespaces/default/configmaps/here";
    let of_kind = |kind: &'static str, case: Wrong| Wrong { kind, ..case };
    vec![
        wrong("GET", "/api/v1/nothings", "", (404, "NotFound", "could not find the requested resource")),
        wrong("GET", "/apis/apps/v9/deployments", "", (404, "NotFound", "could not find")),
        wrong("GET", "/nowhere", "", (404, "NotFound", "")),
        wrong("TRACE", MAPS, "", (405, "MethodNotAllowed", "")),
        wrong("PUT", MAPS, map(json!({})), (405, "MethodNotAllowed", "")),
        wrong(
            "GET",
            "/api/v1/namespaces/default/configmaps/gone",
            "",
            (404, "NotFound", "configmaps \"gone\" not found"),
        ),
        wrong("GET", "/api/v1/namespaces/default/configmaps?labelSelector=a%3D%3D%3Db", "", (400, "BadRequest", "")),
        wrong(
            "GET",
            "/api/v1/namespaces/default/configmaps?fieldSelector=data.a%3Db",
            "",
            (400, "BadRequest", "field label not supported"),
        ),
        wrong("GET", "/api/v1/namespaces/default/configmaps?limit=many", "", (400, "BadRequest", "limit")),
        wrong("GET", "/api/v1/namespaces/default/configmaps?limit=1&continue=x", "", (400, "BadRequest", "continue")),
        wrong(
            "GET",
            "/api/v1/namespaces/default/configmaps?resourceVersion=x",
            "",
            (400, "BadRequest", "resourceVersion"),
        ),
        wrong(
            "GET",
            "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=x",
            "",
            (400, "BadRequest", "resourceVersion"),
        ),
        wrong("POST", MAPS, "{", (400, "BadRequest", "")),
        wrong("POST", MAPS, "", (400, "BadRequest", "")),
        wrong("POST", MAPS, "[1]", (400, "BadRequest", "")),
        wrong("POST", MAPS, vec![0xff, 0xfe], (400, "BadRequest", "")),
        wrong("POST", MAPS, "[".repeat(20_000), (400, "BadRequest", "")),
        wrong("POST", MAPS, map(json!({"kind": "Secret"})), (400, "BadRequest", "")),
        wrong("POST", MAPS, map(json!({"apiVersion": "v2"})), (400, "BadRequest", "")),
        wrong("POST", MAPS, map(json!({"metadata": {"namespace": "other"}})), (400, "BadRequest", "namespace")),
        wrong(
            "POST",
            MAPS,
            map(json!({"metadata": {"name": null}})),
            (422, "Invalid", "name or generateName is required"),
        ),
        wrong("POST", MAPS, map(json!({"metadata": {"name": "A_B"}})), (422, "Invalid", "RFC 1123")),
        wrong(
            "POST",
            MAPS,
            map(json!({"metadata": {"resourceVersion": "5"}})),
            (400, "BadRequest", "resourceVersion should not be set"),
        ),
        wrong("POST", MAPS, map(json!({"data": {"a": 5}})), (400, "BadRequest", "data")),
        wrong("POST", MAPS, map(json!({"data": ["a"]})), (400, "BadRequest", "data")),
        wrong(
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            map(json!({"dtaa": {}})),
            (400, "BadRequest", "unknown field \"dtaa\""),
        ),
        wrong(
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Sometimes",
            map(json!({})),
            (422, "Invalid", "fieldValidation"),
        ),
        wrong("POST", "/api/v1/namespaces/default/configmaps?dryRun=Some", map(json!({})), (422, "Invalid", "dryRun")),
        wrong("POST", MAPS, map(json!({"metadata": {"name": "here"}})), (409, "AlreadyExists", "already exists")),
        wrong(
            "POST",
            "/api/v1/namespaces/nowhere/configmaps",
            map(json!({})),
            (404, "NotFound", "namespaces \"nowhere\" not found"),
        ),
        wrong("POST", MAPS, vec![b' '; 4 << 20], (413, "RequestEntityTooLarge", "limit")),
        of_kind("text/html", wrong("POST", MAPS, map(json!({})), (415, "UnsupportedMediaType", "application/json"))),
        of_kind(
            "application/vnd.kubernetes.protobuf",
            wrong("POST", MAPS, "k8s\0\u{1}\u{2}\u{3}", (400, "BadRequest", "")),
        ),
        wrong(
            "PUT",
            one,
            map(json!({"metadata": {"name": "other"}})),
            (400, "BadRequest", "does not match the name on the URL"),
        ),
        wrong(
            "PUT",
            one,
            map(json!({"metadata": {"name": "here", "resourceVersion": "1"}})),
            (409, "Conflict", "the object has been modified"),
        ),
        wrong("PUT", one, map(json!({"metadata": {"name": "here", "uid": "wrong"}})), (409, "Conflict", "UID")),
        wrong("PATCH", one, "{\"data\": 5}", (400, "BadRequest", "data")),
        of_kind(
            "application/json-patch+json",
            wrong("PATCH", one, "[{\"op\":\"remove\",\"path\":\"/nowhere\"}]", (422, "Invalid", "")),
        ),
        of_kind("application/json-patch+json", wrong("PATCH", one, "{}", (400, "BadRequest", ""))),
        of_kind("text/plain", wrong("PATCH", one, "{}", (415, "UnsupportedMediaType", ""))),
        of_kind(
            "application/apply-patch+yaml",
            wrong("PATCH", one, map(json!({"metadata": {"name": "here"}})), (422, "Invalid", "fieldManager")),
        ),
        wrong("DELETE", one, "{\"preconditions\":{\"uid\":\"wrong\"}}", (409, "Conflict", "UID")),
        wrong("DELETE", one, "{\"propagationPolicy\":\"Sideways\"}", (422, "Invalid", "propagationPolicy")),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let server = Server::start().await;
    server.create(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "here"}})).await;
    let mut bad = Vec::new();
    for case in cases().into_iter().chain(of_other_kinds()) {
        let request = Request::builder().method(case.method).uri(case.path).header("content-type", case.kind);
        let (code, _, bytes) = read(server.send(request.body(Bytes::from(case.body)).unwrap()).await).await;
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let (want_code, want_reason, want_words) = case.want;
        let message = status["message"].as_str().unwrap_or("");
        let right = code == want_code
            && status["kind"] == "Status"
            && status["status"] == "Failure"
            && status["reason"] == want_reason
            && status["code"] == want_code
            && message.contains(want_words);
        if !right {
            bad.push(format!(
                "{} {}: wanted {:?}, got {code} {}",
                case.method,
                case.path,
                case.want,
                String::from_utf8_lossy(&bytes)
            ));
        }
    }
    assert!(bad.is_empty(), "{} are told wrong:\n{}", bad.len(), bad.join("\n"));
    let (code, _, _) = server.get(&format!("{MAPS}/here"), "application/json").await;
    assert_eq!(code, 200, "nothing was lost");
}
