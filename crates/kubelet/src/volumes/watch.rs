//! ConfigMaps and Secrets that pods' volumes show are watched, each once: what changes there is in the volumes at once, as upstream's kubelet
//! does it (`configMapAndSecretChangeDetectionStrategy: Watch`). That a volume is looked at again every minute only repairs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use informer::{Metadata, Selection};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Client, Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How often volumes are brought up to date, however often what they show changes.
const UPDATE_PERIOD: Duration = Duration::from_secs(1);

/// How many objects of a pod are watched, and how many of all pods. Who makes pods decides how many they show, and each is a stream of the node's
/// one connection, which has a bound. What isn't watched is still looked at every minute.
const MAX_SOURCES_PER_POD: usize = 100;
const MAX_SOURCES: usize = 5000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SourceKind {
    ConfigMap,
    Secret,
}

/// An object by namespace and name.
type Source = (SourceKind, String, String);

/// The pods whose volumes show an object that changed, by uid, are handed to this.
type OnChange = Box<dyn Fn(BTreeSet<String>) + Send + Sync>;

/// The watches of this node, each with the pods that it is for.
pub struct SourceWatches {
    client: Client,
    on_change: OnChange,
    sources: Mutex<BTreeMap<Source, Follower>>,
}

struct Follower {
    watch: AbortHandle,
    /// The pods that show it, by uid.
    pods: BTreeSet<String>,
}

/// The objects that a pod's volumes show.
fn sources(pod: &Pod) -> BTreeSet<Source> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let projected = || volumes().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    let maps = volumes().filter_map(|v| v.config_map.as_ref()).map(|map| map.name.clone());
    let maps = maps.chain(projected().filter_map(|p| p.config_map.as_ref()).map(|map| map.name.clone()));
    let secrets = volumes().filter_map(|v| v.secret.as_ref()?.secret_name.clone());
    let secrets = secrets.chain(projected().filter_map(|p| p.secret.as_ref()).map(|secret| secret.name.clone()));
    let all = maps.map(|name| (SourceKind::ConfigMap, name)).chain(secrets.map(|name| (SourceKind::Secret, name)));
    all.filter(|(_, name)| !name.is_empty()).map(|(what, name)| (what, namespace.clone(), name)).collect()
}

impl SourceWatches {
    /// Without watches at first. `on_change` gets the pods whose volumes are out of date.
    pub fn new(client: Client, on_change: impl Fn(BTreeSet<String>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(SourceWatches { client, on_change: Box::new(on_change), sources: Mutex::default() })
    }

    /// Watches what a pod's volumes show, until [`SourceWatches::remove`].
    pub fn add(self: &Arc<Self>, uid: &str, pod: &Pod) {
        let watch = |source: &Source| {
            let (watches, source) = (Arc::downgrade(self), source.clone());
            tasks::until_done("volume-watch", move || follow(watches.clone(), source.clone())).abort_handle()
        };
        self.insert(uid, sources(pod), watch);
    }

    /// Adds a pod to those that show these; `watch` begins to watch what wasn't watched.
    fn insert(&self, uid: &str, wanted: BTreeSet<Source>, watch: impl Fn(&Source) -> AbortHandle) {
        let mut present = self.sources.lock();
        for source in wanted.into_iter().take(MAX_SOURCES_PER_POD) {
            if present.len() >= MAX_SOURCES && !present.contains_key(&source) {
                continue;
            }
            let begin = || Follower { watch: watch(&source), pods: BTreeSet::new() };
            present.entry(source.clone()).or_insert_with(begin).pods.insert(uid.into());
        }
    }

    /// The pod is gone; what no pod shows any more isn't watched.
    pub fn remove(&self, uid: &str) {
        self.sources.lock().retain(|_, follower| {
            let showed = follower.pods.remove(uid);
            let is_over = showed && follower.pods.is_empty();
            if is_over {
                follower.watch.abort();
            }
            !is_over
        });
    }

    fn pods(&self, source: &Source) -> BTreeSet<String> {
        self.sources.lock().get(source).map(|follower| follower.pods.clone()).unwrap_or_default()
    }
}

/// Watches one object, and nothing of it but that it changes.
async fn follow(watches: Weak<SourceWatches>, source: Source) {
    let Some(client) = watches.upgrade().map(|watches| watches.client.clone()) else { return };
    let (kind, namespace, name) = &source;
    let path = match kind {
        SourceKind::ConfigMap => ConfigMap::url_path(&(), Some(namespace)),
        SourceKind::Secret => Secret::url_path(&(), Some(namespace)),
    };
    let changed = Arc::new(Notify::new());
    let (news, mut seen) = (changed.clone(), Seen::default());
    let watching =
        informer::follow_object::<Metadata>(client, Selection::named(path, name).metadata_only(), move |object| {
            if seen.take(object.and_then(|object| object.metadata.resource_version)) {
                news.notify_one();
            }
        });
    let reporting = async {
        loop {
            changed.notified().await;
            let Some(watches) = watches.upgrade() else { return };
            (watches.on_change)(watches.pods(&source));
            drop(watches);
            tokio::time::sleep(UPDATE_PERIOD).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = reporting => {}
    }
}

/// The version of an object that was seen last; none if it isn't there. The volumes were made of the first one, or of what came after it.
#[derive(Default)]
struct Seen(Option<Option<String>>);

impl Seen {
    /// Whether a version is another one than that before.
    fn take(&mut self, version: Option<String>) -> bool {
        let before = self.0.replace(version);
        before.is_some_and(|before| Some(&before) != self.0.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn watches_of_nobody() -> Arc<SourceWatches> {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        SourceWatches::new(Client::try_from(config).unwrap(), |_| ())
    }

    #[tokio::test]
    async fn what_volumes_show_is_watched_once_and_as_long_as_somebody_shows_it() {
        let pod = |volumes: serde_json::Value| -> Pod {
            let pod =
                json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": volumes}});
            serde_json::from_value(pod).unwrap()
        };
        let first = pod(json!([
            {"name": "a", "configMap": {"name": "map"}}, {"name": "b", "secret": {"secretName": "secret"}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "root"}}, {"secret": {"name": "key"}},
                {"serviceAccountToken": {"path": "token"}}]}}, {"name": "d", "emptyDir": {}}]));
        let of = |what, name: &str| (what, "n".to_string(), name.to_string());
        let wanted = [
            of(SourceKind::ConfigMap, "map"),
            of(SourceKind::ConfigMap, "root"),
            of(SourceKind::Secret, "key"),
            of(SourceKind::Secret, "secret"),
        ];
        assert_eq!(sources(&first).into_iter().collect::<Vec<_>>(), wanted);
        let second =
            pod(json!([{"name": "a", "configMap": {"name": "map"}}, {"name": "b", "configMap": {"name": "map"}}]));
        let (followed, watches) = (watches_of_nobody(), Mutex::new(Vec::new()));
        let watch = |source: &Source| {
            let task = tokio::spawn(std::future::pending::<()>());
            watches.lock().push((source.clone(), task.abort_handle()));
            task.abort_handle()
        };
        followed.insert("1", sources(&first), watch);
        followed.insert("2", sources(&second), watch);
        followed.insert("2", sources(&second), watch);
        assert_eq!(watches.lock().len(), 4);
        assert_eq!(followed.pods(&wanted[0]), BTreeSet::from(["1".to_string(), "2".to_string()]));
        followed.remove("1");
        assert_eq!(followed.pods(&wanted[0]), BTreeSet::from(["2".to_string()]));
        assert_eq!(followed.sources.lock().len(), 1);
        followed.remove("2");
        followed.remove("2");
        tokio::task::yield_now().await;
        assert!(followed.sources.lock().is_empty() && watches.lock().iter().all(|(_, watch)| watch.is_finished()));
    }

    #[tokio::test]
    async fn a_pod_does_not_have_any_number_of_objects_watched() {
        let watches = watches_of_nobody();
        let watch = |_: &Source| tokio::spawn(std::future::pending::<()>()).abort_handle();
        let many = |of: usize| {
            (0..2 * MAX_SOURCES_PER_POD).map(|n| (SourceKind::Secret, format!("n{of}"), format!("s{n:04}"))).collect()
        };
        let count = || watches.sources.lock().len();
        watches.insert("0", many(0), watch);
        assert_eq!(count(), MAX_SOURCES_PER_POD);
        (1..=2 * MAX_SOURCES / MAX_SOURCES_PER_POD).for_each(|pod| watches.insert(&pod.to_string(), many(pod), watch));
        assert_eq!(count(), MAX_SOURCES);
        // What is watched already is for everybody; and who goes makes room.
        watches.insert("late", many(0), watch);
        assert!(watches.pods(&(SourceKind::Secret, "n0".into(), "s0000".into())).contains("late"));
        watches.remove("1");
        watches.insert("later", many(MAX_SOURCES), watch);
        assert_eq!(count(), MAX_SOURCES);
        assert!(!watches.pods(&(SourceKind::Secret, format!("n{MAX_SOURCES}"), "s0000".into())).is_empty());
    }

    #[test]
    fn another_version_is_a_change_and_the_first_one_is_not() {
        let mut seen = Seen::default();
        let mut is_news = |version: Option<&str>| seen.take(version.map(Into::into));
        assert!(!is_news(Some("1")));
        assert!(is_news(Some("2")));
        // The watch was begun anew.
        assert!(!is_news(Some("2")));
        assert!(is_news(Some("3")));
        assert!(is_news(None));
        assert!(!is_news(None));
        assert!(is_news(Some("5")));
    }
}
