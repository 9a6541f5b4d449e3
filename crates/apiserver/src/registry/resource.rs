//! The objects of one kind, and their watchers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use store::Change;
use tokio::time::Instant;

use api::Kind;

use super::history::History;
use super::listed::{Listed, Order, PIECE, Reading};
use super::watch::{TooOld, Watcher};
use super::{Entry, Event, EventType, Filter, Subscription, WatchStart};

/// How long a list is kept for other clients that no client asks for again.
const LIST_CACHE_TTL: Duration = Duration::from_secs(1);

/// What a resource holds, behind one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) items: BTreeMap<Arc<str>, Arc<Entry>>,
    pub(super) history: History,
    /// The revision of the last change of this resource.
    pub(super) changed: u64,
    /// Bytes of all items.
    pub(super) bytes: usize,
    watchers: Vec<Watcher>,
    /// The large lists that clients are reading.
    readings: Mutex<Vec<Weak<Reading>>>,
}

/// One resource's objects and watchers.
pub struct Resource {
    pub kind: &'static Kind,
    pub(super) state: RwLock<State>,
    /// All objects as a list that clients share; dropped by every change.
    cached_list: RwLock<Option<Arc<Listed>>>,
    /// The list was asked for since the task that expires it looked last.
    list_used: AtomicBool,
    /// A task is running that drops `cached_list` once it isn't used for `LIST_CACHE_TTL`.
    expiry_running: AtomicBool,
}

impl Resource {
    /// A kind without objects.
    pub(super) fn new(kind: &'static Kind) -> Self {
        Resource {
            kind,
            state: RwLock::default(),
            cached_list: RwLock::default(),
            list_used: AtomicBool::default(),
            expiry_running: AtomicBool::default(),
        }
    }
}

impl Resource {
    /// The object with this key (`namespace/name`, or `name`).
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().items.get(key).cloned()
    }

    /// The objects that match, in key order, with the revision of the last change of the resource.
    pub fn list(&self, filter: &Filter) -> (Vec<Arc<Entry>>, u64) {
        let state = self.state.read();
        (self.matching(&state, filter), state.changed)
    }

    fn matching(&self, state: &State, filter: &Filter) -> Vec<Arc<Entry>> {
        let matching = |(_, e): (&Arc<str>, &Arc<Entry>)| filter.matches(self.kind, e).then(|| e.clone());
        if filter.namespace.is_empty() {
            return state.items.iter().filter_map(matching).collect();
        }
        // '0' is the character after '/', so this range is the namespace.
        let (from, to) = (format!("{}/", filter.namespace), format!("{}0", filter.namespace));
        let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        state.items.range::<str, _>(range).filter_map(matching).collect()
    }

    /// Tells a list that a client begins to read of each of its objects that is replaced meanwhile; `charge` is asked whether it may hold on to so
    /// many bytes of those. Not of those that were replaced already, which the history of changes has, too.
    pub fn read(
        &self,
        listed: Arc<Listed>,
        order: Order,
        charge: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Arc<Reading> {
        let is_large = listed.bytes > PIECE;
        let reading = Arc::new(Reading::new(listed, order, Box::new(charge)));
        if is_large {
            let state = self.state.read();
            let mut readings = state.readings.lock();
            readings.retain(|reading| reading.strong_count() > 0);
            readings.push(Arc::downgrade(&reading));
        }
        reading
    }

    /// Objects, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.items.len(), state.bytes)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    /// The revision of the last change.
    pub fn changed(&self) -> u64 {
        self.state.read().changed
    }

    /// All objects, in one list for all clients until the next change, and kept while clients ask for it. A change that comes while it is made
    /// isn't in it: a watch from a later revision would never get that one.
    pub fn whole_list(self: &Arc<Self>) -> Arc<Listed> {
        let changed = self.changed();
        if let Some(listed) = &*self.cached_list.read()
            && listed.changed == changed
        {
            self.list_used.store(true, Ordering::Relaxed);
            return listed.clone();
        }
        let (items, at) = self.list(&Filter::default());
        let listed = Arc::new(Listed::shared(items, at));
        if let Some(old) = self.cached_list.write().replace(listed.clone()) {
            old.forget_pieces();
        }
        if self.changed() != at {
            self.drop_list();
        }
        if !self.expiry_running.swap(true, Ordering::Relaxed) {
            let resource = Arc::downgrade(self);
            tasks::until_done("list-cache-expiry", move || Self::expire_list(resource.clone()));
        }
        listed
    }

    /// Drops the list that clients share: those that are reading it go on by themselves.
    pub(super) fn drop_list(&self) {
        if let Some(old) = self.cached_list.write().take() {
            old.forget_pieces();
        }
    }

    /// Drops the shared list once no client asked for it for a while.
    async fn expire_list(resource: Weak<Self>) {
        loop {
            tokio::time::sleep(LIST_CACHE_TTL).await;
            let Some(resource) = resource.upgrade() else { return };
            if !resource.list_used.swap(false, Ordering::Relaxed) {
                resource.expiry_running.store(false, Ordering::Relaxed);
                resource.drop_list();
                return;
            }
        }
    }

    /// Begins a watch; `revision` is one that the cache has reached.
    ///
    /// # Errors
    /// When changes after the revision from which the watch resumes may be forgotten, or it lies in the future.
    pub fn subscribe(&self, filter: Filter, from: WatchStart, revision: u64) -> Result<Subscription, TooOld> {
        let mut state = self.state.write();
        let (mut initial, mut backlog) = (Vec::new(), Vec::new());
        match from {
            WatchStart::Now => {
                initial = state.items.values().filter(|e| filter.matches(self.kind, e)).cloned().collect();
            }
            WatchStart::After(after) => {
                // One that isn't reached yet is of another history: the server was restored to an older state since. Upstream waits
                // for it; here the client has to list anew, as it has missed what the restore undid.
                let forgotten = state.history.forgotten();
                if after < forgotten || after > revision.max(state.changed) {
                    return Err(TooOld { requested: after, oldest: forgotten });
                }
                for event in state.history.after(after) {
                    if let Some(seen) = event.as_seen_by(self.kind, &filter) {
                        backlog.push((seen, event.clone()));
                    }
                }
            }
        }
        let (watcher, events) = Watcher::new(filter);
        state.watchers.push(watcher);
        let revision = revision.max(state.changed);
        drop(state);
        // By age: a client that resumes after one of them gets what follows it here, and misses nothing.
        initial.sort_by_key(|entry: &Arc<Entry>| entry.revision);
        Ok(Subscription { initial, backlog, events, revision })
    }

    /// Takes a change of the store in, and sends it to the watchers.
    pub(super) fn apply(&self, key: Arc<str>, change: &Change) {
        let mut state = self.state.write();
        let previous = state.items.get(&key).cloned();
        if let Some(previous) = &previous {
            state.bytes = state.bytes.saturating_sub(previous.bytes.len());
            state.readings.get_mut().iter().filter_map(Weak::upgrade).for_each(|reading| reading.replaced(previous));
        }
        let event = match (&change.value, previous) {
            (Some(value), previous) => {
                let kind = if previous.is_some() { EventType::Modified } else { EventType::Added };
                let entry = Arc::new(Entry::after(kind, self.kind, key.clone(), value, change.revision));
                state.bytes = state.bytes.saturating_add(entry.bytes.len());
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
        // Dropped here, and not when it is asked for: then its memory is free meanwhile.
        self.drop_list();
        state.history.push(event.clone(), Instant::now());
        state.watchers.retain(|watcher| match event.as_seen_by(self.kind, &watcher.filter) {
            Some(seen) => watcher.send(seen, &event),
            None => !watcher.is_gone(),
        });
    }
}
