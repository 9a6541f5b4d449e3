//! Where objects are kept: a log of revisions of keys, durable before it is acknowledged.
//!
//! [`Store`] is the narrow seam between the API server and a database. The API server keeps every object in memory
//! (its watch cache), so a store need not answer reads of the present: it [attaches](Store::attach) an [`Observer`],
//! which gets everything there is and then every change, in revision order and without a gap. What is left are writes
//! and the rare read of the past.
//!
//! Invariants:
//! - There is one revision counter for the whole store; it never goes back and stays below 2^53.
//! - A write that was answered is on disk (`synchronous=FULL`), and the observer saw it before the answer.
//! - Values are opaque here.
//!
//! [`sqlite`] is the default store; [`encrypted`] stands around one; [`memory`] is for tests.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub mod encrypted;
pub mod memory;
pub mod sqlite;

pub use encrypted::{EncryptedStore, Encryption};
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that wrote this value.
    pub revision: u64,
}

/// A change, as observers see it. `value` is `None` for a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Arc<str>,
    pub revision: u64,
    pub value: Option<Bytes>,
}

/// What a write demands of the key's present state.
#[derive(Debug, Clone)]
pub enum Write {
    /// The key must not exist.
    Create { key: Arc<str>, value: Bytes },
    /// The key must exist at this revision.
    Update { key: Arc<str>, value: Bytes, expected: u64 },
    /// The key must exist at this revision.
    Delete { key: Arc<str>, expected: u64 },
}

impl Write {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Write::Create { key, .. } | Write::Update { key, .. } | Write::Delete { key, .. } => key,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("the key exists")]
    Exists,
    #[error("the key does not exist")]
    NotFound,
    #[error("the key was changed meanwhile (now at revision {actual})")]
    Conflict { actual: u64 },
    #[error("no space left on the disk that holds the database: free some, writes then go on by themselves")]
    Full,
    #[error("the database failed: {0}")]
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("revision {asked} has been compacted, the oldest left is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: u64, newest: u64 },
    #[error("the database failed: {0}")]
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
#[error("the database {path} can't be used: {reason}")]
pub struct OpenError {
    pub path: String,
    pub reason: String,
}

/// Receives the content of a store and all its changes. Calls come one at a time and must not block for long, as
/// writers wait for them.
pub trait Observer: Send + Sync {
    /// Everything that exists, as of `revision`. Comes first, once.
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64);
    /// The changes of one commit, in revision order.
    fn changes(&self, batch: &[Change]);
}

/// Some of the keys of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<KeyValue>,
    /// Whether there may be more after them.
    pub is_cut: bool,
}

#[async_trait]
pub trait Store: Send + Sync {
    /// Delivers the snapshot before it returns, and the changes from then on.
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError>;

    /// Carries out one write and returns its revision. Durable when it returns.
    async fn write(&self, write: Write) -> Result<u64, WriteError>;

    /// The keys below `prefix` that come after the key `after`, as they were at `revision`, in key order: at most so many, and no more bytes than a
    /// few megabytes, but one at least if there is one.
    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: usize) -> Result<Page, ReadError>;

    /// All keys below `prefix` as they were at `revision`, in key order.
    async fn list_at(&self, prefix: &str, revision: u64) -> Result<Vec<KeyValue>, ReadError> {
        let mut all: Vec<KeyValue> = Vec::new();
        loop {
            let after = all.last().map(|item| item.key.to_string()).unwrap_or_default();
            let page = self.page_at(prefix, revision, &after, usize::MAX).await?;
            all.extend(page.items);
            if !page.is_cut {
                return Ok(all);
            }
        }
    }

    /// Forgets what was superseded before `revision`.
    async fn compact(&self, revision: u64) -> Result<(), WriteError>;
}
