//! kube-rs: a controller with streaming lists, as its documentation writes one.

use std::sync::Arc;
use std::time::Duration;

use apiserver::User;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::server::Server;

async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.as_ref().clone(), "default");
    let size = map.data.as_ref().map_or(0, std::collections::BTreeMap::len).to_string();
    let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"annotations": {"size": size}}});
    maps.patch(&map.name_any(), &PatchParams::apply("counter"), &Patch::Apply(patch)).await?;
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_controller_with_streaming_lists_converges() {
    let server = Server::start().await;
    let user = User::new("admin", &["system:masters", "system:authenticated"]);
    let client = Client::new(server.api.in_process(user), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map = |name: &str, keys: &[&str]| ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(keys.iter().map(|k| ((*k).to_string(), String::new())).collect()),
        ..ConfigMap::default()
    };
    // One is there before the controller, one comes later, and one changes.
    maps.create(&PostParams::default(), &map("before", &["a"])).await.unwrap();
    let controller = Controller::new(maps.clone(), watcher::Config::default().streaming_lists());
    let running = controller.run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(client));
    let running = tokio::spawn(running.for_each(|_| async {}));
    maps.create(&PostParams::default(), &map("after", &["a", "b"])).await.unwrap();
    let size = |name: &'static str| {
        let maps = maps.clone();
        async move { maps.get(name).await.unwrap().annotations().get("size").cloned() }
    };
    while size("before").await.as_deref() != Some("1") || size("after").await.as_deref() != Some("2") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let patch = json!({"data": {"c": ""}});
    maps.patch("after", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    while size("after").await.as_deref() != Some("3") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
}
