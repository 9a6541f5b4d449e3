//! A store in memory, without history, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{Change, KeyValue, Most, Observer, Page, ReadError, Store, Write, WriteError};

#[derive(Default)]
struct State {
    revision: u64,
    keys: BTreeMap<Arc<str>, KeyValue>,
    observer: Option<Arc<dyn Observer>>,
}

/// The store in memory.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// The revision of the last write.
    pub fn revision(&self) -> u64 {
        self.state.lock().revision
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError> {
        let mut state = self.state.lock();
        observer.snapshot(state.keys.values().cloned().collect(), state.revision);
        state.observer = Some(observer);
        Ok(())
    }

    async fn write(&self, write: Write) -> Result<u64, WriteError> {
        let mut state = self.state.lock();
        let current_revision = state.keys.get(write.key()).map(|kv| kv.revision);
        check(&write, current_revision)?;
        state.revision += 1;
        let revision = state.revision;
        let (key, value) = match write {
            Write::Create { key, value } | Write::Update { key, value, .. } => (key, Some(value)),
            Write::Delete { key, .. } => (key, None),
        };
        match &value {
            Some(value) => {
                state.keys.insert(key.clone(), KeyValue { key: key.clone(), value: value.clone(), revision })
            }
            None => state.keys.remove(&key),
        };
        if let Some(observer) = &state.observer {
            observer.changes(&[Change { key, revision, value }]);
        }
        Ok(revision)
    }

    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError> {
        let state = self.state.lock();
        if revision < state.revision {
            return Err(ReadError::Compacted { asked: revision, oldest: state.revision });
        }
        let mut wanted = state.keys.values().filter(|kv| kv.key.starts_with(prefix) && &*kv.key > after);
        let (mut items, mut read) = (Vec::new(), 0usize);
        while items.len() < most.keys && read < most.bytes {
            let Some(item) = wanted.next() else { return Ok(Page { items, is_cut: false }) };
            read = read.saturating_add(item.value.len());
            items.push(item.clone());
        }
        Ok(Page { items, is_cut: wanted.next().is_some() })
    }

    async fn compact(&self, _revision: u64) -> Result<(), WriteError> {
        Ok(())
    }
}

/// Whether `write` may go ahead when its key is `list_present` at that revision, or absent.
pub(crate) fn check(write: &Write, current_revision: Option<u64>) -> Result<(), WriteError> {
    match (write, current_revision) {
        (Write::Create { .. }, Some(_)) => Err(WriteError::Exists),
        (Write::Create { .. }, None) => Ok(()),
        (Write::Update { .. } | Write::Delete { .. }, None) => Err(WriteError::NotFound),
        (Write::Update { expected, .. } | Write::Delete { expected, .. }, Some(actual)) if *expected != actual => {
            Err(WriteError::Conflict { actual })
        }
        _ => Ok(()),
    }
}
