//! Writes to objects that others write at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use store::{Most, Observer, Page, ReadError, Store, Write, WriteError};

use crate::server::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A store in which, for so many writes, another one is faster.
#[derive(Default)]
struct Contended {
    inner: store::MemoryStore,
    conflicts: AtomicUsize,
    tries: AtomicUsize,
}

#[async_trait::async_trait]
impl Store for Contended {
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError> {
        self.inner.attach(observer).await
    }

    async fn write(&self, write: Write) -> Result<u64, WriteError> {
        let (Write::Update { key, expected, .. } | Write::Delete { key, expected }) = &write else {
            return self.inner.write(write).await;
        };
        let is_ours =
            ["/configmaps/default/", "/pods/default/", "/poddisruptionbudgets"].iter().any(|k| key.contains(k));
        let fewer = |left: usize| left.checked_sub(1);
        self.tries.fetch_add(usize::from(is_ours), Ordering::Relaxed);
        if is_ours && self.conflicts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            return Err(WriteError::Conflict { actual: expected + 1 });
        }
        self.inner.write(write).await
    }

    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError> {
        self.inner.page_at(prefix, revision, after, most).await
    }

    async fn compact(&self, revision: u64) -> Result<(), WriteError> {
        self.inner.compact(revision).await
    }
}

#[tokio::test]
async fn a_write_that_others_are_faster_than_is_tried_again_and_not_for_ever() {
    let store = Arc::new(Contended::default());
    let server = Server::start_on(store.clone()).await;
    server.create_account().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    server.create(MAPS, map).await;
    server.create(PODS, pod).await;
    server.create(budgets, budget).await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(server.json("PATCH", &format!("{PODS}/p/status"), &running).await.0, 200);
    let allows = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(server.json("PATCH", &format!("{budgets}/b/status"), &allows).await.0, 200);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (labels, map, evict) =
        (json!({"metadata": {"labels": {"x": "y"}}}), format!("{MAPS}/m"), format!("{PODS}/p/eviction"));
    for (method, path, body, code) in [
        ("PATCH", map.as_str(), &labels, 409),
        ("DELETE", map.as_str(), &json!({}), 409),
        ("POST", evict.as_str(), &eviction, 504),
    ] {
        store.conflicts.store(usize::MAX, Ordering::Relaxed);
        let before = store.tries.load(Ordering::Relaxed);
        let (got, answer) = server.json(method, path, body).await;
        assert_eq!(got, code, "{method} {path}: {answer}");
        assert_eq!(store.tries.load(Ordering::Relaxed) - before, 21, "{method} {path}");
        // A few conflicts don't reach the client.
        store.conflicts.store(3, Ordering::Relaxed);
        let (got, answer) = server.json(method, path, body).await;
        assert!(got.is_success(), "{method} {path}: {answer}");
    }
}
