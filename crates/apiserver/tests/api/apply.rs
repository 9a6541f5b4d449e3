//! Server-side apply: who owns which field after each step, and who is told what.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

struct Applier<'a> {
    server: &'a Server,
    path: String,
    kind: (&'static str, &'static str),
    name: &'static str,
}

impl Applier<'_> {
    /// Applies `config` as `manager`; `query` says how.
    async fn apply(&self, manager: &str, query: &str, config: Value) -> (u16, Value) {
        let mut object = json!({"apiVersion": self.kind.0, "kind": self.kind.1, "metadata": {"name": self.name}});
        apimachinery::patch::merge_patch(&mut object, &config);
        let sub = if query.contains("status") { "/status" } else { "" };
        let uri = format!("{}{sub}?fieldManager={manager}&{query}", self.path);
        let request = Request::patch(uri).header("content-type", "application/apply-patch+yaml");
        let (code, _, bytes) =
            read(self.server.send(request.body(Bytes::from(object.to_string())).unwrap()).await).await;
        (code.as_u16(), serde_json::from_slice(&bytes).unwrap())
    }

    /// The leaves that each manager has, like `one Apply: data.a`.
    async fn owners(&self) -> Vec<String> {
        let object = self.server.read(&self.path).await;
        let mut all = Vec::new();
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let mut leaves = Vec::new();
            walk(&entry["fieldsV1"], String::new(), &mut leaves);
            let sub = entry["subresource"].as_str().map_or(String::new(), |s| format!("/{s}"));
            let (manager, operation) = (entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
            all.push(format!("{manager}{sub} {operation}: {}", leaves.join(" ")));
        }
        all.sort();
        all
    }
}

fn walk(fields: &Value, path: String, leaves: &mut Vec<String>) {
    let map = fields.as_object().unwrap();
    if map.is_empty() {
        leaves.push(path);
        return;
    }
    for (step, below) in map.iter().filter(|(step, _)| *step != ".") {
        let step = step.strip_prefix("f:").unwrap_or(step);
        walk(below, if path.is_empty() { step.into() } else { format!("{path}.{step}") }, leaves);
    }
    if map.keys().eq(["."]) {
        leaves.push(path);
    }
}

fn maps<'a>(server: &'a Server, name: &'static str) -> Applier<'a> {
    Applier { server, path: format!("{MAPS}/{name}"), kind: ("v1", "ConfigMap"), name }
}

#[tokio::test]
async fn a_field_has_the_owner_who_applied_it_last() {
    let server = Server::start().await;
    let map = maps(&server, "m");
    let data = |data: Value| json!({"data": data});
    assert_eq!(map.apply("one", "", data(json!({"a": "1", "b": "1"}))).await.0, 201, "apply creates");
    assert_eq!(map.owners().await, ["one Apply: data.a data.b"]);
    assert_eq!(map.apply("two", "", data(json!({"b": "1", "c": "1"}))).await.0, 200, "the same value is shared");
    assert_eq!(map.owners().await, ["one Apply: data.a data.b", "two Apply: data.b data.c"]);

    let (code, status) = map.apply("two", "", data(json!({"a": "2"}))).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(status["details"]["causes"][0]["field"], ".data.a");
    assert!(status["message"].as_str().unwrap().contains(r#"conflict with "one""#), "{status}");
    assert_eq!(server.read(&map.path).await["data"], json!({"a": "1", "b": "1", "c": "1"}), "nothing happened");

    // By force the field is taken; what two no longer applies goes, unless another has it.
    let (code, forced) = map.apply("two", "force=true", data(json!({"a": "2"}))).await;
    assert_eq!((code, &forced["data"]), (200, &json!({"a": "2", "b": "1"})), "{forced}");
    assert_eq!(map.owners().await, ["one Apply: data.b", "two Apply: data.a"]);

    // Whoever updates owns what he changed.
    let (code, _) =
        server.json("PATCH", &format!("{}?fieldManager=hand", map.path), &data(json!({"a": "3", "d": "4"}))).await;
    assert_eq!(code, 200);
    assert_eq!(map.owners().await, ["hand Update: data.a data.d", "one Apply: data.b"]);
    let (code, status) = map.apply("two", "", data(json!({"a": "5"}))).await;
    assert!(code == 409 && status["message"].as_str().unwrap().contains(r#"conflict with "hand""#), "{status}");
    assert_eq!(map.apply("two", "", data(json!({"a": "3"}))).await.0, 200, "agreed");
    assert_eq!(map.owners().await, ["hand Update: data.a data.d", "one Apply: data.b", "two Apply: data.a"]);

    // An empty configuration lets everything go that is one's own alone.
    assert_eq!(map.apply("one", "", json!({})).await.1["data"], json!({"a": "3", "d": "4"}));
    let before = server.read(&map.path).await;
    assert_eq!(map.apply("two", "", data(json!({"a": "3"}))).await.1, before, "nothing changed, no new version");
}

#[tokio::test]
async fn items_of_lists_have_owners_of_their_own() {
    let server = Server::start().await;
    let deployment =
        Applier { server: &server, path: format!("{DEPLOYMENTS}/d"), kind: ("apps/v1", "Deployment"), name: "d" };
    let config = |containers: Value| {
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}}})
    };
    let one = json!([{"name": "main", "image": "i:1", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]}]);
    assert_eq!(deployment.apply("app", "", config(one)).await.0, 201);
    let side = json!([{"name": "side", "image": "s"}, {"name": "main", "env": [{"name": "B", "value": "2"}]}]);
    let (code, both) = deployment.apply("mesh", "", config(side)).await;
    assert_eq!(code, 200, "{both}");
    let names = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers
            .iter()
            .map(|c| format!("{}:{}", c["name"].as_str().unwrap(), c["env"].as_array().map_or(0, Vec::len)))
            .collect()
    };
    assert_eq!(names(&both), ["side:0", "main:2"], "the order of who came last");
    // Another port is another item: port and protocol are its key.
    let two = json!([{"name": "main", "image": "i:2", "ports": [{"containerPort": 80, "protocol": "UDP"}]}]);
    let (code, next) = deployment.apply("app", "", config(two)).await;
    assert_eq!(code, 200, "{next}");
    let main = &next["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"] == "main")
        .unwrap()
        .clone();
    assert_eq!(
        (&main["image"], &main["env"], &main["ports"]),
        (&json!("i:2"), &json!([{"name": "B", "value": "2"}]), &json!([{"containerPort": 80, "protocol": "UDP"}]))
    );
    // The autoscaler's field: applied first, then left to another.
    let mut with_replicas = config(json!([{"name": "main", "image": "i:2"}]));
    with_replicas["spec"]["replicas"] = 3.into();
    assert_eq!(deployment.apply("app", "", with_replicas).await.0, 200);
    let (code, _) = server
        .json("PATCH", &format!("{}/scale?fieldManager=hpa", deployment.path), &json!({"spec": {"replicas": 7}}))
        .await;
    assert_eq!(code, 200);
    let owners = deployment.owners().await;
    assert!(owners.iter().any(|o| o.starts_with("hpa/scale Update: spec.replicas")), "{owners:#?}");
    let (code, kept) = deployment.apply("app", "", config(json!([{"name": "main", "image": "i:3"}]))).await;
    assert_eq!(
        (code, &kept["spec"]["replicas"]),
        (200, &json!(7)),
        "it isn't lost with the configuration that leaves it out"
    );
    let (code, gone) = deployment.apply("mesh", "", json!({})).await;
    assert_eq!((code, names(&gone)), (200, vec!["main:0".to_string()]), "{gone}");
}

#[tokio::test]
async fn status_is_applied_apart() {
    let server = Server::start().await;
    let deployment =
        Applier { server: &server, path: format!("{DEPLOYMENTS}/d"), kind: ("apps/v1", "Deployment"), name: "d" };
    let spec = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True"}]}});
    let (code, status) = deployment.apply("controller", "status", condition("Progressing")).await;
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")), "a status doesn't create");
    assert_eq!(deployment.apply("app", "", spec.clone()).await.0, 201);
    assert_eq!(deployment.apply("controller", "status", condition("Progressing")).await.0, 200);
    let (code, both) = deployment.apply("other", "status", condition("Available")).await;
    assert_eq!((code, both["status"]["conditions"].as_array().map(Vec::len)), (200, Some(2)), "{both}");
    assert_eq!(both["spec"]["template"]["spec"]["containers"][0]["image"], "i");
    let owners = deployment.owners().await;
    assert!(
        owners.iter().any(|o| o.starts_with("controller/status Apply: status.conditions.k:{\"type\":\"Progressing\"}")),
        "{owners:#?}"
    );
    let mut ignored = spec;
    ignored["status"] = json!({"replicas": 9});
    let (code, answer) = deployment.apply("app", "", ignored).await;
    assert_eq!(code, 200);
    assert!(answer["status"].get("replicas").is_none(), "{answer}");
    let (code, one) = deployment.apply("other", "status", json!({"status": {}})).await;
    assert_eq!((code, one["status"]["conditions"].as_array().map(Vec::len)), (200, Some(1)), "{one}");
}

#[tokio::test]
async fn a_scale_is_applied_to_its_workload() {
    let server = Server::start().await;
    let deployment =
        Applier { server: &server, path: format!("{DEPLOYMENTS}/d"), kind: ("apps/v1", "Deployment"), name: "d" };
    let spec = json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(deployment.apply("app", "", spec).await.0, 201);
    let scale = |query: &'static str, replicas: i64| {
        let body = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
        let path = format!("{}/scale?{query}", deployment.path);
        let server = &server;
        async move { server.patch(&path, "apply-patch+yaml", &body).await }
    };
    assert_eq!(scale("", 3).await.0, 422, "who are you?");
    let (code, status) = scale("fieldManager=scaler", 3).await;
    assert!(code == 409 && status["message"].as_str().unwrap().contains("conflict with \"app\""), "{status}");
    let (code, scaled) = scale("fieldManager=scaler&force=true", 3).await;
    assert_eq!(
        (code.as_u16(), &scaled["kind"], &scaled["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(3)),
        "{scaled}"
    );
    let owners = deployment.owners().await;
    assert!(owners.contains(&"scaler/scale Apply: spec.replicas".to_string()), "{owners:#?}");
    assert!(!owners.iter().any(|o| o.starts_with("app ") && o.contains("spec.replicas")), "{owners:#?}");
}

#[tokio::test]
async fn the_last_label_goes_and_the_name_stays() {
    let server = Server::start().await;
    for (path, kind) in [(MAPS, ("v1", "ConfigMap")), ("/api/v1/namespaces/default/secrets", ("v1", "Secret"))] {
        let object = Applier { server: &server, path: format!("{path}/m"), kind, name: "m" };
        let labelled = json!({"metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}}});
        assert_eq!(object.apply("one", "", labelled).await.0, 201);
        let (code, left) = object.apply("one", "", json!({})).await;
        assert_eq!(code, 200, "{left}");
        assert_eq!((&left["metadata"]["name"], left["metadata"].get("labels")), (&json!("m"), None), "{left}");
        assert!(!left["metadata"]["uid"].is_null());
    }
}

#[tokio::test]
async fn what_the_server_generates_belongs_to_nobody() {
    let server = Server::start().await;
    let template = json!({"metadata": {"labels": {"app": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}});
    let path = "/apis/batch/v1/namespaces/default/jobs?fieldManager=kubectl-client-side-apply";
    let made = server.create(path, job.clone()).await;
    assert!(made["spec"]["selector"].is_object() && made["metadata"]["labels"] == json!({"app": "j"}), "{made}");
    let job_of = Applier {
        server: &server,
        path: "/apis/batch/v1/namespaces/default/jobs/j".into(),
        kind: ("batch/v1", "Job"),
        name: "j",
    };
    let owners = job_of.owners().await.join(" ");
    assert!(owners.contains("spec.template.metadata.labels.app"), "{owners}");
    assert!(!owners.contains("controller-uid") && !owners.contains("spec.selector"), "{owners}");
    // So whoever goes over to server-side apply, taking the fields of client-side apply, removes none of it.
    let mut live = server.read(&job_of.path).await;
    for entry in live["metadata"]["managedFields"].as_array_mut().unwrap() {
        (entry["manager"], entry["operation"]) = ("kubectl".into(), "Apply".into());
    }
    assert_eq!(server.json("PUT", &job_of.path, &live).await.0, 200);
    let (code, applied) = job_of.apply("kubectl", "", json!({"spec": {"template": template}})).await;
    assert_eq!(code, 200, "{applied}");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = server.create("/api/v1/namespaces/default/services", service).await;
    let fields = made["metadata"]["managedFields"].to_string();
    assert!(!fields.contains("clusterIP") && fields.contains("f:ports"), "{fields}");
    // The same of an update: what becomes of a Service that gets a port on nodes is nobody's but what was asked for.
    let wider = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    for (method, manager) in [("PUT", "replacer"), ("PATCH", "patcher")] {
        let path = format!("/api/v1/namespaces/default/services/s?fieldManager={manager}");
        let (code, changed) = server.json(method, &path, &wider).await;
        assert_eq!(code, 200, "{changed}");
        assert!(
            changed["spec"]["ports"][0]["nodePort"].is_number() && changed["spec"]["clusterIP"].is_string(),
            "{changed}"
        );
        let fields = changed["metadata"]["managedFields"].to_string();
        assert!(!fields.contains("nodePort") && !fields.contains("clusterIP") && fields.contains("f:type"), "{fields}");
    }
}

/// Items of lists that can't be told apart belong to nobody (upstream's structured merge).
#[tokio::test]
async fn items_that_cannot_be_told_apart_are_not_applied() {
    let server = Server::start().await;
    let deployment =
        Applier { server: &server, path: format!("{DEPLOYMENTS}/d"), kind: ("apps/v1", "Deployment"), name: "d" };
    let config = |container: Value| {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}})
    };
    let before = "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers";
    let names = |list: Value| json!({"name": "c", "image": "i", "env": list});
    for (container, words) in [
        (
            names(json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])),
            "[name=\"c\"].env: duplicate entries for key [name=\"A\"]",
        ),
        (
            names(json!([{"value": "1"}])),
            "[name=\"c\"].env: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (
            json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]}),
            "[name=\"c\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]",
        ),
    ] {
        let (code, status) = deployment.apply("one", "", config(container)).await;
        assert_eq!((code, status["message"].as_str().unwrap()), (500, format!("{before}{words}").as_str()), "{status}");
    }
    let fine =
        json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]});
    assert_eq!(deployment.apply("one", "", config(fine)).await.0, 201);
    let twice = json!({"metadata": {"finalizers": ["a/b", "a/b"]}});
    let (code, status) = maps(&server, "m").apply("one", "", twice).await;
    assert!(
        code == 500
            && status["message"]
                .as_str()
                .unwrap()
                .ends_with(".metadata.finalizers: duplicate entries for key [=\"a/b\"]"),
        "{status}"
    );
}

/// Who updates in several versions of a kind is a manager for each.
#[tokio::test]
async fn a_manager_that_updates_in_two_versions_is_two() {
    let server = Server::start().await;
    let scaler = "namespaces/default/horizontalpodautoscalers";
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target}});
    server.create(&format!("/apis/autoscaling/v2/{scaler}?fieldManager=m"), object).await;
    let (code, patched) = server
        .json(
            "PATCH",
            &format!("/apis/autoscaling/v1/{scaler}/h?fieldManager=m"),
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!(code, 200, "{patched}");
    let managers: Vec<&Value> =
        patched["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| &entry["apiVersion"]).collect();
    assert_eq!(managers, ["autoscaling/v2", "autoscaling/v1"], "{patched}");
}

#[tokio::test]
async fn what_cannot_be_applied_is_told() {
    let server = Server::start().await;
    let map = maps(&server, "m");
    assert_eq!(map.apply("one", "", json!({"data": {"a": "1"}})).await.0, 201);
    for (manager, query, config, code, words) in [
        ("", "", json!({}), 422, "fieldManager"),
        (&"x".repeat(129), "", json!({}), 400, "fieldManager"),
        ("one", "", json!({"metadata": {"managedFields": [{"manager": "x"}]}}), 400, "managedFields must be nil"),
        ("one", "", json!({"metadata": {"name": "other"}}), 400, "does not match the name on the URL"),
        ("one", "", json!({"metadata": {"resourceVersion": "1"}}), 409, "the object has been modified"),
        ("one", "", json!({"metadata": {"uid": "other"}}), 409, "UID"),
        (
            "one",
            "fieldValidation=Strict",
            json!({"dtaa": {}}),
            500,
            "(/m; /v1, Kind=ConfigMap): .dtaa: field not declared in schema",
        ),
        ("one", "fieldValidation=Ignore", json!({"dtaa": {}}), 500, ".dtaa: field not declared in schema"),
        ("one", "", json!({"apiVersion": "apps/v1"}), 400, "invalid object type: apps/v1, Kind=ConfigMap"),
        ("one", "", json!({"apiVersion": ""}), 400, "invalid object type: /"),
        ("one", "", json!({"kind": ""}), 400, "invalid object type: /v1, Kind="),
        ("one", "", json!({"data": {"a": 5}}), 400, "data"),
        ("one", "", json!({"kind": "Secret"}), 400, "Secret"),
        ("one", "dryRun=Some", json!({}), 422, "dryRun"),
    ] {
        let (got, status) = map.apply(manager, query, config.clone()).await;
        assert!(got == code && status["message"].as_str().unwrap().contains(words), "{config}: {status}");
    }
    // Of what isn't there yet: no object has that uid, and what was exported elsewhere is made.
    let new = maps(&server, "new");
    let (code, status) = new.apply("one", "", json!({"metadata": {"uid": "other"}})).await;
    let words = "uid mismatch: the provided object specified uid other, and no existing object was found";
    assert!(code == 409 && status["message"].as_str().unwrap().ends_with(words), "{status}");
    assert_eq!(new.apply("one", "", json!({"metadata": {"resourceVersion": "1"}})).await.0, 201);
    // To force is for who applies.
    let (code, status) = server.json("PATCH", &format!("{}?force=true", map.path), &json!({"data": {"x": "1"}})).await;
    let words = "force: Forbidden: may not be specified for non-apply patch";
    assert!(code == 422 && status["message"].as_str().unwrap().ends_with(words), "{status}");
    let dry = map.apply("one", "dryRun=All", json!({"data": {"b": "2"}})).await;
    assert_eq!((dry.0, &dry.1["data"]), (200, &json!({"b": "2"})));
    assert_eq!(server.read(&map.path).await["data"], json!({"a": "1"}));
    // Managers can be made to forget, and can't be made up.
    let (code, _) = server.json("PATCH", &map.path, &json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(code, 200);
    assert!(map.owners().await.is_empty());
    let wrong = json!({"metadata": {"managedFields": [{"manager": "m", "operation": "Steal", "fieldsType": "FieldsV1", "fieldsV1": {}}]}});
    let (code, status) = server.json("PATCH", &map.path, &wrong).await;
    assert_eq!(code, 200, "{status}");
    assert!(map.owners().await.is_empty(), "what can't be read is as if it were not said");
}
