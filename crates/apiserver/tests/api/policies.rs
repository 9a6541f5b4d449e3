//! Admission policies: what they match, refuse, warn of, note and change; and the audit log, where their notes go.

use std::sync::Arc;

use apiserver::audit::{Audit, Log, Policy};
use serde_json::{Value, json};

use crate::server::Server;

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, labels: Value, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data})
}

pub async fn define(server: &Server, mutating: bool, name: &str, spec: Value, binding: Value) {
    let (kind, plural) = match mutating {
        true => ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        false => ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    };
    let mut whole = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}});
    apimachinery::patch::merge_patch(&mut whole, &spec);
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": whole});
    server.create(&format!("{GROUP}/{plural}"), policy).await;
    let mut bound = json!({"policyName": name});
    apimachinery::patch::merge_patch(&mut bound, &binding);
    let bound = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": {"name": name}, "spec": bound});
    let bindings = plural.replace("policies", "policybindings");
    server.create(&format!("{GROUP}/{bindings}"), bound).await;
}

#[tokio::test]
async fn objects_are_refused_by_the_policies_that_match_them() {
    let server = Server::start().await;
    server.create(MAPS, map("limits", json!({}), json!({"most": "2"}))).await;
    let deny = json!({"validationActions": ["Deny"]});
    let when = json!({"matchConditions": [{"name": "labeled", "expression": "has(object.metadata.labels) && 'kind' in object.metadata.labels"}]});
    let with = |extra: Value| {
        let mut spec = when.clone();
        apimachinery::patch::merge_patch(&mut spec, &extra);
        spec
    };
    let of = |kind: &str, expression: &str| format!("object.metadata.labels['kind'] != '{kind}' || ({expression})");
    define(&server, false, "plain", with(json!({"validations": [{"expression": of("plain", "size(object.data) <= 1"), "message": "too much", "reason": "Forbidden"}]})), deny.clone()).await;
    define(&server, false, "params", with(json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "most", "expression": "int(params.data.most)"}],
        "validations": [{"expression": of("params", "size(object.data) <= variables.most"), "messageExpression": "'at most ' + string(variables.most)"}]})),
        json!({"validationActions": ["Deny"], "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}})).await;
    define(&server, false, "change", with(json!({"validations": [{"expression": of("change", "oldObject == null || object.data == oldObject.data"), "message": "stays"}]})), deny.clone()).await;
    define(
        &server,
        false,
        "user",
        with(json!({"validations": [{"expression": of("user", "request.userInfo.username == 'boss'")}]})),
        deny.clone(),
    )
    .await;
    define(&server, false, "rights", with(json!({"validations": [{"expression": of("rights", "authorizer.group('').resource('secrets').check('get').reason() == ''"), "message": "?"}]})), deny.clone()).await;
    define(
        &server,
        false,
        "fails",
        with(
            json!({"failurePolicy": "Fail", "validations": [{"expression": of("fails", "object.data.missing == ''")}]}),
        ),
        deny.clone(),
    )
    .await;
    define(&server, false, "ignores", with(json!({"failurePolicy": "Ignore", "validations": [{"expression": of("ignores", "object.data.missing == ''")}]})), deny.clone()).await;
    define(
        &server,
        false,
        "elsewhere",
        json!({"validations": [{"expression": "false"}]}),
        json!({"validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}}),
    )
    .await;
    let two = json!({"a": "1", "b": "2"});
    let three = json!({"a": "1", "b": "2", "c": "3"});
    for (kind, data, code, words) in [
        ("plain", json!({"a": "1"}), 201, ""),
        ("plain", two.clone(), 403, "ValidatingAdmissionPolicy 'plain' with binding 'plain' denied request: too much"),
        ("params", two.clone(), 201, ""),
        ("params", three, 422, "at most 2"),
        ("change", two.clone(), 201, ""),
        ("user", two.clone(), 422, "failed expression: object.metadata.labels"),
        ("rights", two.clone(), 201, ""),
        ("fails", two.clone(), 422, "no such key: missing"),
        ("ignores", two.clone(), 201, ""),
    ] {
        let (got, answer) =
            server.json("POST", MAPS, &map(&format!("{kind}-{code}"), json!({"kind": kind}), data)).await;
        assert_eq!(got, code, "{kind}: {answer}");
        assert!(answer["message"].as_str().unwrap_or("").contains(words), "{kind}: {answer}");
    }
    let (code, answer) = server.json("PATCH", &format!("{MAPS}/change-201"), &json!({"data": {"a": "9"}})).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().ends_with("stays"), "{answer}");
    let system = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(server.json("POST", system, &map("m", json!({}), json!({}))).await.0, 422);
    // Without its parameters a policy refuses, as its binding says.
    assert_eq!(server.json("DELETE", &format!("{MAPS}/limits"), &json!({})).await.0, 200);
    let (code, answer) = server.json("POST", MAPS, &map("m", json!({"kind": "params"}), json!({}))).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("failed to configure binding"), "{answer}");
    for (spec, field) in [
        (json!({"validations": [{"expression": "object."}]}), "spec.validations[0].expression"),
        (json!({"validations": [{"expression": "nobody.knows"}]}), "spec.validations[0].expression"),
        (json!({"validations": []}), "spec.validations"),
    ] {
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "bad"},
            "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*"]}]}}});
        let mut policy = policy;
        apimachinery::patch::merge_patch(&mut policy, &json!({ "spec": spec }));
        let (code, answer) = server.json("POST", &format!("{GROUP}/validatingadmissionpolicies"), &policy).await;
        assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["field"]), (422, &json!(field)), "{answer}");
    }
}

#[tokio::test]
async fn objects_are_changed_by_policies() {
    let server = Server::start().await;
    let apply = |expression: &str| json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}], "reinvocationPolicy": "Never", "failurePolicy": "Fail"});
    define(
        &server,
        true,
        "a-label",
        apply("Object{metadata: Object.metadata{labels: {'by': request.userInfo.username, 'did': request.operation}}}"),
        json!({}),
    )
    .await;
    let patch = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('added'), value: object.metadata.labels['did']}]"}}],
        "matchConditions": [{"name": "has-data", "expression": "has(object.data)"}], "reinvocationPolicy": "Never", "failurePolicy": "Fail"});
    define(&server, true, "b-data", patch, json!({})).await;
    let made = server.create(MAPS, map("m", json!({"own": "1"}), json!({"a": "1"}))).await;
    assert_eq!(made["metadata"]["labels"], json!({"own": "1", "by": "admin", "did": "CREATE"}));
    assert_eq!(made["data"], json!({"a": "1", "added": "CREATE"}));
    let (_, changed) = server.json("PATCH", &format!("{MAPS}/m"), &json!({"data": {"a": "2"}})).await;
    assert_eq!(changed["data"]["added"], "UPDATE");
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bare"}});
    assert!(server.create(MAPS, bare).await.get("data").is_none());
    define(&server, true, "c-bad", apply("Object{metadata: Object.metadata{name: 'other'}}"), json!({})).await;
    let (code, answer) = server.json("POST", MAPS, &map("n", json!({}), json!({}))).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("must not set metadata.name"), "{answer}");
}

#[tokio::test]
async fn what_is_only_noted_stands_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let policy = Policy::read(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]",
    )
    .unwrap();
    let log = Log::open(path.to_str().unwrap(), 0, 0, 0).unwrap();
    let server = Server::start_with(|config| config.audit = Some(Arc::new(Audit { policy, log }))).await;
    define(
        &server,
        false,
        "noted",
        json!({"validations": [{"expression": "object.metadata.name != 'm'", "message": "no m"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "'it is ' + object.metadata.name"}]}),
        json!({"validationActions": ["Audit", "Warn"]}),
    )
    .await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "watched", "labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    server.create("/api/v1/namespaces", namespace).await;
    server
        .create(
            "/api/v1/namespaces/watched/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    server.create(MAPS, map("m", json!({}), json!({}))).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/watched/pods", pod).await;
    // A thread of its own writes the lines.
    let find = |resource: &'static str| {
        let path = path.clone();
        async move {
            loop {
                let text = std::fs::read_to_string(&path).unwrap();
                let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let found =
                    events.into_iter().find(|e| e["objectRef"]["resource"] == resource && e["verb"] == "create");
                if let Some(event) = found {
                    return event["annotations"].clone();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    };
    let map = find("configmaps").await;
    let failure: Value =
        serde_json::from_str(map["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap()).unwrap();
    assert_eq!((&failure[0]["policy"], &failure[0]["message"]), (&json!("noted"), &json!("no m")), "{map}");
    assert_eq!(map["noted/name"], "it is m", "{map}");
    let pod = find("pods").await;
    assert!(
        pod["pod-security.kubernetes.io/audit-violations"].as_str().unwrap().contains("restricted:latest"),
        "{pod}"
    );
    assert_eq!(pod["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
}

#[tokio::test]
async fn parameters_are_of_any_kind_that_is_kept() {
    let server = Server::start().await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "bounds.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bounds", "kind": "Bound"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"most": {"type": "integer"}}}}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let bound = json!({"apiVersion": "example.com/v1", "kind": "Bound", "metadata": {"name": "two"}, "most": 2});
    server.create("/apis/example.com/v1/namespaces/default/bounds", bound).await;
    let reference = json!({"name": "two", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let binding = json!({"validationActions": ["Deny"], "paramRef": reference});
    let policy = |version: &str, kind: &str| {
        json!({"paramKind": {"apiVersion": version, "kind": kind},
            "validations": [{"expression": "size(object.data) <= params.most", "message": "too much"}]})
    };
    define(&server, false, "bounds", policy("example.com/v1", "Bound"), binding.clone()).await;
    let (code, answer) = server.json("POST", MAPS, &map("b", json!({}), json!({"a": "", "b": "", "c": ""}))).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("too much"), "{answer}");
    server.create(MAPS, map("a", json!({}), json!({"a": ""}))).await;
    // Of reviews nothing is kept that could be a parameter.
    define(&server, false, "reviews", policy("authentication.k8s.io/v1", "TokenReview"), binding).await;
    let (code, answer) = server.json("POST", MAPS, &map("c", json!({}), json!({"a": ""}))).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("paramKind"), "{answer}");
}

#[tokio::test]
async fn policies_are_refused_for_what_upstream_refuses() {
    let server = Server::start().await;
    let policy = |spec: Value| {
        let mut whole = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["*"], "resources": ["configmaps"]}]}});
        apimachinery::patch::merge_patch(&mut whole, &spec);
        json!({"metadata": {"name": "p"}, "spec": whole})
    };
    let with = |expression: &str| json!({"validations": [{"expression": expression}]});
    let and = |more: Value| {
        let mut validation = json!({"expression": "true"});
        apimachinery::patch::merge_patch(&mut validation, &more);
        json!({"validations": [validation]})
    };
    let variables = |variables: Value| json!({"variables": variables, "validations": [{"expression": "true"}]});
    let notes = |notes: Value| json!({ "auditAnnotations": notes });
    let names: Vec<Value> = (0..21).map(|i| json!({"key": format!("k{i}"), "valueExpression": "'a'"})).collect();
    for (spec, words) in [
        (with("request.operation == 'CREATE' && object.metadata.name != ''"), ""),
        (with("request.user == 'x'"), "compilation failed: ERROR: <input>:1:8: undefined field 'user'"),
        (with("request.name > 1"), "found no matching overload for '_>_' applied to '(string, int)'"),
        (with("namespaceObject.metadata.labels['a'] == 'b'"), ""),
        (with("namespaceObject.metadata.ownerReferences.size() > 0"), "undefined field 'ownerReferences'"),
        (with("authorizer.requestResource.check('get').allowed()"), ""),
        (
            with("object.spec.enabled"),
            "spec.validations[0].expression: Invalid value: \"object.spec.enabled\": must evaluate to bool but got dyn",
        ),
        (with("1 + 1"), "must evaluate to bool but got int"),
        (with("params.data.a == 'b'"), "undeclared reference to 'params'"),
        (with("variables.a == 1"), "undeclared reference to 'variables'"),
        (
            variables(json!([{"name": "a b", "expression": "1"}])),
            "spec.variables[0].name: Invalid value: \"a b\": name is not a valid CEL identifier",
        ),
        (variables(json!([{"name": "if", "expression": "1"}])), "name is not a valid CEL identifier"),
        (
            variables(json!([{"name": "a", "expression": " "}])),
            "spec.variables[0].expression: Required value: expression is not specified",
        ),
        (
            variables(json!([{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}])),
            "spec.variables[0].expression: Invalid value",
        ),
        (
            json!({"variables": [{"name": "n", "expression": "object.data.size()"}, {"name": "few", "expression": "variables.n < 3"}],
                "validations": [{"expression": "variables.few", "messageExpression": "'has ' + string(variables.n)"}]}),
            "",
        ),
        (
            json!({"variables": [{"name": "n", "expression": "size(request.name)"}],
                "validations": [{"expression": "variables.n < 3", "messageExpression": "variables.n"}]}),
            "spec.validations[0].messageExpression: Invalid value: \"variables.n\": must evaluate to string but got int",
        ),
        (and(json!({"messageExpression": " "})), "must be non-empty if specified"),
        (and(json!({"message": " "})), "message must be non-empty if specified"),
        (and(json!({"message": "a\nb"})), "message must not contain line breaks"),
        (and(json!({"reason": "Because"})), "spec.validations[0].reason: Unsupported value: \"Because\""),
        (
            and(json!({"messageExpression": "authorizer.path('/').check('get').reason()"})),
            "undeclared reference to 'authorizer'",
        ),
        (
            json!({}),
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
        ),
        (notes(json!([{"key": "k", "valueExpression": "'a'"}, {"key": "n", "valueExpression": "null"}])), ""),
        (notes(json!([{"key": "k", "valueExpression": "1"}])), "must evaluate to one of"),
        (
            notes(json!([{"key": "k k", "valueExpression": "'a'"}])),
            "spec.auditAnnotations[0].key: Invalid value: \"p/k k\"",
        ),
        (
            notes(json!([{"key": "k", "valueExpression": "'a'"}, {"key": "k", "valueExpression": "'a'"}])),
            "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
        ),
        (notes(names.into()), "must not have more than 20 auditAnnotations"),
        (
            json!({"paramKind": {"apiVersion": "a/b/c", "kind": "K"}, "validations": [{"expression": "true"}]}),
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ),
        (
            json!({"paramKind": {"apiVersion": "v1", "kind": "A.b"}, "validations": [{"expression": "true"}]}),
            "may have mixed case, but should otherwise match: ",
        ),
        (
            json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "params.data.a == 'b'"}]}),
            "",
        ),
        (
            json!({"matchConditions": [{"name": "a b", "expression": "true"}], "validations": [{"expression": "true"}]}),
            "spec.matchConditions[0].name: Invalid value",
        ),
        (
            json!({"matchConditions": [{"name": "a", "expression": "object.x"}], "validations": [{"expression": "true"}]}),
            "must evaluate to bool but got dyn",
        ),
        (
            json!({"matchConstraints": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Has"}]}}, "validations": [{"expression": "true"}]}),
            "spec.matchConstraints.namespaceSelector.matchExpressions[0].operator",
        ),
    ] {
        let path = format!("{GROUP}/validatingadmissionpolicies?dryRun=All");
        let (code, answer) = server.json("POST", &path, &policy(spec.clone())).await;
        let message = answer["message"].as_str().unwrap_or("");
        let right = if words.is_empty() { code == 201 } else { code == 422 && message.contains(words) };
        assert!(right, "{spec}: {code} {answer}");
    }
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings?dryRun=All");
    let reference = |more: Value| {
        let mut reference = json!({"name": "a", "parameterNotFoundAction": "Deny"});
        apimachinery::patch::merge_patch(&mut reference, &more);
        json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": reference})
    };
    for (spec, words) in [
        (reference(json!({})), ""),
        (
            reference(json!({"selector": {}})),
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
        ),
        (
            reference(json!({"parameterNotFoundAction": "Shrug"})),
            "spec.paramRef.parameterNotFoundAction: Unsupported value",
        ),
        (json!({"policyName": "A_b", "validationActions": ["Deny"]}), "spec.policyName: Invalid value"),
        (
            json!({"policyName": "p", "validationActions": ["Deny", "Deny"]}),
            "spec.validationActions[1]: Duplicate value: \"Deny\"",
        ),
        (
            json!({"policyName": "p", "validationActions": ["Shout"]}),
            "spec.validationActions[0]: Unsupported value: \"Shout\"",
        ),
        (
            json!({"policyName": "p"}),
            "spec.validationActions: Required value: at least one validation action is required",
        ),
    ] {
        let (code, answer) = server.json("POST", &bindings, &json!({"metadata": {"name": "b"}, "spec": spec})).await;
        let message = answer["message"].as_str().unwrap_or("");
        let right = if words.is_empty() { code == 201 } else { code == 422 && message.contains(words) };
        assert!(right, "{spec}: {code} {answer}");
    }
}
