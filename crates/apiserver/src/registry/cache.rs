//! The watch cache: all objects, the latest changes, and those who watch.
//!
//! The store calls [`Cache`] as its observer, in revision order. Readers take a short read lock and clone `Arc`s.
//! A watcher has a bounded queue; who doesn't keep up is cut off and comes back with a new watch, as the API allows,
//! rather than making others wait.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use apimachinery::Status;
use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::Value;
use store::{Change, KeyValue, Observer};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use api::{KINDS, Kind, Verbs, kinds};

use super::history::{FRESH, History};
use super::{Catalog, Entry, EventType, Filter, encode, is_definition};

/// How long a serialized list is kept that nobody asks for again.
const LIST_CACHE_TTL: Duration = Duration::from_secs(1);
/// Events that may wait for one watcher, and their bytes.
const MAX_QUEUED_EVENTS: usize = 8192;
const QUEUE_BYTES: usize = 32 << 20;

/// A change of one object, shared by all its watchers.
#[derive(Debug)]
pub struct Event {
    kind: EventType,
    pub entry: Arc<Entry>,
    previous: Option<Arc<Entry>>,
    /// What it was before, for those to whom it went out of sight; made once for all.
    left: OnceLock<Arc<Entry>>,
    /// The line for those to whom it is another change than to most; made once for all.
    other: OnceLock<(EventType, Bytes)>,
}

impl Event {
    pub fn new(kind: EventType, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Event { kind, entry, previous, left: OnceLock::new(), other: OnceLock::new() }
    }

    /// What the change means to a watcher with `filter`: an object that starts or stops matching comes or goes.
    pub fn seen_through(&self, kind: &Kind, filter: &Filter) -> Option<EventType> {
        if filter.is_everything() {
            return Some(self.kind);
        }
        let now = self.kind != EventType::Deleted && filter.matches(kind, &self.entry);
        let before = self.previous.as_ref().is_some_and(|p| filter.matches(kind, p));
        match (before, now) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    /// The object as a watcher is shown it. Who sees it go sees how it was when it was last in sight.
    pub fn shown(&self, seen: EventType) -> &Arc<Entry> {
        match &self.previous {
            Some(previous) if seen == EventType::Deleted && self.kind != EventType::Deleted => {
                self.left.get_or_init(|| Arc::new(previous.deleted(self.entry.revision)))
            }
            _ => &self.entry,
        }
    }

    /// The line on the wire, by the type that the change has for a watcher.
    pub fn frame(&self, seen: EventType) -> Bytes {
        if seen == self.kind || seen == EventType::Deleted {
            return self.shown(seen).line(seen);
        }
        let (kept, line) = self.other.get_or_init(|| (seen, self.entry.line(seen)));
        if *kept == seen { line.clone() } else { self.entry.line(seen) }
    }

    /// Bytes that are kept for it, besides what the cache keeps anyway.
    pub(super) fn weight(&self) -> usize {
        self.entry.bytes.len() + self.previous.as_ref().map_or(0, |p| p.bytes.len())
    }
}

struct Watcher {
    filter: Filter,
    queue: mpsc::Sender<(EventType, Arc<Event>)>,
    waiting: Arc<AtomicUsize>,
}

impl Watcher {
    /// Whether the watcher keeps up.
    fn tell(&self, seen: EventType, event: &Arc<Event>) -> bool {
        let bytes = event.entry.bytes.len();
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        (waiting == 0 || waiting + bytes <= QUEUE_BYTES) && self.queue.try_send((seen, event.clone())).is_ok()
    }
}

/// The changes that wait for a watcher.
pub struct Events {
    queue: mpsc::Receiver<(EventType, Arc<Event>)>,
    waiting: Arc<AtomicUsize>,
}

impl Events {
    pub async fn recv(&mut self) -> Option<(EventType, Arc<Event>)> {
        let next = self.queue.recv().await?;
        self.waiting.fetch_sub(next.1.entry.bytes.len(), Ordering::Relaxed);
        Some(next)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What waits already, if anything does.
    pub fn try_recv(&mut self) -> Option<(EventType, Arc<Event>)> {
        let next = self.queue.try_recv().ok()?;
        self.waiting.fetch_sub(next.1.entry.bytes.len(), Ordering::Relaxed);
        Some(next)
    }
}

#[derive(Default)]
struct State {
    items: BTreeMap<Arc<str>, Arc<Entry>>,
    history: History,
    /// The revision of the last change of this resource.
    changed: u64,
    watchers: Vec<Watcher>,
}

/// One resource's objects and watchers.
pub struct Resource {
    pub kind: &'static Kind,
    state: RwLock<State>,
    /// The whole list as bytes, as long as nothing changes.
    listed: RwLock<Option<(u64, Bytes)>>,
    /// The list was asked for since somebody last looked whether it was.
    asked: AtomicBool,
    /// Somebody looks, and will forget the list.
    forgets: AtomicBool,
}

impl Resource {
    fn new(kind: &'static Kind) -> Self {
        Resource {
            kind,
            state: RwLock::default(),
            listed: RwLock::default(),
            asked: AtomicBool::default(),
            forgets: AtomicBool::default(),
        }
    }
}

/// A watch that has begun: what there was, and what comes.
pub struct Subscription {
    pub initial: Vec<Arc<Entry>>,
    pub backlog: Vec<(EventType, Arc<Event>)>,
    pub events: Events,
    /// The revision up to which `initial` and `backlog` reach.
    pub revision: u64,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With everything that there is now.
    Now,
    /// With the changes after this revision.
    After(u64),
}

/// The revision that a watch wants to resume from is no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    pub asked: u64,
    pub oldest: u64,
}

impl Resource {
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().items.get(key).cloned()
    }

    /// The objects that match, in key order, with the revision of the last change of the resource.
    pub fn list(&self, filter: &Filter) -> (Vec<Arc<Entry>>, u64) {
        let state = self.state.read();
        let matching = |(_, e): (&Arc<str>, &Arc<Entry>)| filter.matches(self.kind, e).then(|| e.clone());
        let items = if filter.namespace.is_empty() {
            state.items.iter().filter_map(matching).collect()
        } else {
            // '0' is the character after '/', so this range is the namespace.
            let (from, to) = (format!("{}/", filter.namespace), format!("{}0", filter.namespace));
            let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
            state.items.range::<str, _>(range).filter_map(matching).collect()
        };
        (items, state.changed)
    }

    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    /// The revision of the last change.
    pub fn changed(&self) -> u64 {
        self.state.read().changed
    }

    /// The unfiltered list, serialized once per change by `make`, and kept as long as somebody asks for it again; with the
    /// revision of the last change that it shows. A change that comes meanwhile isn't in it: who watches from a later
    /// revision would never hear of that one.
    pub fn whole_list(self: &Arc<Self>, make: impl FnOnce(&[Arc<Entry>]) -> Bytes) -> (Bytes, u64) {
        let changed = self.changed();
        if let Some((at, bytes)) = &*self.listed.read()
            && *at == changed
        {
            self.asked.store(true, Ordering::Relaxed);
            return (bytes.clone(), *at);
        }
        let (items, at) = self.list(&Filter::default());
        let bytes = make(&items);
        *self.listed.write() = Some((at, bytes.clone()));
        if !self.forgets.swap(true, Ordering::Relaxed) {
            let resource = Arc::downgrade(self);
            tasks::until_done("list-memory", move || Self::forget_list(resource.clone()));
        }
        (bytes, at)
    }

    /// Gives the memory of the list back once nobody asked for it for a while.
    async fn forget_list(resource: Weak<Self>) {
        loop {
            tokio::time::sleep(LIST_CACHE_TTL).await;
            let Some(resource) = resource.upgrade() else { return };
            if !resource.asked.swap(false, Ordering::Relaxed) {
                resource.forgets.store(false, Ordering::Relaxed);
                *resource.listed.write() = None;
                return;
            }
        }
    }

    pub fn subscribe(&self, filter: Filter, from: From, revision: u64) -> Result<Subscription, TooOld> {
        let mut state = self.state.write();
        let (mut initial, mut backlog) = (Vec::new(), Vec::new());
        match from {
            From::Now => {
                initial = state.items.values().filter(|e| filter.matches(self.kind, e)).cloned().collect();
            }
            From::After(after) => {
                // One that isn't reached yet is of another history: the server was put back to an older state since. Upstream waits
                // for it; here who asks is sent to list anew, as he has missed what was undone.
                let forgotten = state.history.forgotten();
                if after < forgotten || after > revision.max(state.changed) {
                    return Err(TooOld { asked: after, oldest: forgotten });
                }
                for event in state.history.after(after) {
                    if let Some(seen) = event.seen_through(self.kind, &filter) {
                        backlog.push((seen, event.clone()));
                    }
                }
            }
        }
        let (queue, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        let waiting = Arc::<AtomicUsize>::default();
        state.watchers.push(Watcher { filter, queue, waiting: waiting.clone() });
        let events = Events { queue: receiver, waiting };
        let revision = revision.max(state.changed);
        drop(state);
        // By age: whoever resumes after one of them sees what follows it here, and misses nothing.
        initial.sort_by_key(|entry: &Arc<Entry>| entry.revision);
        Ok(Subscription { initial, backlog, events, revision })
    }

    fn apply(&self, key: Arc<str>, change: &Change) {
        let mut state = self.state.write();
        let previous = state.items.get(&key).cloned();
        let event = match (&change.value, previous) {
            (Some(value), previous) => {
                let kind = if previous.is_some() { EventType::Modified } else { EventType::Added };
                let entry = Arc::new(Entry::told(kind, self.kind, key.clone(), value, change.revision));
                state.items.insert(key, entry.clone());
                Event::new(kind, entry, previous)
            }
            (None, Some(previous)) => {
                state.items.remove(&key);
                Event::new(EventType::Deleted, Arc::new(previous.deleted(change.revision)), Some(previous))
            }
            (None, None) => return,
        };
        let event = Arc::new(event);
        state.changed = change.revision;
        // Dropping the cached list here gives its memory back while nobody lists.
        *self.listed.write() = None;
        state.history.push(event.clone(), Instant::now());
        state.watchers.retain(|watcher| match event.seen_through(self.kind, &watcher.filter) {
            Some(seen) => watcher.tell(seen, &event),
            None => !watcher.queue.is_closed(),
        });
    }
}

/// All resources.
pub struct Cache {
    /// Built-in ones, by `plural` or `plural.group`, as keys of the store name them.
    resources: HashMap<String, Arc<Resource>>,
    /// The same by the address of the kind, which is a constant.
    by_kind: HashMap<usize, Arc<Resource>>,
    /// Those of custom resource definitions.
    custom: RwLock<HashMap<String, Arc<Resource>>>,
    pub catalog: Arc<Catalog>,
    revision: watch::Sender<u64>,
}

/// What a built-in kind is found by: there is one of each, at one place.
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
    pub fn new(catalog: Arc<Catalog>) -> Self {
        let kept: Vec<Arc<Resource>> =
            KINDS.iter().filter(|k| k.verbs == Verbs::All).map(|kind| Arc::new(Resource::new(kind))).collect();
        let resources = kept.iter().map(|r| (r.kind.resource(), r.clone())).collect();
        let by_kind = kept.into_iter().map(|r| (address(r.kind), r)).collect();
        Cache { resources, by_kind, custom: RwLock::default(), catalog, revision: watch::channel(0).0 }
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
        self.resources.get(name).cloned().or_else(|| self.custom.read().get(name).cloned())
    }

    /// Follows a change of a custom resource definition.
    fn define(&self, name: &str, object: Option<&Value>) {
        match object {
            Some(object) => {
                if let Some((kind, lacks_defaults)) = self.catalog.put(object) {
                    let new = || Resource::new(kind);
                    let resource = self.custom.write().entry(name.into()).or_insert_with(|| Arc::new(new())).clone();
                    if lacks_defaults {
                        self.fill_in(&resource);
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

    /// Gives kept objects of a custom kind the defaults that came into its schema after they were written, so that who
    /// reads them sees these. In the store they stay as they are, as upstream leaves them in etcd.
    fn fill_in(&self, resource: &Resource) {
        let Some(definition) = self.catalog.definition(resource.kind) else { return };
        let version = definition.storage();
        let mut state = resource.state.write();
        for entry in state.items.values_mut() {
            let object = entry.parse();
            // Until it is written again, an object may have been kept in another version.
            if object["apiVersion"] != version.kind.api_version() {
                continue;
            }
            let mut filled = object.clone();
            version.apply_defaults(&mut filled);
            if filled != object {
                *entry = entry.with_content(&encode(&filled));
            }
        }
        drop(state);
        *resource.listed.write() = None;
    }

    /// The resource of a built-in kind (`kinds::PODS`). Panics for one whose objects aren't kept, as callers name it literally.
    pub fn of(&self, kind: &'static Kind) -> &Arc<Resource> {
        &self.by_kind[&address(kind)]
    }

    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until the cache has seen `revision`.
    pub async fn reached(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        let _ = seen.wait_for(|r| *r >= revision).await;
    }

    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.resources.values().cloned().chain(self.custom.read().values().cloned()).collect()
    }

    /// Forgets changes that nobody resumes from any more, some time after each change; ends with the cache.
    pub async fn trim_histories(cache: Weak<Self>) {
        let Some(mut revision) = cache.upgrade().map(|cache| cache.revision.subscribe()) else { return };
        while revision.changed().await.is_ok() {
            tokio::time::sleep(FRESH).await;
            let Some(cache) = cache.upgrade() else { return };
            for resource in cache.all() {
                resource.state.write().history.trim(Instant::now());
            }
        }
    }

    fn route(&self, key: &str) -> Option<(Arc<Resource>, Arc<str>)> {
        let (resource, object) = key.strip_prefix("/registry/")?.split_once('/')?;
        Some((self.find(resource)?, object.into()))
    }
}

impl Observer for Cache {
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64) {
        // Definitions first, so that the objects of their kinds find their place.
        let prefix = format!("/registry/{}/", kinds::CUSTOM_RESOURCE_DEFINITIONS.resource());
        for item in items.iter().filter(|i| i.key.starts_with(&prefix)) {
            self.define(&item.key[prefix.len()..], serde_json::from_slice(&item.value).ok().as_ref());
        }
        for item in items {
            let Some((resource, key)) = self.route(&item.key) else {
                tracing::warn!(key = %item.key, "the database holds an object of an unknown kind; the API server ignores it");
                continue;
            };
            let entry = Arc::new(Entry::new(resource.kind, key.clone(), &item.value, item.revision));
            let mut state = resource.state.write();
            state.changed = state.changed.max(item.revision);
            state.items.insert(key, entry);
        }
        for resource in self.all() {
            resource.state.write().history.begin_after(revision);
            let definition = self.catalog.definition(resource.kind);
            if definition.is_some_and(|definition| definition.storage().has_defaults) {
                self.fill_in(&resource);
            }
        }
        self.revision.send_replace(revision);
    }

    fn changes(&self, batch: &[Change]) {
        for change in batch {
            if let Some((resource, key)) = self.route(&change.key) {
                if is_definition(resource.kind) {
                    let object = change.value.as_ref().and_then(|v| serde_json::from_slice(v).ok());
                    self.define(&key, object.as_ref());
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
    use super::*;
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
        let mut watch = pods.subscribe(filter, From::Now, 0).unwrap();
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
        let resumed = pods.subscribe(Filter::default(), From::After(11), 12).unwrap();
        assert_eq!(resumed.backlog.len(), 1);
        for other in [9, 13] {
            let refused = pods.subscribe(Filter::default(), From::After(other), 12).err();
            assert_eq!(refused, Some(TooOld { asked: other, oldest: 10 }));
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
        let resumes = |after| cache.of(kinds::PODS).subscribe(Filter::default(), From::After(after), 3000).is_ok();
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
        assert_eq!(revisions(From::Now), [1, 3, 4]);
        // Who was broken off after the second resumes with the third.
        assert_eq!(revisions(From::After(3)), [4]);
    }

    #[tokio::test]
    async fn a_list_never_claims_to_show_a_change_that_came_while_it_was_made() {
        let cache = Cache::new(Arc::default());
        put(&cache, 1, "a", "web");
        let (_, shown) = cache.of(kinds::PODS).whole_list(|items| {
            put(&cache, 2, "b", "web");
            assert_eq!(items.len(), 1);
            Bytes::new()
        });
        assert_eq!(shown, 1);
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
