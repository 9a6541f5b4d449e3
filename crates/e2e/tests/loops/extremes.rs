//! The most extreme numbers, amounts and times in every field of every kind that holds one: the API says yes or no, and what it lets in neither
//! ends nor holds up a loop. (What the node does with them: `extremes` in the kubelet's own tests.)

use std::time::Duration;

use api::extremes::{NumericField, numeric_fields};
use api::{KINDS, Kind, OLDER, Verbs};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, collection};

/// One of each kind that is more than a name, so full that most fields can be set in it.
const SAMPLES: &str = include_str!("extremes/samples.yaml");

fn samples() -> Vec<Value> {
    SAMPLES.split("\n---\n").map(|text| apimachinery::yaml::from_str(text).unwrap()).collect()
}

fn sample(kind: &Kind) -> Value {
    let is_it = |object: &Value| object["apiVersion"] == kind.api_version() && object["kind"] == kind.kind;
    let bare = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x"}});
    samples().into_iter().find(is_it).unwrap_or(bare)
}

/// Fields in templates of pods are those of pods, which have had all of them.
fn values(field: &NumericField, number: usize) -> Vec<Value> {
    let all = field.extremes();
    if !field.is_in_template() {
        return all;
    }
    vec![all[number % all.len()].clone()]
}

fn collection_of(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "/api/v1".into() } else { format!("/apis/{}/{}", kind.group, kind.version) };
    let scope = if kind.namespaced { "/namespaces/default" } else { "" };
    format!("{root}{scope}/{}", kind.plural())
}

#[tokio::test(start_paused = true)]
async fn the_api_judges_extremes_in_every_field_of_every_kind() {
    let cluster = Cluster::without_loops().await;
    let mut counts = (0, 0);
    for kind in KINDS.iter().chain(OLDER).filter(|kind| kind.verbs != Verbs::Read) {
        let sample = sample(kind);
        let path = format!("{}?dryRun=All", collection_of(kind));
        for (number, field) in numeric_fields(kind).into_iter().filter(|field| !field.is_status()).enumerate() {
            for value in values(&field, number) {
                let mut object = sample.clone();
                field.set(&mut object, &value);
                counts.0 += 1;
                match cluster.try_post(&path, object).await {
                    Ok(_) => counts.1 += 1,
                    Err(status) => assert!(status.code < 500, "{} {field}={value}: {status:?}", kind.kind),
                }
            }
        }
    }
    assert!(counts.0 > 3000 && counts.1 > 300, "{counts:?}");
}

/// What panicked in all loops of this process.
fn panics() -> Vec<String> {
    let families = prometheus::gather();
    let of = families.iter().filter(|family| family.name() == "timonel_reconcile_panics_total");
    of.flat_map(|family| family.get_metric()).map(|metric| format!("{metric:?}")).collect()
}

#[tokio::test(start_paused = true)]
async fn loops_bear_what_the_api_lets_in() {
    let cluster = Cluster::start(3).await;
    for name in ["wild", "calm"] {
        cluster
            .post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await;
    }
    // Two billion replicas are wanted, and never made.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "10", "count/replicasets.apps": "60", "count/jobs.batch": "60"}}});
    cluster.post("/api/v1/namespaces/wild/resourcequotas", quota).await;
    let mut made = 0;
    for sample in samples() {
        let (group, version) = sample["apiVersion"]
            .as_str()
            .unwrap()
            .rsplit_once('/')
            .unwrap_or(("", sample["apiVersion"].as_str().unwrap()));
        let kind = KINDS.iter().find(|k| k.group == group && k.version == version && sample["kind"] == k.kind).unwrap();
        for (number, field) in numeric_fields(kind).into_iter().enumerate() {
            // Each field has one of them, and over all fields each has its turn.
            let extremes = field.extremes();
            let value = &extremes[number % extremes.len()];
            let mut object = sample.clone();
            object["metadata"]["name"] = format!("x{made}").into();
            if kind.namespaced {
                object["metadata"]["namespace"] = "wild".into();
            }
            field.set(&mut object, value);
            let path = collection(&object);
            if cluster.try_post(&path, object.clone()).await.is_ok() {
                made += 1;
                if field.is_status() {
                    let _ = cluster
                        .try_patch(&format!("{path}/x{}/status", made - 1), &json!({"status": object["status"]}))
                        .await;
                }
            }
        }
    }
    assert!(made > 200, "{made}");
    sleep(Duration::from_secs(15 * 60)).await;
    // Others are served.
    let calm = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: calm, namespace: calm}, spec: {replicas: 2, \
        selector: {matchLabels: {app: calm}}, template: {metadata: {labels: {app: calm}}, spec: {containers: [{name: c, image: i}]}}}}";
    cluster.create(calm).await;
    cluster.until("/apis/apps/v1/namespaces/calm/deployments/calm", |d| d["status"]["availableReplicas"] == 2).await;
    // All of it can be deleted.
    cluster.delete("/api/v1/namespaces/wild", json!({})).await;
    cluster.until("/api/v1/namespaces/wild", Value::is_null).await;
    assert_eq!(panics(), [""; 0]);
}
