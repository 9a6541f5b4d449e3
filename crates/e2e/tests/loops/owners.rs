//! The rules of owner references, seen through the API. What the collector does with all kinds of graphs is tested beside it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, name};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn owner(of: &Value, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name(of), "uid": of["metadata"]["uid"], "blockOwnerDeletion": blocks})
}

fn object(kind: &str, name: &str, owners: Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_spares_shared_dependents_and_waits_for_those_that_block_it() {
    let cluster = Cluster::start(0).await;
    let a = cluster.post(MAPS, object("ConfigMap", "a", json!([]))).await;
    let b = cluster.post(MAPS, object("ConfigMap", "b", json!([]))).await;
    cluster.post(SECRETS, object("Secret", "shared", json!([owner(&a, true), owner(&b, true)]))).await;
    let mut held = object("Secret", "held", json!([owner(&a, false)]));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(SECRETS, held).await;
    cluster.delete(&format!("{MAPS}/a"), json!({"propagationPolicy": "Foreground"})).await;
    cluster.until(&format!("{MAPS}/a"), Value::is_null).await;
    let shared = cluster.get(&format!("{SECRETS}/shared")).await;
    assert_eq!(shared["metadata"]["ownerReferences"], json!([owner(&b, true)]));
    assert!(shared["metadata"]["deletionTimestamp"].is_null());
    cluster.until(&format!("{SECRETS}/held"), |s| s["metadata"]["deletionTimestamp"].is_string()).await;
}

#[tokio::test(start_paused = true)]
async fn what_has_an_owner_that_cannot_be_judged_stays() {
    let cluster = Cluster::start(0).await;
    let site = cluster.post(MAPS, object("ConfigMap", "site", json!([]))).await;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [],
        "metadata": {"name": "cluster-wide", "ownerReferences": [owner(&site, true)]}});
    cluster.post(ROLES, role).await;
    let ghost = json!({"apiVersion": "neo.example.com/v1", "kind": "Application", "name": "shop", "uid": "1"});
    cluster.post(SECRETS, object("Secret", "of-unknown", json!([ghost]))).await;
    let gone = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "2"});
    cluster.post(SECRETS, object("Secret", "of-nobody", json!([gone]))).await;
    cluster.until(&format!("{SECRETS}/of-nobody"), Value::is_null).await;
    cluster.delete(&format!("{MAPS}/site"), json!({"propagationPolicy": "Foreground"})).await;
    cluster.until(&format!("{MAPS}/site"), Value::is_null).await;
    sleep(Duration::from_secs(600)).await;
    assert!(!cluster.get(&format!("{ROLES}/cluster-wide")).await.is_null());
    assert!(!cluster.get(&format!("{SECRETS}/of-unknown")).await.is_null());
    let told = cluster.events("cluster-wide").await;
    assert!(
        told.iter().any(|t| t.contains("OwnerRefInvalidNamespace: ownerRef [v1/ConfigMap, namespace: , name: site")),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_circle_of_owners_ends_and_so_does_its_namespace() {
    let cluster = Cluster::start(0).await;
    cluster.create("{apiVersion: v1, kind: Namespace, metadata: {name: 'n'}}").await;
    let maps = "/api/v1/namespaces/n/configmaps";
    let mut circle = Vec::new();
    for name in ["one", "two", "three"] {
        circle.push(cluster.post(maps, object("ConfigMap", name, json!([]))).await);
    }
    for (i, of) in circle.iter().enumerate() {
        let by = owner(&circle[(i + 2) % 3], true);
        cluster.patch(&format!("{maps}/{}", name(of)), json!({"metadata": {"ownerReferences": [by]}})).await;
    }
    cluster.delete(&format!("{maps}/one"), json!({"propagationPolicy": "Foreground"})).await;
    for of in &circle {
        cluster.until(&format!("{maps}/{}", name(of)), Value::is_null).await;
    }
    cluster.delete("/api/v1/namespaces/n", json!({})).await;
    cluster.until("/api/v1/namespaces/n", Value::is_null).await;
}
