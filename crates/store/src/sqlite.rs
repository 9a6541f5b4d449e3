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

mod open;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tokio::sync::oneshot;

pub use open::{keep_verified, verify};

use crate::memory::check;
use crate::{Change, KeyValue, Observer, OpenError, Page, ReadError, Store, Write, WriteError};

/// Limit of writes per transaction.
const MAX_BATCH_WRITES: usize = 1024;
/// Limit of rows that one compaction step deletes.
const COMPACTION_BATCH_ROWS: u64 = 2000;

/// Free pages that stay in the file for further writes.
const MIN_FREE_PAGES: i64 = 1024;

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

enum Command {
    Write(Write, oneshot::Sender<Result<u64, WriteError>>),
    Attach(Arc<dyn Observer>, oneshot::Sender<Result<(), ReadError>>),
    Compact(u64, oneshot::Sender<Result<(), WriteError>>),
}

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

    async fn page_at(&self, prefix: &str, revision: u64, after: &str, most: usize) -> Result<Page, ReadError> {
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

fn read_meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value =
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get::<_, i64>(0)).optional()?;
    Ok(value.unwrap_or(0) as u64)
}

fn write_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")?
        .execute(params![name, value as i64])?;
    Ok(())
}

/// The newest revision, also when compaction has removed its row.
fn last_revision(connection: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<i64> = connection.query_row("SELECT max(revision) FROM kv", [], |r| r.get(0))?;
    Ok((newest.unwrap_or(0) as u64).max(read_meta(connection, "revision")?))
}

/// Skips the revisions between the last one and `floor`, and records that they don't exist.
fn skip_to_floor(connection: &mut Connection, floor: u64) -> rusqlite::Result<u64> {
    let last = last_revision(connection)?;
    if floor <= last {
        return Ok(last);
    }
    let transaction = connection.transaction()?;
    for (name, value) in [("gap_from", last), ("gap_to", floor), ("revision", floor)] {
        write_meta(&transaction, name, value)?;
    }
    transaction.commit()?;
    Ok(floor)
}

/// Number of revisions after the last compacted one.
fn history(connection: &Connection, compacted: u64) -> rusqlite::Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM kv WHERE revision > ?1", [compacted as i64], |r| r.get(0));
    count.map(|count: i64| count as u64)
}

fn page_at(path: &Path, prefix: &str, revision: u64, after: &str, most: usize) -> Result<Page, ReadError> {
    let fail = |e: rusqlite::Error| ReadError::Failed(e.to_string());
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(fail)?;
    // One transaction, so that no compaction comes between the look at what is left and the read.
    let connection = connection.transaction().map_err(fail)?;
    let oldest = read_meta(&connection, "compacted").map_err(fail)?;
    if revision < oldest {
        return Err(ReadError::Compacted { asked: revision, oldest });
    }
    let newest = last_revision(&connection).map_err(fail)?;
    if revision > newest {
        return Err(ReadError::Future { asked: revision, newest });
    }
    // Between two runs no revision was given out: it is of a history that was lost.
    let gap = (read_meta(&connection, "gap_from").map_err(fail)?, read_meta(&connection, "gap_to").map_err(fail)?);
    if gap.0 < revision && revision < gap.1 {
        return Err(ReadError::Compacted { asked: revision, oldest: gap.1 });
    }
    list_present(&connection, prefix, revision, after, most, MAX_PAGE_BYTES).map_err(fail)
}

/// Limit of values in one page of a list.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// The live keys below `prefix` after `after` as of `revision`, at most so many, until their values have so many bytes.
fn list_present(
    connection: &Connection,
    prefix: &str,
    revision: u64,
    after: &str,
    most: usize,
    bytes: usize,
) -> rusqlite::Result<Page> {
    let mut statement = connection.prepare(
        "SELECT key, revision, value FROM kv AS k
         WHERE key >= ?1 AND key < ?2 AND key > ?4 AND deleted = 0 AND revision =
             (SELECT max(revision) FROM kv WHERE key = k.key AND revision <= ?3)
         ORDER BY key",
    )?;
    let end = format!("{prefix}\u{10FFFF}");
    let start = if after > prefix { after } else { prefix };
    let mut rows = statement.query(params![start, end, revision as i64, after])?;
    let (mut items, mut read) = (Vec::new(), 0usize);
    while let Some(row) = rows.next()? {
        if items.len() >= most || read >= bytes {
            return Ok(Page { items, is_cut: true });
        }
        let value = row.get::<_, Vec<u8>>(2)?;
        read = read.saturating_add(value.len());
        let revision = row.get::<_, i64>(1)? as u64;
        items.push(KeyValue { key: row.get::<_, String>(0)?.into(), revision, value: value.into() });
    }
    Ok(Page { items, is_cut: false })
}

struct Writer {
    connection: Connection,
    revision: u64,
    compacted: u64,
    /// How many revisions there are after `compacted`.
    history: u64,
    observers: Vec<Arc<dyn Observer>>,
    options: Options,
}

type PendingWrite = (Write, oneshot::Sender<Result<u64, WriteError>>);

impl Writer {
    /// What belongs into the same transaction as `writes`: what is there already, and if all of them are patient, what comes
    /// until the deadline.
    fn next(&self, commands: &Receiver<Command>, writes: &[PendingWrite], deadline: Instant) -> Option<Command> {
        let is_patient = |(write, _): &PendingWrite| matches!(write, Write::Update { key, .. } if key.starts_with(self.options.deferred_prefix));
        match commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) if writes.iter().all(is_patient) => {
                commands.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
            }
            Err(_) => None,
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        let mut writes: Vec<PendingWrite> = Vec::new();
        while let Ok(first) = commands.recv() {
            let mut next = Some(first);
            let mut other = None;
            let deadline = Instant::now() + self.options.max_write_delay;
            while let Some(command) = next {
                match command {
                    Command::Write(write, answer) => writes.push((write, answer)),
                    command => {
                        other = Some(command);
                        break;
                    }
                }
                next = if writes.len() < MAX_BATCH_WRITES { self.next(commands, &writes, deadline) } else { None };
            }
            self.commit(&mut writes);
            match other {
                Some(Command::Attach(observer, answer)) => {
                    let _ = answer.send(self.attach(observer));
                }
                Some(Command::Compact(revision, answer)) => {
                    let _ = answer.send(self.compact(revision).map_err(write_error));
                }
                Some(Command::Write(..)) | None => {}
            }
            self.compact_if_due();
        }
    }

    fn attach(&mut self, observer: Arc<dyn Observer>) -> Result<(), ReadError> {
        let whole = list_present(&self.connection, "", self.revision, "", usize::MAX, usize::MAX);
        let items = whole.map_err(|e| ReadError::Failed(e.to_string()))?.items;
        observer.snapshot(items, self.revision);
        self.observers.push(observer);
        Ok(())
    }

    /// One transaction for all; each write succeeds or fails by itself unless the commit fails.
    fn commit(&mut self, writes: &mut Vec<PendingWrite>) {
        if writes.is_empty() {
            return;
        }
        let started = self.revision;
        let mut changes = Vec::with_capacity(writes.len());
        let committed = self.transact(writes, &mut changes);
        match committed {
            Ok(results) => {
                if !changes.is_empty() {
                    for observer in &self.observers {
                        observer.changes(&changes);
                    }
                }
                for ((_, answer), result) in writes.drain(..).zip(results) {
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                self.revision = started;
                let error = write_error(error);
                tracing::error!(%error, "failed to commit a transaction");
                for (_, answer) in writes.drain(..) {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn transact(
        &mut self,
        writes: &[PendingWrite],
        changes: &mut Vec<Change>,
    ) -> rusqlite::Result<Vec<Result<u64, WriteError>>> {
        let transaction = self.connection.transaction()?;
        let mut results = Vec::with_capacity(writes.len());
        {
            let mut newest = transaction
                .prepare_cached("SELECT revision, deleted FROM kv WHERE key = ?1 ORDER BY revision DESC LIMIT 1")?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO kv (revision, key, deleted, value) VALUES (?1, ?2, ?3, ?4)")?;
            for (write, _) in writes {
                let row = newest
                    .query_row([write.key().as_ref()], |r| Ok((r.get::<_, i64>(0)? as u64, r.get::<_, bool>(1)?)))
                    .optional()?;
                let current_revision = row.and_then(|(revision, deleted)| (!deleted).then_some(revision));
                if let Err(refused) = check(write, current_revision) {
                    results.push(Err(refused));
                    continue;
                }
                self.revision += 1;
                let value: Option<Bytes> = match write {
                    Write::Create { value, .. } | Write::Update { value, .. } => Some(value.clone()),
                    Write::Delete { .. } => None,
                };
                let bytes = value.as_deref().unwrap_or_default();
                insert.execute(params![self.revision as i64, write.key().as_ref(), value.is_none(), bytes])?;
                changes.push(Change { key: write.key().clone(), revision: self.revision, value });
                results.push(Ok(self.revision));
            }
        }
        transaction.commit()?;
        self.history += changes.len() as u64;
        Ok(results)
    }

    fn compact_if_due(&mut self) {
        if self.history < self.options.history.saturating_mul(2).max(1) {
            return;
        }
        // A step per turn of the loop, so that a waiting writer waits for one step at the most.
        let step = COMPACTION_BATCH_ROWS.min(self.history - self.options.history).max(1);
        let compacted = self.step(step).and_then(|target| self.compact(target));
        if let Err(error) = compacted {
            tracing::warn!(%error, "compaction failed; retrying later");
        }
    }

    /// The revision that is this many after the compacted ones; they don't follow each other without a gap.
    fn step(&self, count: u64) -> rusqlite::Result<u64> {
        let mut nth = self
            .connection
            .prepare_cached("SELECT revision FROM kv WHERE revision > ?1 ORDER BY revision LIMIT 1 OFFSET ?2")?;
        let offset = count.saturating_sub(1) as i64;
        let found = nth.query_row(params![self.compacted as i64, offset], |r| r.get::<_, i64>(0)).optional()?;
        Ok(found.map_or(self.compacted, |revision| revision as u64))
    }

    fn compact(&mut self, revision: u64) -> rusqlite::Result<()> {
        let revision = revision.min(self.revision);
        if revision <= self.compacted {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        // Up to `revision`, a row goes when a newer one of its key stands there too, or when it is a tombstone. The
        // newer one was written after the last compaction, or the row would be gone: so only those are looked at, and
        // the price of a step does not grow with the number of objects.
        let span = params![self.compacted as i64, revision as i64];
        transaction.execute(
            "DELETE FROM kv WHERE revision IN (
                 SELECT old.revision FROM kv AS new JOIN kv AS old ON old.key = new.key AND old.revision < new.revision
                 WHERE new.revision > ?1 AND new.revision <= ?2)",
            span,
        )?;
        transaction.execute("DELETE FROM kv WHERE revision > ?1 AND revision <= ?2 AND deleted = 1", span)?;
        write_meta(&transaction, "compacted", revision)?;
        write_meta(&transaction, "revision", self.revision)?;
        transaction.commit()?;
        self.compacted = revision;
        self.history = history(&self.connection, revision)?;
        self.shrink()
    }

    /// Gives pages back to the disk when most of the file is free. What is free else is for the next writes: giving it back
    /// would mean to move pages, and to ask for it again.
    fn shrink(&self) -> rusqlite::Result<()> {
        let count = |pragma: &str| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let (free, all) = (count("freelist_count")?, count("page_count")?);
        if free < MIN_FREE_PAGES || free * 2 < all {
            return Ok(());
        }
        let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(1000)")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

fn write_error(error: rusqlite::Error) -> WriteError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => WriteError::Full,
        _ => WriteError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
