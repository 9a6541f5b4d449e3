//! What keeps the cluster in order: garbage, namespaces, quotas, accounts, budgets, certificates.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, condition, name};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn set(replicas: i32) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: set}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: set}}}}, \
         template: {{metadata: {{labels: {{app: set}}, annotations: {{fake/lingers: '5', fake/ready: '5'}}}}, spec: {{containers: [{{name: c, image: one}}]}}}}}}}}"
    )
}

const SET: &str = "/apis/apps/v1/namespaces/default/replicasets/set";

#[tokio::test(start_paused = true)]
async fn dependents_go_before_after_or_not_at_all() {
    let cluster = Cluster::start(1).await;
    let up = || async {
        cluster.create(&set(2)).await;
        cluster.until(SET, |s| s["status"]["availableReplicas"] == 2).await
    };
    up().await;
    cluster.delete(SET, json!({"propagationPolicy": "Foreground"})).await;
    let waiting = cluster.get(SET).await;
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.until(SET, Value::is_null).await;
    assert!(cluster.list(PODS).await.is_empty(), "all dependents went before");
    up().await;
    cluster.delete(SET, json!({"propagationPolicy": "Background"})).await;
    assert!(cluster.get(SET).await.is_null() && cluster.list(PODS).await.len() == 2);
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    up().await;
    cluster.delete(SET, json!({"propagationPolicy": "Orphan"})).await;
    cluster.until(SET, Value::is_null).await;
    sleep(Duration::from_secs(60)).await;
    let left = cluster.list(PODS).await;
    assert_eq!(left.len(), 2);
    assert!(
        left.iter().all(|p| p["metadata"]["ownerReferences"].is_null() && p["metadata"]["deletionTimestamp"].is_null())
    );
}

#[tokio::test(start_paused = true)]
async fn owners_may_be_absent_several_or_in_the_wrong_place() {
    let cluster = Cluster::start(0).await;
    let map = |name: &str, owners: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}});
    let one = cluster.post(MAPS, map("one", json!([]))).await;
    let two = cluster.post(MAPS, map("two", json!([]))).await;
    let owner =
        |of: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name(of), "uid": of["metadata"]["uid"]});
    cluster.post(MAPS, map("of-both", json!([owner(&one), owner(&two)]))).await;
    cluster
        .post(MAPS, map("of-nobody", json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "0"}])))
        .await;
    cluster.until(&format!("{MAPS}/of-nobody"), Value::is_null).await;
    cluster.delete(&format!("{MAPS}/one"), json!({})).await;
    sleep(Duration::from_secs(60)).await;
    assert!(!cluster.get(&format!("{MAPS}/of-both")).await.is_null(), "one owner is left");
    cluster.delete(&format!("{MAPS}/two"), json!({})).await;
    cluster.until(&format!("{MAPS}/of-both"), Value::is_null).await;
    // An owner in another namespace is none: it is looked for in the dependent's own.
    cluster.create("{apiVersion: v1, kind: Namespace, metadata: {name: other}}").await;
    let far = cluster.post("/api/v1/namespaces/other/configmaps", map("far", json!([]))).await;
    cluster.post(MAPS, map("lost", json!([owner(&far)]))).await;
    cluster.until(&format!("{MAPS}/lost"), Value::is_null).await;
    let told = cluster.events("lost").await;
    assert!(told.iter().any(|t| t.starts_with("ConfigMap/lost Warning OwnerRefInvalidNamespace: ownerRef [v1/ConfigMap, namespace: default, name: far, uid: ")), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn namespace_says_what_it_waits_for() {
    let cluster = Cluster::start(1).await;
    cluster.create("{apiVersion: v1, kind: Namespace, metadata: {name: 'n'}}").await;
    cluster.until("/api/v1/namespaces/n/serviceaccounts/default", |a| !a.is_null()).await;
    // What every pod finds there stays what it is, whoever changes it or takes it away.
    let root = "/api/v1/namespaces/n/configmaps/kube-root-ca.crt";
    cluster.until(root, |m| m["data"]["ca.crt"].is_string()).await;
    let published = cluster.get(root).await;
    let right = published["data"].clone();
    let described = &published["metadata"]["annotations"]["kubernetes.io/description"];
    assert!(described.as_str().is_some_and(|text| text.starts_with("Contains a CA bundle")), "{published}");
    cluster.patch(root, json!({"data": {"ca.crt": "another", "more": "x"}})).await;
    cluster.until(root, |m| m["data"] == right).await;
    cluster.delete(root, json!({})).await;
    cluster.until(root, |m| m["data"] == right).await;
    cluster.delete("/api/v1/namespaces/n/serviceaccounts/default", json!({})).await;
    cluster.until("/api/v1/namespaces/n/serviceaccounts/default", |a| !a.is_null()).await;
    cluster
        .until("/api/v1/namespaces/n/configmaps/kube-root-ca.crt", |m| {
            m["data"]["ca.crt"].as_str().is_some_and(|c| c.contains("BEGIN CERTIFICATE"))
        })
        .await;
    cluster
        .create(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: held, namespace: 'n', finalizers: [example.com/hold]}}",
        )
        .await;
    cluster.create("{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: 'n', annotations: {fake/lingers: '10'}}, spec: {containers: [{name: c, image: one}]}}").await;
    cluster.until("/api/v1/namespaces/n/pods/p", |p| p["status"]["phase"] == "Running").await;
    cluster.delete("/api/v1/namespaces/n", json!({})).await;
    let stuck = cluster
        .until("/api/v1/namespaces/n", |n| {
            condition(n, "NamespaceFinalizersRemaining").0 == "True" && n["status"]["phase"] == "Terminating"
        })
        .await;
    let (_, reason, message) = condition(&stuck, "NamespaceFinalizersRemaining");
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        )
    );
    let remaining =
        cluster.until("/api/v1/namespaces/n", |n| !condition(n, "NamespaceContentRemaining").2.contains("pods")).await;
    assert_eq!(
        condition(&remaining, "NamespaceContentRemaining"),
        (
            "True".into(),
            "SomeResourcesRemain".into(),
            "Some resources are remaining: configmaps. has 1 resource instances".into()
        )
    );
    assert_eq!(condition(&remaining, "NamespaceDeletionContentFailure").0, "False");
    cluster.patch("/api/v1/namespaces/n/configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    cluster.until("/api/v1/namespaces/n", Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn quota_shows_what_is_used() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: '3', requests.cpu: '2', count/configmaps: '9'}}}")
        .await;
    let quota = "/api/v1/namespaces/default/resourcequotas/q";
    let pod = |name: &str, cpu: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: one, resources: {{requests: {{cpu: {cpu}}}}}}}]}}}}"
        )
    };
    cluster.create(&pod("a", "500m")).await;
    cluster.create(&pod("b", "'1'")).await;
    let used = cluster
        .until(quota, |q| q["status"]["used"]["pods"] == "2" && q["status"]["used"]["count/configmaps"] == "1")
        .await;
    assert_eq!(used["status"]["used"]["requests.cpu"], "1500m");
    cluster.delete(&format!("{PODS}/a"), json!({})).await;
    cluster.until(quota, |q| q["status"]["used"]["requests.cpu"] == "1").await;
    cluster.patch(quota, json!({"spec": {"hard": {"requests.cpu": null}}})).await;
    cluster.until(quota, |q| q["status"]["used"] == json!({"pods": "1", "count/configmaps": "1"})).await;
}

#[tokio::test(start_paused = true)]
async fn budget_lets_evictions_through_one_at_a_time() {
    let cluster = Cluster::start(2).await;
    cluster.create("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: 2, selector: {matchLabels: {app: set}}}}").await;
    cluster.create(&set(3)).await;
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    let open = cluster.until(budget, |b| b["status"]["disruptionsAllowed"] == 1).await;
    let status = &open["status"];
    assert_eq!(
        (&status["currentHealthy"], &status["desiredHealthy"], &status["expectedPods"]),
        (&3.into(), &2.into(), &3.into())
    );
    let pods = cluster.pods("set").await;
    let evict = |pod: &Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name(pod), "namespace": "default"}});
    cluster.post(&format!("{PODS}/{}/eviction", name(&pods[0])), evict(&pods[0])).await;
    let refused = cluster.try_post(&format!("{PODS}/{}/eviction", name(&pods[1])), evict(&pods[1])).await.unwrap_err();
    assert_eq!(refused.code, 429);
    assert!(
        refused.message.starts_with("Cannot evict pod as it would violate the pod's disruption budget."),
        "{}",
        refused.message
    );
    cluster.until(budget, |b| b["status"]["disruptionsAllowed"] == 1 && b["status"]["disruptedPods"].is_null()).await;
    cluster.post(&format!("{PODS}/{}/eviction", name(&pods[1])), evict(&pods[1])).await;
}

#[tokio::test(start_paused = true)]
async fn aggregated_roles_hold_the_rules_of_others() {
    let cluster = Cluster::start(0).await;
    cluster
        .create("{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: all}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {part: 'yes'}}]}}")
        .await;
    let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    for resource in ["pods", "nodes"] {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": format!("part-{resource}"), "labels": {"part": "yes"}}, "rules": [rule(resource)]});
        cluster.post(roles, role).await;
    }
    cluster.until(&format!("{roles}/all"), |r| r["rules"] == json!([rule("nodes"), rule("pods")])).await;
    cluster.delete(&format!("{roles}/part-nodes"), json!({})).await;
    cluster.until(&format!("{roles}/all"), |r| r["rules"] == json!([rule("pods")])).await;
}

#[tokio::test(start_paused = true)]
async fn quota_counts_the_objects_of_every_kind_as_they_come_and_go() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {replicationcontrollers: '2', count/replicasets.apps: '5'}}}")
        .await;
    let quota = "/api/v1/namespaces/default/resourcequotas/q";
    let used = |controllers: &'static str, sets: &'static str| {
        move |q: &Value| {
            q["status"]["used"] == json!({"replicationcontrollers": controllers, "count/replicasets.apps": sets})
        }
    };
    cluster.until(quota, used("0", "0")).await;
    let begun = apimachinery::clock::now();
    cluster.create(&set(0)).await;
    cluster
        .create("{apiVersion: v1, kind: ReplicationController, metadata: {name: c}, spec: {replicas: 0, selector: {app: c}, template: {metadata: {labels: {app: c}}, spec: {containers: [{name: c, image: one}]}}}}")
        .await;
    cluster.until(quota, used("1", "1")).await;
    cluster.delete(SET, json!({})).await;
    cluster.delete("/api/v1/namespaces/default/replicationcontrollers/c", json!({})).await;
    cluster.until(quota, used("0", "0")).await;
    let took = apimachinery::clock::now().duration_since(begun);
    assert!(took.as_secs() < 30, "it heard of them: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn budget_expects_what_the_controllers_of_its_pods_want() {
    let cluster = Cluster::start(2).await;
    let web = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, \
               strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}, \
               template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: one}]}}}}";
    cluster.create(web).await;
    cluster.create("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}}").await;
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    cluster.until(budget, |b| b["status"]["disruptionsAllowed"] == 1).await;
    // A roll-out that is stuck has a fourth pod, which nobody wants for good.
    let stuck =
        json!({"spec": {"template": {"metadata": {"labels": {"app": "web"}, "annotations": {"fake/ready": "never"}}}}});
    cluster.patch("/apis/apps/v1/namespaces/default/deployments/web", stuck).await;
    cluster.until_list(PODS, |p| p.len() == 4).await;
    sleep(Duration::from_secs(5)).await;
    let status = &cluster.get(budget).await["status"];
    let figures =
        ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"].map(|f| status[f].as_i64());
    assert_eq!(figures, [Some(3), Some(2), Some(3), Some(1)], "{status}");
    // Nobody says how many there should be of pods whose controller is gone: none may go.
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "keeper", "uid": "", "controller": true}]);
    let keeper =
        cluster.post(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keeper"}})).await;
    let mut owner = owner;
    owner[0]["uid"] = keeper["metadata"]["uid"].clone();
    let strange = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "strange", "labels": {"app": "web"}, "ownerReferences": owner},
        "spec": {"containers": [{"name": "c", "image": "one"}]}});
    cluster.post(PODS, strange).await;
    let failed = cluster.until(budget, |b| condition(b, "DisruptionAllowed").1 == "SyncFailed").await;
    assert_eq!(failed["status"]["disruptionsAllowed"], 0);
}

#[tokio::test(start_paused = true)]
async fn namespace_stays_while_somebody_else_holds_it() {
    let cluster = Cluster::start(0).await;
    let path = "/api/v1/namespaces/n";
    cluster
        .create("{apiVersion: v1, kind: Namespace, metadata: {name: 'n'}, spec: {finalizers: [kubernetes, example.com/other]}}")
        .await;
    cluster.delete(path, json!({})).await;
    let held = cluster.until(path, |n| n["spec"]["finalizers"] == json!(["example.com/other"])).await;
    assert_eq!(held["status"]["phase"], "Terminating");
    sleep(Duration::from_secs(60)).await;
    assert!(!cluster.get(path).await.is_null());
}

#[tokio::test(start_paused = true)]
async fn what_a_cluster_does_not_live_without_comes_back() {
    let cluster = Cluster::start(1).await;
    let service = "/api/v1/namespaces/default/services/kubernetes";
    let address = cluster.get(service).await["spec"]["clusterIP"].clone();
    for path in [
        service,
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps",
        // Nodes renew their leases in it: they would all be lost.
        "/api/v1/namespaces/kube-node-lease",
    ] {
        let uid = cluster.get(path).await["metadata"]["uid"].clone();
        assert!(uid.is_string(), "{path}");
        let begun = Instant::now();
        cluster.delete(path, json!({})).await;
        cluster.until(path, |o| o["metadata"]["uid"].is_string() && o["metadata"]["uid"] != uid).await;
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{path}: its deletion is noticed, and not found out by a timer"
        );
    }
    assert_eq!(cluster.get(service).await["spec"]["clusterIP"], address);
    // Who the API is can't be changed for long.
    cluster.patch("/api/v1/namespaces/default/endpoints/kubernetes", json!({"subsets": null})).await;
    cluster.until("/api/v1/namespaces/default/endpoints/kubernetes", |e| e["subsets"].is_array()).await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_says_when_it_has_no_pods_and_of_which_version_it_speaks() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: 1, selector: {matchLabels: {app: set}}}}")
        .await;
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    let short = cluster.until(budget, |b| condition(b, "DisruptionAllowed").1 == "InsufficientPods").await;
    let told = cluster.events("b").await;
    assert!(told.contains(&"PodDisruptionBudget/b Normal NoPods: No matching pods found".into()), "{told:#?}");
    let since = short["status"]["conditions"][0]["lastTransitionTime"].clone();
    sleep(Duration::from_secs(5)).await;
    let changed = cluster.patch(budget, json!({"spec": {"minAvailable": 2}})).await;
    let generation = changed["metadata"]["generation"].clone();
    let seen = cluster.until(budget, |b| b["status"]["observedGeneration"] == generation).await;
    let condition = &seen["status"]["conditions"][0];
    assert_eq!((&condition["observedGeneration"], &condition["lastTransitionTime"]), (&generation, &since), "{seen}");
}
