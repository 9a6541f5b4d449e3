//! When tokens of Secrets were last used, and since when that is written down (upstream's `legacytokentracking`, KEP-2799).

use std::sync::{Arc, Weak};
use std::time::Duration;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::json;

use crate::ApiServer;
use crate::authentication::used_tokens::{LAST_USED, today};
use crate::pipeline::WriteRequest;
use crate::registry::object_key;

const NAMESPACE: &str = "kube-system";
/// Says since when the use of tokens is written down: of what was before nobody knows.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How often it is looked whether the server still lives.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Marks the Secrets whose tokens are used, for as long as the server lives.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        let Some(alive) = server.upgrade() else { return };
        if let Err(error) = begin(&alive).await {
            tracing::warn!(%error, "failed to write since when the use of tokens of Secrets is tracked");
        }
        for (namespace, name) in alive.tokens.used.take() {
            if let Err(error) = mark(&alive, &namespace, &name).await {
                tracing::debug!(%error, namespace, name, "failed to mark a Secret whose token was used");
            }
        }
        let used = alive.tokens.used.clone();
        drop(alive);
        let _ = tokio::time::timeout(LOOK_AGAIN, used.some()).await;
    }
}

/// Says from when on it is known which tokens are used.
///
/// # Errors
/// The ConfigMap can't be created, other than because it is there.
pub async fn begin(server: &Arc<ApiServer>) -> Result<(), Status> {
    if server.cache.of(kinds::CONFIG_MAPS).get(&object_key(NAMESPACE, TRACKING)).is_some() {
        return Ok(());
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": NAMESPACE},
        "data": {"since": today()}});
    match WriteRequest::by_server(server, kinds::CONFIG_MAPS, NAMESPACE, TRACKING).create(map).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

async fn mark(server: &Arc<ApiServer>, namespace: &str, name: &str) -> Result<(), Status> {
    let write = WriteRequest::by_server(server, kinds::SECRETS, namespace, name);
    let marked = write.update(|current| {
        let mut new = current.clone();
        new.meta_mut().entry("labels").or_insert_with(|| json!({}))[LAST_USED] = today().into();
        Ok(new)
    });
    marked.await.map(|_| ())
}
