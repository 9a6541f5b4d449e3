//! The store: a log of revisions of keys, durable before a write is acknowledged (etcd's part).
//!
//! [`Store`] is the interface between the API server and a database. The API server has every object in memory (its watch cache), so a
//! store needn't serve reads of the present: it [attaches](Store::attach) an [`Observer`], which gets a snapshot and then every change, in
//! revision order and without a gap. What remains are writes and rare reads of the past.
//!
//! Invariants:
//! - The store has one revision counter, which never decreases and stays below 2^53.
//! - An acknowledged write is on disk (`synchronous=FULL`), and the observer has seen it before the acknowledgement.
//! - Values are opaque.
//!
//! [`sqlite`] is the default store; [`encrypted`] wraps one for encryption at rest; [`memory`] is for tests.

#![warn(missing_docs, clippy::missing_errors_doc)]
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
    /// The key, like `/registry/pods/default/web-0`.
    pub key: Arc<str>,
    /// The value.
    pub value: Bytes,
    /// The revision that wrote this value.
    pub revision: u64,
}

/// A change, as observers see it. `value` is `None` for a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Arc<str>,
    /// The revision of the change.
    pub revision: u64,
    /// The new value.
    pub value: Option<Bytes>,
}

/// A write with its precondition (compare-and-set).
#[derive(Debug, Clone)]
pub enum Write {
    /// The key must not exist.
    Create {
        /// The key.
        key: Arc<str>,
        /// Its value.
        value: Bytes,
    },
    /// The key must exist at this revision.
    Update {
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Bytes,
        /// The revision that it must have.
        expected: u64,
    },
    /// The key must exist at this revision.
    Delete {
        /// The key.
        key: Arc<str>,
        /// The revision that it must have.
        expected: u64,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Write::Create { key, .. } | Write::Update { key, .. } | Write::Delete { key, .. } => key,
        }
    }
}

/// Why a write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Create: the key exists already.
    #[error("the key exists")]
    Exists,
    /// Update or delete: the key doesn't exist.
    #[error("the key does not exist")]
    NotFound,
    /// The key has another revision than expected.
    #[error("the key was changed meanwhile (now at revision {actual})")]
    Conflict {
        /// Its revision.
        actual: u64,
    },
    /// The disk is full.
    #[error("no space left on the disk that holds the database: free some, writes then go on by themselves")]
    Full,
    #[error("the database failed: {0}")]
    /// The database failed; the text is its error.
    Failed(String),
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("revision {asked} has been compacted, the oldest left is {oldest}")]
    /// The revision was compacted.
    Compacted {
        /// The requested revision.
        asked: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    #[error("revision {asked} is in the future, the newest is {newest}")]
    /// The revision doesn't exist yet.
    Future {
        /// The requested revision.
        asked: u64,
        /// The newest revision.
        newest: u64,
    },
    #[error("the database failed: {0}")]
    /// The database failed; the text is its error.
    Failed(String),
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the database {path} can't be used: {reason}")]
pub struct OpenError {
    /// The file.
    pub path: String,
    /// What is wrong, and what can be done.
    pub reason: String,
}

/// Receives the content of a store and all its changes. Calls are sequential and must not block for long, as writers wait for them.
pub trait Observer: Send + Sync {
    /// All keys as of `revision`. Called once, first.
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64);
    /// The changes of one commit, in revision order.
    fn changes(&self, batch: &[Change]);
}

/// How much a page of a list may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Number of keys.
    pub keys: usize,
    /// Bytes of their values, of which the last one may go beyond it.
    pub bytes: usize,
}

impl Most {
    /// For who has no need of his own.
    pub const PLENTY: Most = Most { keys: usize::MAX, bytes: 8 << 20 };
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys of the page.
    pub items: Vec<KeyValue>,
    /// Whether there may be more after them.
    pub is_cut: bool,
}

/// A store of keys and values with revisions.
#[async_trait]
pub trait Store: Send + Sync {
    /// Delivers the snapshot before it returns, and the changes from then on.
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError>;

    /// Applies a write and returns its revision. It is durable when this returns.
    async fn write(&self, write: Write) -> Result<u64, WriteError>;

    /// The keys below `prefix` after the key `after`, as of `revision`, in key order: at most `most`, but at least one key if there is one.
    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError>;

    /// All keys below `prefix` as of `revision`, in key order.
    async fn list_at(&self, prefix: &str, revision: u64) -> Result<Vec<KeyValue>, ReadError> {
        let mut all: Vec<KeyValue> = Vec::new();
        loop {
            let after = all.last().map(|item| item.key.to_string()).unwrap_or_default();
            let page = self.page_at(prefix, revision, &after, Most::PLENTY).await?;
            all.extend(page.items);
            if !page.is_cut {
                return Ok(all);
            }
        }
    }

    /// Compacts the history before `revision`.
    async fn compact(&self, revision: u64) -> Result<(), WriteError>;
}
