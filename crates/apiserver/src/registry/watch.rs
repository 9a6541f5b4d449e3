//! Watches: changes of objects, and the bounded queues in which they wait for watchers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use api::Kind;

use super::{Entry, EventType, Filter};

/// Events that may wait for one watcher, and their bytes.
const MAX_QUEUED_EVENTS: usize = 8192;
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// A change of one object, shared by all its watchers.
#[derive(Debug)]
pub struct Event {
    kind: EventType,
    pub entry: Arc<Entry>,
    previous: Option<Arc<Entry>>,
    /// The object as it was before, for watchers whose selector it no longer matches; made once for all of them.
    unmatched: OnceLock<Arc<Entry>>,
    /// The line for watchers to which the change has another type than to most; made once for all of them.
    other_line: OnceLock<(EventType, Bytes)>,
}

impl Event {
    /// A change of an object from `previous` to `entry`.
    pub fn new(kind: EventType, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Event { kind, entry, previous, unmatched: OnceLock::new(), other_line: OnceLock::new() }
    }

    /// What the change means to a watcher with `filter`: an object that starts or stops matching comes or goes.
    pub fn as_seen_by(&self, kind: &Kind, filter: &Filter) -> Option<EventType> {
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

    /// The object that a watcher gets. When it stops matching a selector, it is the object as it was when it matched last.
    pub fn object_for(&self, seen: EventType) -> &Arc<Entry> {
        match &self.previous {
            Some(previous) if seen == EventType::Deleted && self.kind != EventType::Deleted => {
                self.unmatched.get_or_init(|| Arc::new(previous.deleted(self.entry.revision)))
            }
            _ => &self.entry,
        }
    }

    /// The line on the wire, by the type that the change has for a watcher.
    pub fn frame(&self, seen: EventType) -> Bytes {
        if seen == self.kind || seen == EventType::Deleted {
            return self.object_for(seen).line(seen);
        }
        let (kept, line) = self.other_line.get_or_init(|| (seen, self.entry.line(seen)));
        if *kept == seen { line.clone() } else { self.entry.line(seen) }
    }

    /// Bytes that are kept for it, besides what the cache keeps anyway.
    pub(super) fn weight(&self) -> usize {
        self.entry.bytes.len() + self.previous.as_ref().map_or(0, |p| p.bytes.len())
    }
}

/// Where the events of one watch go.
pub(super) struct Watcher {
    pub(super) filter: Filter,
    queue: mpsc::Sender<(EventType, Arc<Event>)>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Watcher {
    /// A watcher, and the end at which its events arrive.
    pub(super) fn new(filter: Filter) -> (Self, Events) {
        let (queue, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        let queued_bytes = Arc::<AtomicUsize>::default();
        (Watcher { filter, queue, queued_bytes: queued_bytes.clone() }, Events { queue: receiver, queued_bytes })
    }

    /// Whether its client is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.queue.is_closed()
    }

    /// Queues an event; false when the watcher doesn't keep up, or is gone.
    pub(super) fn send(&self, seen: EventType, event: &Arc<Event>) -> bool {
        let bytes = event.entry.bytes.len();
        let queued_bytes = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One event is queued however large it is.
        (queued_bytes == 0 || queued_bytes + bytes <= MAX_QUEUED_BYTES)
            && self.queue.try_send((seen, event.clone())).is_ok()
    }
}

/// The receiving end of a watch.
pub struct Events {
    queue: mpsc::Receiver<(EventType, Arc<Event>)>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Events {
    /// The next event, and its type for this watcher; none when the watcher didn't keep up, or the resource is gone.
    pub async fn recv(&mut self) -> Option<(EventType, Arc<Event>)> {
        let next = self.queue.recv().await?;
        self.queued_bytes.fetch_sub(next.1.entry.bytes.len(), Ordering::Relaxed);
        Some(next)
    }

    /// Whether no event is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// An event that is queued already.
    pub fn try_recv(&mut self) -> Option<(EventType, Arc<Event>)> {
        let next = self.queue.try_recv().ok()?;
        self.queued_bytes.fetch_sub(next.1.entry.bytes.len(), Ordering::Relaxed);
        Some(next)
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
pub enum WatchStart {
    /// With everything that there is now.
    Now,
    /// With the changes after this revision.
    After(u64),
}

/// The revision that a watch wants to resume from is no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The revision after which the watch was to begin.
    pub requested: u64,
    /// The oldest one that is still possible.
    pub oldest: u64,
}
