//! The store on SQLite.
//!
//! One thread owns the writing connection. It takes all the writes that are waiting, carries them out in one
//! transaction and answers them together (group commit), so that the price of making the disk safe is shared.
//! `synchronous=FULL` on a write-ahead log means: answered is durable, also after a power cut.
//!
//! The table is a log. A row is a revision of a key; the newest row of a key is its present, unless it is a tombstone.
//! History is cut off by the thread itself once [`Options::history`] revisions have gathered, a batch at a time so
//! that writers don't wait, and the pages that become free go back to the file system (`incremental_vacuum`).
//!
//! Each run numbers its revisions above [`Options::floor`]. A database that was restored from a backup so gives no revision
//! a second meaning, and who asks for one of the history that was lost is told that it is gone (etcd's
//! `etcdutl snapshot restore --bump-revision --mark-compacted` does the same for whoever remembers to say it).

mod compaction;
mod open;
mod rows;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

pub use open::{keep_verified, verify};

use crate::{Most, Observer, OpenError, Page, ReadError, Store, Write, WriteError};
use rows::{history, page_at, read_meta, skip_to_floor};
use writer::{Command, MAX_BATCH_WRITES, Writer};

/// Options of a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Revisions that are kept for reads of the past. Compaction starts at twice as many.
    pub history: u64,
    /// Updates below this prefix (heartbeats of nodes, which no client waits for) may be delayed, so that many share a transaction. Other
    /// writes aren't delayed.
    pub deferred_prefix: &'static str,
    /// Maximum delay of such an update.
    pub max_write_delay: Duration,
    /// Revisions of this run are above it, see [`floor`]. Zero: they continue after the last one.
    pub floor: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            history: 10_000,
            deferred_prefix: "/registry/leases.coordination.k8s.io/kube-node-lease/",
            max_write_delay: Duration::from_millis(500),
            floor: 0,
        }
    }
}

/// Average rate of revisions since the creation of a database up to which histories of a restored backup can't overlap.
const REVISIONS_PER_SECOND: u64 = 1 << 16;

/// The first revision of a run that starts at this Unix time: above those of all earlier runs, also of one whose writes a restore has lost.
pub fn floor(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(REVISIONS_PER_SECOND).min(MAX_REVISION)
}

/// Upper limit of [`floor`]; revisions stay below 2^53.
const MAX_REVISION: u64 = 1 << 52;

/// Clones of the handle share the writer thread, which ends with the last of them.
#[derive(Clone)]
pub struct SqliteStore {
    commands: SyncSender<Command>,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the database, making it if there is none.
    ///
    /// # Errors
    /// When the file can't be opened, is damaged, or is no database of ours.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let fail = |e: rusqlite::Error| OpenError { path: path.display().to_string(), reason: e.to_string() };
        let mut connection = open::writer(path)?;
        let revision = skip_to_floor(&mut connection, options.floor).map_err(fail)?;
        let compacted = read_meta(&connection, "compacted").map_err(fail)?;
        let history = history(&connection, compacted).map_err(fail)?;
        let (commands, receiver) = sync_channel(MAX_BATCH_WRITES);
        let writer = Writer { connection, revision, compacted, history, observers: Vec::new(), options };
        let write = move || {
            // What the cache shows may be half done now: only a new process knows what is true.
            let run = std::panic::AssertUnwindSafe(|| writer.run(&receiver));
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the writer of the database panicked; exiting");
                std::process::abort();
            }
        };
        tasks::thread("store-writer", write)
            .map_err(|e| OpenError { path: path.display().to_string(), reason: e.to_string() })?;
        Ok(SqliteStore { commands, path: path.into() })
    }

    async fn send_command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command, gone: impl Fn() -> T) -> T {
        let (answer, answered) = oneshot::channel();
        let command = command(answer);
        let sent = match self.commands.try_send(command) {
            Ok(()) => true,
            // The queue is full: wait for it off the async threads.
            Err(std::sync::mpsc::TrySendError::Full(command)) => {
                let commands = self.commands.clone();
                tokio::task::spawn_blocking(move || commands.send(command).is_ok()).await.unwrap_or(false)
            }
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => false,
        };
        if !sent {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), ReadError> {
        self.send_command(|answer| Command::Attach(observer, answer), || Err(ReadError::Failed("it was closed".into())))
            .await
    }

    async fn write(&self, write: Write) -> Result<u64, WriteError> {
        self.send_command(|answer| Command::Write(write, answer), || Err(WriteError::Failed("it was closed".into())))
            .await
    }

    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError> {
        let (path, prefix, after) = (self.path.clone(), prefix.to_string(), after.to_string());
        let read = tokio::task::spawn_blocking(move || page_at(&path, &prefix, revision, &after, most)).await;
        read.unwrap_or_else(|e| Err(ReadError::Failed(e.to_string())))
    }

    async fn compact(&self, revision: u64) -> Result<(), WriteError> {
        self.send_command(
            |answer| Command::Compact(revision, answer),
            || Err(WriteError::Failed("it was closed".into())),
        )
        .await
    }
}

#[cfg(test)]
mod tests;
