//! The thread that writes: it carries out all waiting writes in one transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::oneshot;

use super::Options;
use super::rows::list_present;
use crate::memory::check;
use crate::{Change, Most, Observer, ReadError, Write, WriteError};

/// Limit of writes per transaction.
pub(super) const MAX_BATCH_WRITES: usize = 1024;

pub(super) enum Command {
    Write(Write, oneshot::Sender<Result<u64, WriteError>>),
    Attach(Arc<dyn Observer>, oneshot::Sender<Result<(), ReadError>>),
    Compact(u64, oneshot::Sender<Result<(), WriteError>>),
}

pub(super) struct Writer {
    pub connection: Connection,
    pub revision: u64,
    pub compacted: u64,
    /// How many revisions there are after `compacted`.
    pub history: u64,
    pub observers: Vec<Arc<dyn Observer>>,
    pub options: Options,
}

pub(super) type PendingWrite = (Write, oneshot::Sender<Result<u64, WriteError>>);

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

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
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
        let whole = list_present(&self.connection, "", self.revision, "", Most { keys: usize::MAX, bytes: usize::MAX });
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
}

fn write_error(error: rusqlite::Error) -> WriteError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => WriteError::Full,
        _ => WriteError::Failed(error.to_string()),
    }
}
