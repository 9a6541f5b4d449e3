//! What the built-in admission plugins add to objects, and what they refuse.

use serde_json::{Value, json};

use crate::server::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn start() -> Server {
    let server = Server::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
        "imagePullSecrets": [{"name": "registry"}]});
    server.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    server
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    apimachinery::patch::merge_patch(&mut pod, &json!({"spec": spec}));
    pod
}

fn with_resources(name: &str, resources: Value) -> Value {
    pod(name, json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}))
}

async fn refused(server: &Server, path: &str, object: &Value, words: &str) {
    let (code, answer) = server.json("POST", path, object).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains(words), "{words}: {code} {answer}");
}

#[tokio::test]
async fn pods_get_an_account_a_priority_and_tolerations() {
    let server = start().await;
    let class = |name: &str, value: i64, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
    };
    for (name, value, default) in [("low", 5, false), ("normal", 10, true)] {
        server.create("/apis/scheduling.k8s.io/v1/priorityclasses", class(name, value, default)).await;
    }
    let made = server.create(PODS, pod("p", json!({}))).await;
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["imagePullSecrets"]),
        (&json!("default"), &json!([{"name": "registry"}]))
    );
    assert_eq!(
        (&spec["priority"], &spec["priorityClassName"], &spec["preemptionPolicy"]),
        (&json!(10), &json!("normal"), &json!("Never"))
    );
    let token = spec["volumes"].as_array().unwrap().iter().find(|v| v["projected"].is_object()).unwrap();
    assert_eq!(token["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(
        (&mount["mountPath"], &mount["readOnly"], &mount["name"]),
        (&json!("/var/run/secrets/kubernetes.io/serviceaccount"), &json!(true), &token["name"])
    );
    let tolerations: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(tolerations, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!(spec["tolerations"][0]["tolerationSeconds"], 300);

    let made = server.create(PODS, pod("q", json!({"priorityClassName": "low", "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}]}))).await;
    assert_eq!((&made["spec"]["priority"], made["spec"]["tolerations"].as_array().unwrap().len()), (&json!(5), 1));
    assert!(made["spec"].get("volumes").is_none(), "{made}");
    refused(
        &server,
        PODS,
        &pod("r", json!({"priorityClassName": "gone"})),
        "no PriorityClass with name gone was found",
    )
    .await;
    refused(
        &server,
        PODS,
        &pod("r", json!({"serviceAccountName": "gone"})),
        "error looking up service account default/gone: serviceaccount \"gone\" not found",
    )
    .await;
    refused(
        &server,
        PODS,
        &pod("r", json!({"priority": 7})),
        "the integer value of priority (7) must not be provided in pod spec",
    )
    .await;
}

#[tokio::test]
async fn pods_of_a_runtime_class_cost_what_it_says() {
    let server = start().await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    server.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made = server.create(PODS, pod("p", json!({"runtimeClassName": "vm", "nodeSelector": {"a": "b"}}))).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "100m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"a": "b", "vm": "yes"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().contains(&json!({"key": "vm", "operator": "Exists"})));
    refused(&server, PODS, &pod("q", json!({"runtimeClassName": "gone"})), "RuntimeClass \"gone\" not found").await;
    refused(
        &server,
        PODS,
        &pod("q", json!({"overhead": {"cpu": "1"}})),
        "Pod Overhead set without corresponding RuntimeClass",
    )
    .await;
    refused(
        &server,
        PODS,
        &pod("q", json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}})),
        "doesn't match RuntimeClass's defined Overhead",
    )
    .await;
    refused(
        &server,
        PODS,
        &pod("q", json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}})),
        "conflict: runtimeClass.scheduling.nodeSelector[vm]",
    )
    .await;
}

#[tokio::test]
async fn classes_that_are_default_are_filled_in() {
    let server = start().await;
    let storage = |name: &str, default: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x.io/y",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: Value| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let none = server.create(claims, claim("none", Value::Null)).await;
    assert!(none["spec"].get("storageClassName").is_none());
    server.create("/apis/storage.k8s.io/v1/storageclasses", storage("fast", "true")).await;
    server.create("/apis/storage.k8s.io/v1/storageclasses", storage("slow", "false")).await;
    for (name, class, want) in [("a", Value::Null, "fast"), ("b", json!("slow"), "slow"), ("c", json!(""), "")] {
        let made = server.create(claims, claim(name, class)).await;
        assert_eq!(made["spec"]["storageClassName"], want);
        assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
    // As manifests of before there was a field for it say it, of claims and of classes.
    let mut older = claim("older", Value::Null);
    older["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-class": "slow"});
    assert!(server.create(claims, older).await["spec"].get("storageClassName").is_none());
    let mut beta = storage("beta", "false");
    beta["metadata"]["annotations"] = json!({"storageclass.beta.kubernetes.io/is-default-class": "true"});
    server.create("/apis/storage.k8s.io/v1/storageclasses", beta).await;
    server.json("DELETE", "/apis/storage.k8s.io/v1/storageclasses/fast", &json!({})).await;
    assert_eq!(server.create(claims, claim("d", Value::Null)).await["spec"]["storageClassName"], "beta");
    let ingress = |name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
    };
    server
        .create("/apis/networking.k8s.io/v1/ingressclasses", json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "main", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "x.io/y"}}))
        .await;
    let made = server.create("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress("i")).await;
    assert_eq!(made["spec"]["ingressClassName"], "main");
}

#[tokio::test]
async fn limits_are_filled_in_and_held() {
    let server = start().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi"}, "min": {"memory": "16Mi"}, "max": {"memory": "128Mi"}, "maxLimitRequestRatio": {"memory": "4"}},
        {"type": "Pod", "max": {"memory": "200Mi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
    server.create("/api/v1/namespaces/default/limitranges", range).await;
    let made = server.create(PODS, pod("p", json!({}))).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi"}})
    );
    for (resources, words) in [
        (json!({"limits": {"memory": "8Mi"}}), "minimum memory usage per Container is 16Mi"),
        (json!({"limits": {"memory": "1Gi"}}), "maximum memory usage per Container is 128Mi"),
        (
            json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "128Mi"}}),
            "memory max limit to request ratio per Container is 4",
        ),
    ] {
        refused(&server, PODS, &with_resources("q", resources), words).await;
    }
    let two = json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"memory": "128Mi"}}}, {"name": "b", "image": "i", "resources": {"limits": {"memory": "100Mi"}}}]});
    refused(&server, PODS, &pod("q", two), "maximum memory usage per Pod is 200Mi").await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    refused(
        &server,
        "/api/v1/namespaces/default/persistentvolumeclaims",
        &claim,
        "maximum storage usage per PersistentVolumeClaim is 1Gi",
    )
    .await;
    // A claim that is made larger is bound to the same limits.
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "grows"},
        "provisioner": "x.io/y", "allowVolumeExpansion": true});
    server.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let sized = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let mut small = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "small"},
        "spec": {"storageClassName": "grows", "accessModes": ["ReadWriteOnce"]}});
    apimachinery::patch::merge_patch(&mut small, &sized("512Mi"));
    server.create(claims, small).await;
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "512Mi"}}});
    server.json("PATCH", &format!("{claims}/small/status"), &bound).await;
    let (code, answer) = server.json("PATCH", &format!("{claims}/small"), &sized("2Gi")).await;
    let words = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
    assert!(code == 403 && answer["message"].as_str().unwrap().contains(words), "{code} {answer}");
    assert_eq!(server.json("PATCH", &format!("{claims}/small"), &sized("1Gi")).await.0, 200);
}

#[tokio::test]
async fn a_new_node_gets_no_pods_before_it_was_looked_at() {
    let server = Server::start().await;
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "own", "effect": "NoExecute"});
    for (name, own, want) in [
        ("bare", json!(null), json!([taint])),
        ("own", json!([other]), json!([other, taint])),
        ("said", json!([taint]), json!([taint])),
    ] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": own}});
        assert_eq!(server.create("/api/v1/nodes", node).await["spec"]["taints"], want, "{name}");
        // Whoever takes it away later isn't held up.
        let (_, freed) =
            server.json("PATCH", &format!("/api/v1/nodes/{name}"), &json!({"spec": {"taints": null}})).await;
        assert!(freed["spec"].get("taints").is_none(), "{freed}");
    }
}

#[tokio::test]
async fn quotas_count_and_hold() {
    let server = start().await;
    let quota = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    server.create(quotas, quota("sum", json!({"hard": {"requests.cpu": "1", "pods": "3", "count/deployments.apps": "1", "services.nodeports": "1", "configmaps": "1"}}))).await;
    server.create(quotas, quota("best", json!({"hard": {"pods": "0"}, "scopes": ["BestEffort"]}))).await;
    refused(&server, PODS, &pod("p", json!({})), "must specify requests.cpu").await;
    let asking = |name: &str, cpu: &str| with_resources(name, json!({"requests": {"cpu": cpu}}));
    server.create(PODS, asking("a", "600m")).await;
    refused(
        &server,
        PODS,
        &asking("b", "500m"),
        "exceeded quota: sum, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1",
    )
    .await;
    server.create(PODS, asking("b", "400m")).await;
    // What has ended counts no more.
    assert_eq!(
        server.json("PATCH", &format!("{PODS}/a/status"), &json!({"status": {"phase": "Succeeded"}})).await.0,
        200
    );
    server.create(PODS, asking("c", "600m")).await;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let maps = "/api/v1/namespaces/default/configmaps";
    server.create(maps, map("a")).await;
    refused(
        &server,
        maps,
        &map("b"),
        "exceeded quota: sum, requested: configmaps=1, used: configmaps=1, limited: configmaps=1",
    )
    .await;
    assert_eq!(server.json("DELETE", &format!("{maps}/a"), &json!({})).await.0, 200);
    server.create(maps, map("b")).await;
    let service = |name: &str, of: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": of, "ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    server.create(services, service("a", "NodePort")).await;
    server.create(services, service("b", "ClusterIP")).await;
    let (code, answer) = server.json("PATCH", &format!("{services}/b"), &json!({"spec": {"type": "NodePort"}})).await;
    assert!(
        code == 403 && answer["message"].as_str().unwrap().contains("services.nodeports"),
        "an update can exceed it too: {answer}"
    );
}

#[tokio::test]
async fn pods_keep_to_the_standard_of_their_namespace() {
    let server = Server::start().await;
    for (name, labels) in [
        ("open", json!({"pod-security.kubernetes.io/warn": "restricted"})),
        ("baseline", json!({"pod-security.kubernetes.io/enforce": "baseline"})),
        ("strict", json!({"pod-security.kubernetes.io/enforce": "restricted"})),
    ] {
        server
            .create(
                "/api/v1/namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
            )
            .await;
        server
            .create(
                &format!("/api/v1/namespaces/{name}/serviceaccounts"),
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
            )
            .await;
    }
    let secure = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    let privileged = json!({"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]});
    for (namespace, spec, allowed) in [
        ("open", &privileged, true),
        ("baseline", &json!({}), true),
        ("baseline", &privileged, false),
        ("baseline", &json!({"hostNetwork": true}), false),
        ("baseline", &json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), false),
        ("strict", &json!({}), false),
        ("strict", &secure, true),
    ] {
        let (code, answer) = server
            .json("POST", &format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"), &pod("p", spec.clone()))
            .await;
        assert_eq!(code == 201, allowed, "{namespace} {spec}: {answer}");
        if !allowed {
            assert!(answer["message"].as_str().unwrap().contains("violates PodSecurity"), "{answer}");
        }
    }
    let request =
        http::Request::post("/api/v1/namespaces/open/pods?dryRun=All").header("content-type", "application/json");
    let answer = server.send(request.body(pod("p", json!({})).to_string().into()).unwrap()).await;
    assert!(answer.headers()["warning"].to_str().unwrap().contains("would violate PodSecurity"));
    // Templates are only warned of: their controller may yet be changed.
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": privileged}}});
    server.create("/apis/apps/v1/namespaces/baseline/deployments?dryRun=All", deployment).await;
}

#[tokio::test]
async fn a_namespace_that_ends_takes_nothing_in() {
    let server = Server::start().await;
    server
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ends"}}))
        .await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ends"}});
    let (code, answer) = server.json("DELETE", "/api/v1/namespaces/ends", &json!({})).await;
    assert_eq!(
        (code.as_u16(), &answer["status"]["phase"], &answer["spec"]["finalizers"]),
        (200, &json!("Terminating"), &json!(["kubernetes"]))
    );
    refused(&server, "/api/v1/namespaces/ends/configmaps", &map, "because it is being terminated").await;
    // Controllers know by it that it is no use to try again.
    let (_, answer) = server.json("POST", "/api/v1/namespaces/ends/configmaps", &map).await;
    let cause = json!({"reason": "NamespaceTerminating", "message": "namespace ends is being terminated",
        "field": "metadata.namespace"});
    assert_eq!(answer["details"]["causes"], json!([cause]), "{answer}");
    let (code, answer) = server
        .json(
            "POST",
            "/api/v1/namespaces/nowhere/configmaps",
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}),
        )
        .await;
    assert_eq!((code.as_u16(), &answer["reason"]), (404, &json!("NotFound")));
    for name in ["default", "kube-system", "kube-public"] {
        let (code, answer) = server.json("DELETE", &format!("/api/v1/namespaces/{name}"), &json!({})).await;
        assert!(
            code == 403 && answer["message"].as_str().unwrap().contains("this namespace may not be deleted"),
            "{answer}"
        );
    }
    let class = "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical";
    let (code, answer) = server.json("DELETE", class, &json!({})).await;
    let words = "this is a system priority class and cannot be deleted";
    assert!(code == 403 && answer["message"].as_str().unwrap().ends_with(words), "{answer}");
    // The controller says when it is empty.
    let mut last = server.read("/api/v1/namespaces/ends").await;
    last["spec"]["finalizers"] = json!([]);
    assert_eq!(server.json("PUT", "/api/v1/namespaces/ends/finalize", &last).await.0, 200);
    assert_eq!(server.get("/api/v1/namespaces/ends", "*/*").await.0, 404);
}

#[tokio::test]
async fn limit_ranges_bound_what_a_running_pod_is_resized_to() {
    let server = Server::start().await;
    server.create_account().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
    server.create("/api/v1/namespaces/default/limitranges", range).await;
    let resources = |cpu: &str| json!({"limits": {"cpu": cpu}, "requests": {"cpu": cpu}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources("500m")}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    let resize = async |cpu: &str| {
        let patch = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources(cpu)}]}});
        server.json("PATCH", "/api/v1/namespaces/default/pods/p/resize", &patch).await
    };
    let (code, answer) = resize("2").await;
    let words = "maximum cpu usage per Container is 1, but limit is 2";
    assert!(code == 403 && answer["message"].as_str().unwrap().contains(words), "{code} {answer}");
    let (code, answer) = resize("1").await;
    assert_eq!(code, 200, "{answer}");
}
