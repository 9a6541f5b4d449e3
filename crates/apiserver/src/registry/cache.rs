//! The watch cache: all resources.
//!
//! The store calls [`Cache`] as its observer, in revision order. Readers take a short read lock and clone `Arc`s.
//! A watcher has a bounded queue; one that doesn't keep up is cut off and comes back with a new watch, as the API allows,
//! rather than making others wait.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use apimachinery::Status;
use parking_lot::RwLock;
use serde_json::Value;
use store::{Change, KeyValue, Observer};
use tokio::sync::watch;
use tokio::time::Instant;

use api::{KINDS, Kind, Verbs, kinds};

use super::history::FRESH;
use super::resource::State;
use super::{Catalog, Entry, Resource, encode, is_definition};

/// All resources.
pub struct Cache {
    /// Built-in ones, by `plural` or `plural.group`, as keys of the store name them.
    built_in: HashMap<String, Arc<Resource>>,
    /// The same by the address of the kind, which is a constant.
    by_kind: HashMap<usize, Arc<Resource>>,
    /// Those of custom resource definitions.
    custom: RwLock<HashMap<String, Arc<Resource>>>,
    catalog: Arc<Catalog>,
    revision: watch::Sender<u64>,
}

/// The key of a built-in kind: its constant has one address.
fn address(kind: &Kind) -> usize {
    std::ptr::from_ref(kind).addr()
}

/// The key of an object in the store.
pub fn store_key(kind: &Kind, key: &str) -> String {
    format!("/registry/{}/{key}", kind.kept_resource())
}

/// The key of an object in its resource.
pub fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}") }
}

impl Cache {
    /// An empty cache; what the catalog learns of definitions it learns from here.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        let kept: Vec<Arc<Resource>> =
            KINDS.iter().filter(|k| k.verbs == Verbs::All).map(|kind| Arc::new(Resource::new(kind))).collect();
        let built_in = kept.iter().map(|r| (r.kind.resource(), r.clone())).collect();
        let by_kind = kept.into_iter().map(|r| (address(r.kind), r)).collect();
        Cache { built_in, by_kind, custom: RwLock::default(), catalog, revision: watch::channel(0).0 }
    }

    /// The resource of a stored kind.
    pub fn resource(&self, kind: &Kind) -> Option<Arc<Resource>> {
        let kept = kind.kept();
        if kept.custom { self.find(&kept.resource()) } else { self.by_kind.get(&address(kept)).cloned() }
    }

    /// The resource of a kind that a request names.
    ///
    /// # Errors
    /// 405 for kinds whose objects aren't stored, such as reviews.
    pub fn stored(&self, kind: &Kind) -> Result<Arc<Resource>, Status> {
        self.resource(kind).ok_or_else(Status::method_not_allowed)
    }

    /// The resource with this name, if it is there now.
    pub fn find(&self, name: &str) -> Option<Arc<Resource>> {
        self.built_in.get(name).cloned().or_else(|| self.custom.read().get(name).cloned())
    }

    /// Follows a change of a custom resource definition.
    fn apply_definition(&self, name: &str, object: Option<&Value>) {
        match object {
            Some(object) => {
                if let Some((kind, lacks_defaults)) = self.catalog.put(object) {
                    let new = || Resource::new(kind);
                    let resource = self.custom.write().entry(name.into()).or_insert_with(|| Arc::new(new())).clone();
                    if lacks_defaults {
                        self.apply_new_defaults(&resource);
                    }
                }
            }
            None => {
                self.catalog.remove(name);
                // Ends its watches, too.
                self.custom.write().remove(name);
            }
        }
    }

    /// Gives kept objects of a custom kind the defaults that came into its schema after they were written, so that clients that
    /// read them see these. In the store they stay as they are, as upstream leaves them in etcd.
    fn apply_new_defaults(&self, resource: &Resource) {
        let Some(definition) = self.catalog.definition(resource.kind) else { return };
        let version = definition.storage();
        let mut state = resource.state.write();
        let State { items, bytes, .. } = &mut *state;
        for entry in items.values_mut() {
            let object = entry.parse();
            // Until it is written again, an object may have been kept in another version.
            if object["apiVersion"] != version.kind.api_version() {
                continue;
            }
            let mut filled = object.clone();
            version.apply_defaults(&mut filled);
            if filled != object {
                let old = entry.bytes.len();
                *entry = entry.with_content(&encode(&filled));
                *bytes = bytes.saturating_sub(old).saturating_add(entry.bytes.len());
            }
        }
        drop(state);
        resource.drop_list();
    }

    /// The resource of a built-in kind (`kinds::PODS`). Panics for one whose objects aren't kept, as callers name it literally.
    pub fn of(&self, kind: &'static Kind) -> &Arc<Resource> {
        &self.by_kind[&address(kind)]
    }

    /// The revision up to which the cache is.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until the cache has seen `revision`.
    pub async fn wait_for(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        let _ = seen.wait_for(|r| *r >= revision).await;
    }

    /// All resources, also of custom kinds.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.built_in.values().cloned().chain(self.custom.read().values().cloned()).collect()
    }

    /// Drops changes that are too old for watches to resume from, some time after each change; ends with the cache.
    pub async fn trim_histories(cache: Weak<Self>) {
        let Some(mut revision) = cache.upgrade().map(|cache| cache.revision.subscribe()) else { return };
        while revision.changed().await.is_ok() {
            tokio::time::sleep(FRESH).await;
            let Some(cache) = cache.upgrade() else { return };
            for resource in cache.resources() {
                resource.state.write().history.trim(Instant::now());
            }
        }
    }

    fn locate(&self, key: &str) -> Option<(Arc<Resource>, Arc<str>)> {
        let (resource, object) = key.strip_prefix("/registry/")?.split_once('/')?;
        Some((self.find(resource)?, object.into()))
    }
}

impl Observer for Cache {
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64) {
        // Definitions first, so that the objects of their kinds find their place.
        let prefix = format!("/registry/{}/", kinds::CUSTOM_RESOURCE_DEFINITIONS.resource());
        for item in items.iter().filter(|i| i.key.starts_with(&prefix)) {
            self.apply_definition(&item.key[prefix.len()..], serde_json::from_slice(&item.value).ok().as_ref());
        }
        for item in items {
            let Some((resource, key)) = self.locate(&item.key) else {
                tracing::warn!(key = %item.key, "the database holds an object of an unknown kind; the API server ignores it");
                continue;
            };
            let entry = Arc::new(Entry::new(resource.kind, key.clone(), &item.value, item.revision));
            let mut state = resource.state.write();
            state.changed = state.changed.max(item.revision);
            state.bytes = state.bytes.saturating_add(entry.bytes.len());
            state.items.insert(key, entry);
        }
        for resource in self.resources() {
            resource.state.write().history.begin_after(revision);
            let definition = self.catalog.definition(resource.kind);
            if definition.is_some_and(|definition| definition.storage().has_defaults) {
                self.apply_new_defaults(&resource);
            }
        }
        self.revision.send_replace(revision);
    }

    fn changes(&self, batch: &[Change]) {
        for change in batch {
            if let Some((resource, key)) = self.locate(&change.key) {
                if is_definition(resource.kind) {
                    let object = change.value.as_ref().and_then(|v| serde_json::from_slice(v).ok());
                    self.apply_definition(&key, object.as_ref());
                }
                resource.apply(key, change);
            }
        }
        if let Some(last) = batch.last() {
            self.revision.send_replace(last.revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::{Listed, Order};
    use super::super::watch::TooOld;
    use super::super::{Filter, WatchStart};
    use super::*;
    use std::time::Duration;

    use apimachinery::LabelSelector;
    use serde_json::json;

    fn put(cache: &Cache, revision: u64, name: &str, app: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
                         "metadata": {"name": name, "namespace": "n", "labels": {"app": app}}});
        let key = format!("/registry/pods/n/{name}").into();
        cache.changes(&[Change { key, revision, value: Some(encode(&pod)) }]);
    }

    #[test]
    fn watcher_sees_objects_enter_and_leave_its_selector() {
        let cache = Cache::new(Arc::default());
        let pods = cache.of(kinds::PODS);
        let filter = Filter { labels: LabelSelector::parse("app=web").unwrap(), ..Filter::default() };
        let mut watch = pods.subscribe(filter, WatchStart::Now, 0).unwrap();
        put(&cache, 1, "a", "web");
        put(&cache, 2, "a", "web");
        put(&cache, 3, "a", "db");
        put(&cache, 4, "a", "db");
        let mut seen = Vec::new();
        while let Some((kind, event)) = watch.events.try_recv() {
            seen.push((kind.as_str(), event.entry.revision));
        }
        assert_eq!(seen, [("ADDED", 1), ("MODIFIED", 2), ("DELETED", 3)]);
    }

    #[test]
    fn watch_resumes_from_a_known_revision_only() {
        let cache = Cache::new(Arc::default());
        cache.snapshot(vec![], 10);
        put(&cache, 11, "a", "web");
        put(&cache, 12, "b", "web");
        let pods = cache.of(kinds::PODS);
        let resumed = pods.subscribe(Filter::default(), WatchStart::After(11), 12).unwrap();
        assert_eq!(resumed.backlog.len(), 1);
        for other in [9, 13] {
            let refused = pods.subscribe(Filter::default(), WatchStart::After(other), 12).err();
            assert_eq!(refused, Some(TooOld { requested: other, oldest: 10 }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_are_old_are_forgotten_but_for_a_few() {
        let cache = Arc::new(Cache::new(Arc::default()));
        let trimmed = Arc::downgrade(&cache);
        tasks::until_done("histories", move || Cache::trim_histories(trimmed.clone()));
        tokio::task::yield_now().await;
        for revision in 1..=3000 {
            put(&cache, revision, "a", "web");
        }
        let resumes =
            |after| cache.of(kinds::PODS).subscribe(Filter::default(), WatchStart::After(after), 3000).is_ok();
        assert!(resumes(1), "all of it is fresh");
        tokio::time::sleep(2 * FRESH + Duration::from_secs(1)).await;
        assert!(!resumes(1) && resumes(2990), "a few of the old changes are kept");
    }

    #[test]
    fn a_watch_of_what_there_is_begins_with_the_oldest() {
        let cache = Cache::new(Arc::default());
        for (revision, name) in [(1, "b"), (2, "a"), (3, "c"), (4, "a")] {
            put(&cache, revision, name, "web");
        }
        let pods = cache.of(kinds::PODS);
        let revisions = |from| {
            let begun = pods.subscribe(Filter::default(), from, 4).unwrap();
            let backlog = begun.backlog.iter().map(|(_, event)| event.entry.revision);
            begun.initial.iter().map(|entry| entry.revision).chain(backlog).collect::<Vec<_>>()
        };
        assert_eq!(revisions(WatchStart::Now), [1, 3, 4]);
        // Who was broken off after the second resumes with the third.
        assert_eq!(revisions(WatchStart::After(3)), [4]);
    }

    #[tokio::test]
    async fn the_shared_list_is_made_anew_after_a_change() {
        let cache = Cache::new(Arc::default());
        put(&cache, 1, "a", "web");
        let pods = cache.of(kinds::PODS);
        let (first, same) = (pods.whole_list(), pods.whole_list());
        assert!(Arc::ptr_eq(&first, &same));
        put(&cache, 2, "b", "web");
        let second = pods.whole_list();
        assert_eq!((first.changed, first.items.len(), second.changed, second.items.len()), (1, 1, 2, 2));
        // Who reads the first one makes what he needs himself.
        let alone = first.piece(0).unwrap();
        assert_ne!(alone.as_ptr(), first.piece(0).unwrap().as_ptr());
        assert_eq!(second.piece(0).unwrap().as_ptr(), second.piece(0).unwrap().as_ptr());
        assert_eq!(pods.size(), (2, second.bytes));
    }

    #[test]
    fn a_list_that_is_being_read_hears_what_is_replaced() {
        let cache = Cache::new(Arc::default());
        let large = "x".repeat(1000);
        for i in 0..200 {
            put(&cache, i + 1, &format!("a{i:03}"), &large);
        }
        let pods = cache.of(kinds::PODS);
        let (items, changed) = pods.list(&Filter::default());
        let listed = Arc::new(Listed::of_one(items, changed));
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(2));
        let asked = left.clone();
        let charge = move |bytes: usize| {
            assert!(bytes > 1000);
            asked.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 1
        };
        let reading = pods.read(listed, Order::Key, charge);
        put(&cache, 300, "a000", &large);
        put(&cache, 301, "a000", &large);
        put(&cache, 302, "other", &large);
        assert!(reading.listed().is_ok());
        put(&cache, 303, "a001", &large);
        assert!(reading.listed().is_err(), "it holds on to too much");
        put(&cache, 304, "a002", &large);
        assert_eq!(left.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn namespace_lists_do_not_leak_neighbours() {
        let cache = Cache::new(Arc::default());
        for (i, namespace) in ["a", "a-b", "a0", "b"].iter().enumerate() {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}});
            let key = format!("/registry/pods/{namespace}/p").into();
            cache.changes(&[Change { key, revision: i as u64 + 1, value: Some(encode(&pod)) }]);
        }
        let filter = Filter { namespace: "a".into(), ..Filter::default() };
        assert_eq!(cache.of(kinds::PODS).list(&filter).0.len(), 1);
    }
}
