//! Updates, patches and deletions: what each does to an object, and what it refuses.

use serde_json::{Value, json};

use crate::server::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn deployment(name: &str, containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers,
                "tolerations": [{"key": "x", "operator": "Exists"}]}}}})
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "finalizers": ["x.io/a", "x.io/b"]},
        "data": {"a": "1", "b": "2"}})
}

/// What a patch makes of a fresh object: the media type, the patch, a path in the answer, and what is there then.
#[tokio::test]
async fn each_sort_of_patch_changes_as_its_rules_say() {
    let server = Server::start().await;
    let containers = json!([{"name": "one", "image": "i", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]},
        {"name": "two", "image": "j", "ports": [{"containerPort": 80}]}]);
    let (merge, strategic, by_json) = ("merge-patch+json", "strategic-merge-patch+json", "json-patch+json");
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let list = "/spec/template/spec/containers";
    let names = |names: &[&str]| names.iter().map(|n| json!(n)).collect::<Vec<_>>();
    let env = "/spec/template/spec/containers/0/env";
    #[rustfmt::skip]
    let cases: Vec<(&str, &str, Value, &str, Value)> = vec![
        // RFC 7386: lists are replaced, null removes.
        (MAPS, merge, json!({"data": {"a": null, "c": "3"}}), "/data", json!({"b": "2", "c": "3"})),
        (MAPS, merge, json!({"metadata": {"finalizers": ["x.io/c"]}}), "/metadata/finalizers", json!(["x.io/c"])),
        (DEPLOYMENTS, merge, template(json!({"containers": [{"name": "three", "image": "k"}]})), list, json!(["three"])),
        // RFC 6902.
        (MAPS, by_json, json!([{"op": "add", "path": "/data/c", "value": "3"}, {"op": "remove", "path": "/data/a"}]), "/data", json!({"b": "2", "c": "3"})),
        (MAPS, by_json, json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "move", "from": "/data/a", "path": "/data/z"}]), "/data", json!({"b": "2", "z": "1"})),
        (MAPS, by_json, json!([{"op": "copy", "from": "/data/a", "path": "/data/x~1y"}]), "", json!(null)),
        (MAPS, by_json, json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "x.io/c"}]), "/metadata/finalizers", json!(["x.io/a", "x.io/b", "x.io/c"])),
        // Strategic: lists are merged by key, or as sets, or replaced, as the type says.
        (DEPLOYMENTS, strategic, template(json!({"containers": [{"name": "three", "image": "k"}]})), list, json!(["three", "one", "two"])),
        (DEPLOYMENTS, strategic, template(json!({"containers": [{"name": "two", "image": "new"}]})), "/spec/template/spec/containers/1/image", json!("new")),
        (DEPLOYMENTS, strategic, template(json!({"containers": [{"name": "one", "$patch": "delete"}]})), list, json!(["two"])),
        (DEPLOYMENTS, strategic, template(json!({"containers": [{"$patch": "replace"}, {"name": "new", "image": "k"}]})), list, json!(["new"])),
        (DEPLOYMENTS, strategic, template(json!({"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}], "containers": [{"name": "one", "image": "z"}]})), list, json!(["two", "one"])),
        (DEPLOYMENTS, strategic, template(json!({"containers": [{"name": "one", "env": [{"name": "F", "value": "3"}]}]})), env, json!([{"name": "E", "value": "1"}, {"name": "F", "value": "3"}])),
        (DEPLOYMENTS, strategic, template(json!({"tolerations": [{"key": "y", "operator": "Exists"}]})), "/spec/template/spec/tolerations", json!([{"key": "y", "operator": "Exists"}])),
        (DEPLOYMENTS, strategic, json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}), "/spec/strategy", json!({"type": "Recreate"})),
        (MAPS, strategic, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}}), "/metadata/finalizers", json!(["x.io/b"])),
        (MAPS, strategic, json!({"metadata": {"finalizers": ["x.io/b", "x.io/c"]}}), "/metadata/finalizers", json!(["x.io/a", "x.io/b", "x.io/c"])),
        (MAPS, strategic, json!({"data": {"$patch": "replace", "only": "1"}}), "/data", json!({"only": "1"})),
        // What clients can't set stays.
        (MAPS, merge, json!({"metadata": {"uid": null, "creationTimestamp": null, "generation": 7}}), "/metadata/generation", json!(null)),
        (DEPLOYMENTS, merge, json!({"status": {"replicas": 5}}), "/status/replicas", json!(null)),
    ];
    for (i, (path, kind, patch, at, want)) in cases.into_iter().enumerate() {
        let name = format!("o{i}");
        let object = if path == MAPS { map(&name) } else { deployment(&name, containers.clone()) };
        server.create(path, object).await;
        let (code, answer) = server.patch(&format!("{path}/{name}"), kind, &patch).await;
        if at.is_empty() {
            assert_eq!(code, 422, "a key that no config map may have: {answer}");
            continue;
        }
        assert_eq!(code, 200, "{patch}: {answer}");
        let mut found = answer.pointer(at).cloned().unwrap_or_default();
        if at == list {
            let all = found.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>();
            found = names(&all).into();
        }
        assert_eq!(found, want, "{kind} {patch}: {answer}");
        assert_eq!(answer, server.read(&format!("{path}/{name}")).await);
    }
    // Custom kinds have no strategic merge.
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "xs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let xs = "/apis/example.com/v1/namespaces/default/xs";
    server.create(xs, json!({"apiVersion": "example.com/v1", "kind": "X", "metadata": {"name": "x"}})).await;
    let (code, answer) = server.patch(&format!("{xs}/x"), strategic, &json!({"a": 1})).await;
    assert_eq!((code.as_u16(), &answer["reason"]), (415, &json!("UnsupportedMediaType")), "{answer}");
}

#[tokio::test]
async fn updates_are_refused_when_somebody_was_faster() {
    let server = Server::start().await;
    let made = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}});
    let made = server.create(MAPS, made).await;
    let one = format!("{MAPS}/m");
    let mut newer = made.clone();
    newer["data"]["a"] = "2".into();
    let (code, updated) = server.json("PUT", &one, &newer).await;
    assert_eq!(code, 200);
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, status) = server.json("PUT", &one, &newer).await;
    assert_eq!((code.as_u16(), &status["reason"]), (409, &json!("Conflict")), "{status}");
    // Without a version, the last one wins; and nothing changed means no new version.
    let mut blind = newer.clone();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, same) = server.json("PUT", &one, &blind).await;
    assert_eq!((code.as_u16(), &same["metadata"]["resourceVersion"]), (200, &updated["metadata"]["resourceVersion"]));
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "9"}});
    assert_eq!(server.json("PATCH", &one, &stale).await.0, 409);
    for (condition, code) in [
        (json!({"uid": "other"}), 409),
        (json!({"resourceVersion": made["metadata"]["resourceVersion"]}), 409),
        (json!({"uid": made["metadata"]["uid"], "resourceVersion": updated["metadata"]["resourceVersion"]}), 200),
    ] {
        let (got, answer) = server.json("DELETE", &one, &json!({"preconditions": condition})).await;
        assert_eq!(got, code, "{condition}: {answer}");
    }
    let (code, answer) = server.json("PUT", &one, &updated).await;
    assert_eq!(code, 404, "updates don't create: {answer}");
}

#[tokio::test]
async fn a_dry_run_answers_and_keeps_nothing() {
    let server = Server::start().await;
    server.create(MAPS, map("there")).await;
    let before = server.read(MAPS).await;
    let (code, made) = server.json("POST", &format!("{MAPS}?dryRun=All"), &map("new")).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string());
    let one = format!("{MAPS}/there?dryRun=All");
    let (code, changed) = server.json("PATCH", &one, &json!({"data": {"a": "9"}})).await;
    assert_eq!((code.as_u16(), &changed["data"]["a"]), (200, &json!("9")));
    assert_eq!(server.json("PATCH", &one, &json!({"data": {"a/b": "9"}})).await.0, 422, "all is checked");
    assert_eq!(server.json("POST", &format!("{MAPS}?dryRun=All"), &map("there")).await.0, 409);
    assert_eq!(server.json("DELETE", &one, &json!({})).await.0, 200);
    assert_eq!(server.json("DELETE", &format!("{MAPS}/there"), &json!({"dryRun": ["All"]})).await.0, 200);
    assert_eq!(server.json("DELETE", &format!("{MAPS}?dryRun=All"), &json!({})).await.0, 200);
    assert_eq!(server.read(MAPS).await, before);
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_told_as_the_client_wants() {
    let server = Server::start().await;
    let text = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "NAME", "lables": {}}, "data": {"a": "1", "a": "2"}}"#;
    for (i, (validation, code, told)) in
        [("Strict", 400, 0), ("Warn", 201, 2), ("", 201, 2), ("Ignore", 201, 0)].into_iter().enumerate()
    {
        let request = http::Request::post(format!("{MAPS}?fieldValidation={validation}"))
            .header("content-type", "application/json")
            .body(text.replace("NAME", &format!("m{i}")).into())
            .unwrap();
        let answer = server.send(request).await;
        let warnings: Vec<String> =
            answer.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_string()).collect();
        assert_eq!((answer.status().as_u16(), warnings.len()), (code, told), "{validation}: {warnings:?}");
        if told > 0 {
            assert_eq!(warnings[0], r#"299 - "unknown field \"metadata.lables\"""#);
            assert_eq!(warnings[1], r#"299 - "duplicate field \"data.a\"""#);
        }
    }
}

#[tokio::test]
async fn names_are_made_up_until_one_is_free() {
    let server = Server::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let made = server.create(MAPS, map.clone()).await;
        let name = made["metadata"]["name"].as_str().unwrap().to_string();
        assert!(name.len() == 9 && name.starts_with("gen-"), "{name}");
        assert!(seen.insert(name));
    }
    let long = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x".repeat(90)}});
    let made = server.create(MAPS, long).await;
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 63);
}

/// What stays of an object after a deletion: nothing, or what waits for what.
#[tokio::test]
async fn deletions_wait_for_finalizers_and_grace() {
    let server = Server::start().await;
    server.create_account().await;
    server.create(MAPS, map("held")).await;
    let held = format!("{MAPS}/held");
    let (code, answer) = server.json("DELETE", &held, &json!({})).await;
    assert_eq!(code, 200);
    assert!(answer["metadata"]["deletionTimestamp"].is_string(), "{answer}");
    let (code, answer) =
        server.json("PATCH", &held, &json!({"metadata": {"finalizers": ["x.io/new", "x.io/a", "x.io/b"]}})).await;
    assert_eq!(code, 422, "no finalizer may be added now: {answer}");
    assert_eq!(
        server.json("PATCH", &held, &json!({"metadata": {"deletionTimestamp": null}})).await.1["metadata"]["deletionTimestamp"],
        answer_time(&server, &held).await
    );
    let (code, _) = server.json("PATCH", &held, &json!({"metadata": {"finalizers": ["x.io/b"]}})).await;
    assert_eq!(code, 200);
    let (code, _) = server.json("PATCH", &held, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(server.get(&held, "application/json").await.0, 404, "the last finalizer took it along");

    for (options, finalizers) in [
        (json!({"propagationPolicy": "Foreground"}), json!(["foregroundDeletion"])),
        (json!({"propagationPolicy": "Orphan"}), json!(["orphan"])),
        (json!({"orphanDependents": true}), json!(["orphan"])),
        (json!({"propagationPolicy": "Background"}), json!(null)),
        (json!({}), json!(null)),
    ] {
        server.create(DEPLOYMENTS, deployment("d", json!([{"name": "c", "image": "i"}]))).await;
        let one = format!("{DEPLOYMENTS}/d");
        let (code, answer) = server.json("DELETE", &one, &options).await;
        assert_eq!(code, 200);
        if finalizers.is_null() {
            assert_eq!(answer["status"], "Success", "{answer}");
            assert_eq!(answer["details"]["name"], "d");
        } else {
            assert_eq!(answer["metadata"]["finalizers"], finalizers, "{options}: {answer}");
            assert_eq!(server.json("PATCH", &one, &json!({"metadata": {"finalizers": null}})).await.0, 200);
        }
    }
    // A job's pods stay by default, and that is told.
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    server.create("/apis/batch/v1/namespaces/default/jobs", job).await;
    let request = http::Request::delete("/apis/batch/v1/namespaces/default/jobs/j").body(bytes::Bytes::new()).unwrap();
    let answer = server.send(request).await;
    assert!(answer.headers()["warning"].to_str().unwrap().contains("child pods are preserved by default"));

    let pod = |name: &str, node: Option<&str>| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 20, "containers": [{"name": "c", "image": "i"}]}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    };
    for (name, node, options, grace) in [
        ("placed", Some("n"), json!({}), Some(20)),
        ("shorter", Some("n"), json!({"gracePeriodSeconds": 3}), Some(3)),
        ("negative", Some("n"), json!({"gracePeriodSeconds": -5}), Some(1)),
        ("at-once", Some("n"), json!({"gracePeriodSeconds": 0}), None),
        ("unplaced", None, json!({}), None),
    ] {
        server.create(PODS, pod(name, node)).await;
        let one = format!("{PODS}/{name}");
        let (code, answer) = server.json("DELETE", &one, &options).await;
        assert_eq!((code.as_u16(), &answer["kind"]), (200, &json!("Pod")), "{answer}");
        match grace {
            Some(seconds) => assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], seconds, "{name}"),
            None => assert_eq!(server.get(&one, "application/json").await.0, 404, "{name}"),
        }
    }
}

async fn answer_time(server: &Server, path: &str) -> Value {
    server.read(path).await["metadata"]["deletionTimestamp"].clone()
}

#[tokio::test]
async fn a_collection_is_deleted_by_selectors() {
    let server = Server::start().await;
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "blue"), ("d", "green")] {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"color": color}}});
        server.create(MAPS, map).await;
    }
    let left = || async {
        let list = server.read(MAPS).await;
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(server.json("DELETE", &format!("{MAPS}?labelSelector=color%3Dred"), &json!({})).await.0, 200);
    assert_eq!(left().await, ["c", "d"]);
    assert_eq!(server.json("DELETE", &format!("{MAPS}?fieldSelector=metadata.name%3Dd"), &json!({})).await.0, 200);
    assert_eq!(left().await, ["c"]);
    assert_eq!(server.json("DELETE", MAPS, &json!({})).await.0, 200);
    assert!(left().await.is_empty());
}

#[tokio::test]
async fn an_eviction_asks_the_budget() {
    let server = Server::start().await;
    server.create_account().await;
    for name in ["p", "q", "r"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        server.create(PODS, pod).await;
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(server.json("PATCH", &format!("{PODS}/{name}/status"), &ready).await.0, 200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"a": "b"}}}});
    server.create(budgets, budget).await;
    let evict = |name: &'static str, options: Value| {
        let server = &server;
        async move {
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
            server.json("POST", &format!("{PODS}/{name}/eviction"), &body).await
        }
    };
    let (code, answer) = evict("p", json!({})).await;
    assert_eq!((code.as_u16(), &answer["reason"]), (429, &json!("TooManyRequests")), "not counted yet: {answer}");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3}});
    assert_eq!(server.json("PATCH", &format!("{budgets}/b/status"), &status).await.0, 200);
    assert_eq!(evict("p", json!({"dryRun": ["All"]})).await.0, 201);
    assert_eq!(evict("p", json!({"preconditions": {"uid": "other"}})).await.0, 409);
    let (code, answer) = evict("p", json!({})).await;
    assert_eq!((code.as_u16(), &answer["status"]), (201, &json!("Success")), "{answer}");
    let budget = server.read(&format!("{budgets}/b")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0, "{budget}");
    assert!(budget["status"]["disruptedPods"]["p"].is_string(), "{budget}");
    let pod = server.read(&format!("{PODS}/p")).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    assert!(
        pod["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI"),
        "{pod}"
    );
    let (code, answer) = evict("q", json!({})).await;
    assert_eq!(
        (code.as_u16(), &answer["details"]["causes"][0]["reason"]),
        (429, &json!("DisruptionBudget")),
        "{answer}"
    );
    assert_eq!(evict("gone", json!({})).await.0, 404);
    let other = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "o"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    server.create(budgets, other).await;
    let (code, answer) = evict("q", json!({})).await;
    let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!((code.as_u16(), &answer["message"], answer.get("reason")), (500, &json!(why), None), "{answer}");
}

#[tokio::test]
async fn a_service_that_is_gone_gives_its_addresses_back() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, address: &str, port: u32| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "finalizers": ["x.io/a"]},
            "spec": {"type": "NodePort", "clusterIP": address, "ports": [{"port": 80, "nodePort": port}]}})
    };
    server.create(services, service("a", "10.96.1.1", 30001)).await;
    assert_eq!(server.json("DELETE", &format!("{services}/a"), &json!({})).await.0, 200);
    let (code, _) = server.json("POST", services, &service("b", "10.96.1.1", 30001)).await;
    assert_eq!(code, 422, "its finalizer holds it");
    // The update that removes the last finalizer is the end of it.
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(server.json("PATCH", &format!("{services}/a"), &free).await.0, 200);
    server.create(services, service("b", "10.96.1.1", 30001)).await;
    // The address of the API is never another service's, also not while that is away.
    assert_eq!(server.json("DELETE", &format!("{services}/kubernetes"), &json!({})).await.0, 200);
    let (code, answer) = server.json("POST", services, &service("thief", "10.96.0.1", 30002)).await;
    assert_eq!(code, 422, "{answer}");
}

#[tokio::test]
async fn answers_are_escaped_as_go_escapes_them() {
    let server = Server::start().await;
    let mut object = map("m");
    object["data"] = json!({"a": "<b>&\u{2028}"});
    server.create(MAPS, object).await;
    for (path, accept) in [
        (format!("{MAPS}/m"), "application/json"),
        (MAPS.to_string(), "application/json"),
        (MAPS.to_string(), "application/json;as=Table;v=v1;g=meta.k8s.io"),
    ] {
        let (_, _, bytes) = server.get(&format!("{path}?includeObject=Object"), accept).await;
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains(r#""a":"\u003cb\u003e\u0026\u2028""#), "{path} {accept}: {text}");
    }
}
