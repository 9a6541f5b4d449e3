//! What the server refuses, kind by kind: a good object of each, and what is wrong with a changed one.

mod cluster;
mod network;
mod pods;
mod workloads;

use apimachinery::patch::merge_patch;
use serde_json::{Value, json};

use crate::server::Server;
use cluster::cluster;
use network::network;
use pods::pods;
use workloads::workloads;

/// A kind with a good object, and changes of it (merge patches) with the field and reason of the one cause they have.
struct Kind {
    path: &'static str,
    good: Value,
    bad: Vec<(Value, &'static str)>,
}

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn each_kind_is_checked_field_by_field() {
    let server = Server::start().await;
    server.create_account().await;
    let kinds = std::iter::once(pods()).chain(workloads()).chain(network()).chain(cluster());
    let mut wrong = Vec::new();
    for kind in kinds {
        let (code, answer) = server.json("POST", &format!("{}?dryRun=All", kind.path), &kind.good).await;
        if code != 201 {
            wrong.push(format!("{}: the good one is refused: {answer}", kind.path));
        }
        for (change, want) in kind.bad {
            let mut object = kind.good.clone();
            merge_patch(&mut object, &change);
            let (code, answer) = server.json("POST", kind.path, &object).await;
            let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
            let found: Vec<String> = causes
                .iter()
                .map(|c| format!("{} {}", c["field"].as_str().unwrap(), c["reason"].as_str().unwrap()))
                .collect();
            if code != 422 || found != [want] {
                wrong.push(format!(
                    "{}: {change}: wanted {want}, got {code} {found:?} {}",
                    kind.path, answer["message"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn what_is_fixed_at_creation_stays() {
    let server = Server::start().await;
    let spec = |extra: Value| json!({"spec": extra});
    let kinds: Vec<Kind> = workloads().into_iter().chain(network()).chain(cluster()).collect();
    let cases: [(&str, Value, &str); 7] = [
        (
            "/apis/apps/v1/namespaces/default/deployments",
            spec(json!({"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}})),
            "spec.selector",
        ),
        ("/apis/apps/v1/namespaces/default/statefulsets", spec(json!({"serviceName": "other"})), "spec"),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            spec(json!({"template": {"spec": {"hostNetwork": true}}})),
            "spec.template",
        ),
        ("/apis/batch/v1/namespaces/default/jobs", spec(json!({"completions": 7})), "spec.completions"),
        ("/apis/networking.k8s.io/v1/ingressclasses", spec(json!({"controller": "c.io/d"})), "spec.controller"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 6}), "value"),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "other"}), "handler"),
    ];
    for (path, change, want) in cases {
        let good = &kinds.iter().find(|k| k.path == path).unwrap().good;
        let (code, answer) = server.json("POST", path, good).await;
        assert!(code == 201 || code == 409, "{path}: {answer}");
        let name = good["metadata"]["name"].as_str().unwrap();
        let (code, answer) = server.json("PATCH", &format!("{path}/{name}"), &change).await;
        let fields: Vec<&str> =
            answer["details"]["causes"].as_array().into_iter().flatten().filter_map(|c| c["field"].as_str()).collect();
        assert_eq!((code.as_u16(), fields.as_slice()), (422, &[want][..]), "{path} {change}: {answer}");
    }
}

#[tokio::test]
async fn of_a_pods_spec_little_may_change() {
    let server = Server::start().await;
    server.create_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    let make = |name: &str, extra: Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        merge_patch(&mut pod, &json!({"spec": extra}));
        pod
    };
    let seconds = |n: u32| json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n}]);
    server.create(pods, make("free", json!({"activeDeadlineSeconds": 60, "tolerations": seconds(5)}))).await;
    let term = |values: &[&str]| {
        let wishes: Vec<Value> =
            values.iter().map(|v| json!({"key": "zone", "operator": "In", "values": [v]})).collect();
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": wishes}]}}})
    };
    let gated = json!({"schedulingGates": [{"name": "a.b/c"}, {"name": "a.b/d"}], "nodeSelector": {"a": "b"}, "affinity": term(&["x"])});
    server.create(pods, make("gated", gated)).await;
    const TERMS: &str =
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
    // Each change is tried after those before it: what is allowed stays.
    let cases: [(&str, Value, &[&str]); 16] = [
        ("free", json!({"nodeName": "n"}), &["spec"]),
        ("free", json!({"terminationGracePeriodSeconds": 1}), &["spec"]),
        ("free", json!({"nodeSelector": {"a": "b"}}), &["spec"]),
        ("free", json!({"activeDeadlineSeconds": 61}), &["spec.activeDeadlineSeconds"]),
        ("free", json!({"activeDeadlineSeconds": null}), &["spec.activeDeadlineSeconds"]),
        ("free", json!({"activeDeadlineSeconds": 59}), &[]),
        ("free", json!({"tolerations": []}), &["spec.tolerations"]),
        ("free", json!({"tolerations": seconds(9)}), &[]),
        ("free", json!({"schedulingGates": [{"name": "new"}]}), &["spec.schedulingGates"]),
        ("gated", json!({"nodeSelector": {"a": "c"}}), &["spec.nodeSelector"]),
        ("gated", json!({"nodeSelector": {"c": "d"}}), &[]),
        ("gated", json!({"affinity": term(&["y"])}), &[TERMS]),
        ("gated", json!({"affinity": term(&["x", "y"])}), &[]),
        ("gated", json!({"schedulingGates": [{"name": "a.b/d"}]}), &[]),
        ("gated", json!({"schedulingGates": []}), &[]),
        ("gated", json!({"nodeSelector": {"e": "f"}}), &["spec"]),
    ];
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "gated"}, "target": {"name": "n"}});
    let (code, answer) = server.json("POST", &format!("{pods}/gated/binding"), &bind).await;
    assert_eq!(code, 409, "{answer}");
    for (name, change, want) in cases {
        let (code, answer) = server.json("PATCH", &format!("{pods}/{name}"), &json!({"spec": change})).await;
        let fields: Vec<&str> =
            answer["details"]["causes"].as_array().into_iter().flatten().filter_map(|c| c["field"].as_str()).collect();
        assert_eq!((code == 200, fields.as_slice()), (want.is_empty(), want), "{name} {change}: {answer}");
    }
    let (code, answer) = server.json("POST", &format!("{pods}/gated/binding"), &bind).await;
    assert_eq!(code, 201, "{answer}");
    let made = make("placed", json!({"schedulingGates": [{"name": "a.b/c"}], "nodeName": "n"}));
    let (code, answer) = server.json("POST", pods, &made).await;
    assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["field"]), (422, &json!("spec.nodeName")), "{answer}");
}
