//! The scheduler's decisions, without the API: pods per second on many nodes.

use std::sync::Arc;
use std::time::Instant;

use informer::{Keyed as _, Pod};
use k8s_openapi::api::core::v1::Node;
use scheduler::devices::PodDevices;
use scheduler::filters::PodVolumes;
use scheduler::plan::{Outcome, schedule_pod};
use scheduler::pod::PodInfo;
use scheduler::profile::Profile;
use scheduler::snapshot::Snapshot;
use serde_json::json;

use crate::Figure;

const PODS: usize = 10_000;

fn node(i: usize) -> anyhow::Result<Node> {
    let name = format!("node-{i:05}");
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": format!("z{}", i % 3)}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}}}),
    )?)
}

/// A pod of one of a hundred Deployments; some spread over zones.
fn pod(i: usize, spread: bool) -> anyhow::Result<Pod> {
    let app = format!("app-{}", i % 100);
    let mut spec =
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]});
    if spread {
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}}}]);
    }
    Ok(serde_json::from_value(
        json!({"metadata": {"name": format!("pod-{i}"), "namespace": "default", "labels": {"app": app},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true}]}, "spec": spec}),
    )?)
}

fn rate(nodes: usize, spread: bool) -> anyhow::Result<f64> {
    let mut snapshot = Snapshot::default();
    for i in 0..nodes {
        snapshot.put_node(Arc::new(node(i)?));
    }
    let pods = (0..PODS).map(|i| pod(i, spread).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    for pod in pods {
        let (key, info) = (pod.key(), Arc::new(PodInfo::read(pod)));
        match schedule_pod(
            &key,
            &info,
            &mut snapshot,
            &PodVolumes::default(),
            &mut PodDevices::default(),
            &Profile::default(),
        ) {
            Outcome::Node(node) => snapshot.assume(key, info, &node),
            Outcome::Unschedulable(why) => anyhow::bail!("{}", why.message()),
            Outcome::Failed(why) => anyhow::bail!("{why}"),
        }
    }
    Ok(PODS as f64 / begun.elapsed().as_secs_f64())
}

pub fn measure() -> anyhow::Result<Vec<Figure>> {
    let figure = |what, value| Figure { what, value, unit: "pods/s", promise: Some(5000.0), less: false };
    Ok(vec![
        figure("scheduler's decisions, 1,000 nodes", rate(1000, false)?),
        figure("scheduler's decisions, 5,000 nodes", rate(5000, false)?),
        figure("the same with topology spread, 1,000 nodes", rate(1000, true)?),
    ])
}
