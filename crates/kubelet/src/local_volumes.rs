//! The node's side of the `local-path` provisioner: the folders of volumes that were deleted are removed where they are.

use std::path::PathBuf;
use std::sync::Arc;

use informer::{Change, Queue};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::Agent;

/// Holds a volume until its node has removed the folder.
pub const FINALIZER: &str = "timonel.io/local-path";

pub async fn run(agent: Arc<Agent>) {
    let volumes = agent.informers.of::<PersistentVolume>();
    let queue = Queue::default();
    let add = queue.clone();
    volumes.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && new.metadata.deletion_timestamp.is_some()
        {
            add.add(informer::Keyed::key(new.as_ref()));
        }
    });
    queue.work("local-volumes", 1, move |key| {
        let (agent, volumes) = (agent.clone(), volumes.clone());
        async move {
            let Some(volume) = volumes.get(&key) else { return Ok(None) };
            remove(&agent, &volume).await.map(|()| None)
        }
    });
}

async fn remove(agent: &Agent, volume: &PersistentVolume) -> Result<(), String> {
    let on_this_node = volume.annotations().get("timonel.io/node") == Some(&agent.config.node_name);
    let held = volume.finalizers().iter().any(|f| f == FINALIZER);
    // Others may hold it still, as long as a claim uses it.
    let last = volume.finalizers().len() == 1;
    let path = volume.spec.as_ref().and_then(|s| s.local.as_ref()).map(|l| PathBuf::from(&l.path));
    let Some(path) = path.filter(|p| on_this_node && held && last && p.starts_with(agent.config.storage_dir())) else {
        return Ok(());
    };
    let removed =
        tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&path)).await.map_err(|e| e.to_string())?;
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    let api: Api<PersistentVolume> = Api::all(agent.client.clone());
    let patch = json!({"metadata": {"finalizers": []}});
    match api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code != 404 => Err(status.to_string()),
        Err(kube::Error::Api(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
