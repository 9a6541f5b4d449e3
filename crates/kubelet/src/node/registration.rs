//! Registration of the node with the API.

use std::pin::pin;

use futures::TryStreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::config::Config;

/// The annotation with the folder of `local-path` volumes.
const STORAGE_PATH: &str = "timonel.io/storage-path";

fn labels(config: &Config) -> Value {
    let mut labels = json!({
        "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": config.node_name,
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
    });
    if config.is_server {
        labels["node-role.kubernetes.io/control-plane"] = "true".into();
    }
    for (key, value) in &config.labels {
        labels[key] = value.as_str().into();
    }
    labels
}

/// `status.addresses`.
pub fn addresses(config: &Config) -> Vec<Value> {
    let internal = config.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    internal.chain([json!({"type": "Hostname", "address": config.node_name})]).collect()
}

/// The node's ranges of pod addresses, once the control plane has allocated them.
fn ranges(node: &Node) -> Option<Vec<IpNet>> {
    node.spec.as_ref()?.pod_cidrs.as_ref()?.iter().map(|range| range.parse().ok()).collect()
}

/// Creates or updates the Node, and waits for its ranges of pod addresses (`podCIDRs`).
///
/// # Errors
/// When the API refuses the node.
pub async fn register(config: &Config, client: &Client) -> Result<Vec<IpNet>, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let taints: Vec<Value> = config
        .taints
        .iter()
        .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
        .collect();
    let node = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels(config),
                     "annotations": {STORAGE_PATH: config.storage_dir().display().to_string()}},
        "spec": {"taints": taints}});
    let object: Node = serde_json::from_value(node.clone()).map_err(kube::Error::SerdeError)?;
    match nodes.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = json!({"metadata": node["metadata"]});
            nodes.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Err(error) => return Err(error),
    }
    // Before the rest of the status: a serving certificate is signed for these addresses alone.
    let addresses = Patch::Merge(json!({"status": {"addresses": addresses(config)}}));
    nodes.patch_status(&config.node_name, &PatchParams::default(), &addresses).await?;
    await_ranges(&nodes, &config.node_name).await
}

async fn await_ranges(nodes: &Api<Node>, name: &str) -> Result<Vec<IpNet>, kube::Error> {
    let field = format!("metadata.name={name}");
    loop {
        let present = nodes.get(name).await?;
        if let Some(ranges) = ranges(&present) {
            return Ok(ranges);
        }
        let version = present.metadata.resource_version.unwrap_or_default();
        let watch = WatchParams::default().fields(&field).timeout(30);
        let mut events = pin!(nodes.watch(&watch, &version).await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Modified(node) = event
                && let Some(ranges) = ranges(&node)
            {
                return Ok(ranges);
            }
        }
    }
}
