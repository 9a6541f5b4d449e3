//! The end of a write: the store takes it, and the cache shows it.

use std::sync::atomic::Ordering;

use api::Kind;
use apimachinery::{ObjectExt as _, Status};
use bytes::Bytes;
use serde_json::Value;
use store::{Write, WriteError};

use super::steps::Draft;
use super::strategy::is_finished;
use crate::registry::{Entry, encode, object_key, splice, store_key};
use crate::{ApiServer, conversion};

/// Hands a write to the store and waits until the cache shows it.
///
/// # Errors
/// 409 when the object exists already, or is another one than was expected; 404 when it is gone; 500 when the store fails.
async fn commit(server: &ApiServer, kind: &Kind, name: &str, write: Write) -> Result<u64, Status> {
    let written = server.store.write(write).await;
    let fails = matches!(written, Err(WriteError::Full | WriteError::Failed(_)));
    if server.store_fails.swap(fails, Ordering::Relaxed) != fails {
        tracing::warn!(fails, "the readiness of the data store changed");
    }
    let revision = written.map_err(|error| match error {
        WriteError::Exists => kind.already_exists(name),
        WriteError::NotFound => kind.not_found(name),
        WriteError::Conflict { .. } => kind.modified(name),
        other => Status::internal(other),
    })?;
    server.cache.wait_for(revision).await;
    Ok(revision)
}

impl Draft<'_> {
    /// Stores a new object, and returns its bytes in the version of the request.
    ///
    /// # Errors
    /// 409 when it exists already, 413 when it is too large, 500 when the store fails.
    pub(super) async fn commit_create(mut self) -> Result<Bytes, Status> {
        let (server, kind) = (self.request.server, self.request.kind);
        let key = object_key(self.object.namespace(), self.object.name());
        let (canonical, answer) = conversion::encode_stored(server, kind, &mut self.object).await?;
        if self.is_dry_run() {
            if server.cache.stored(kind)?.get(&key).is_some() {
                return Err(kind.already_exists(&self.name));
            }
            return Ok(splice(&answer, server.cache.revision()));
        }
        let write = Write::Create { key: store_key(kind, &key).into(), value: canonical };
        let revision = commit(server, kind, &self.name, write).await?;
        self.commit_allocations();
        Ok(splice(&answer, revision))
    }

    /// Stores what became of `entry`, or removes it when nothing holds it any more, and returns its bytes in the version of the request.
    ///
    /// # Errors
    /// 409 when another write was faster, 413 when it is too large, 500 when the store fails.
    pub(super) async fn commit_update(mut self, entry: &Entry) -> Result<Bytes, Status> {
        let (server, kind) = (self.request.server, self.request.kind);
        // The version is the store's to write; made equal, what is left is what the write changes.
        self.object.set_meta("resourceVersion", self.old.resource_version());
        // What is kept in a version of before is written all the same: so migrations of storage work (KEP-4192).
        let is_older = || kind.has_versions() && entry.parse()["apiVersion"] != server.catalog.stored_version(kind);
        if super::managed::same_but_times(&self.object, &self.old) && !is_older() {
            return Ok(splice(&encode(&self.old), entry.revision));
        }
        let (canonical, answer) = conversion::encode_stored(server, kind, &mut self.object).await?;
        if self.is_dry_run() {
            return Ok(splice(&answer, entry.revision));
        }
        let (_, revision) = self.replace(entry, canonical).await?;
        Ok(splice(&answer, revision))
    }

    /// Removes `entry`, or stores it with the marks of its deletion; returns the object, and whether it is gone.
    ///
    /// # Errors
    /// 409 when another write was faster, 500 when the store fails.
    pub(super) async fn commit_delete(self, entry: &Entry) -> Result<(Value, bool), Status> {
        let gone = is_finished(self.request.kind, &self.object);
        if self.is_dry_run() || (!gone && self.object == self.old) {
            return Ok((self.object, false));
        }
        let canonical = encode(&self.object);
        let (mut object, revision) = self.replace(entry, canonical).await?;
        if !gone {
            object.set_meta("resourceVersion", revision.to_string());
        }
        Ok((object, gone))
    }

    /// Replaces or removes what is stored, and returns the object and its revision.
    async fn replace(mut self, entry: &Entry, canonical: Bytes) -> Result<(Value, u64), Status> {
        let (server, kind) = (self.request.server, self.request.kind);
        let (key, expected) = (store_key(kind, &entry.key).into(), entry.revision);
        let gone = is_finished(kind, &self.object);
        let write =
            if gone { Write::Delete { key, expected } } else { Write::Update { key, value: canonical, expected } };
        let revision = commit(server, kind, &self.name, write).await?;
        if gone {
            server.services.release(kind, &self.old);
        }
        let object = std::mem::take(&mut self.object);
        self.commit_allocations();
        Ok((object, revision))
    }

    /// The object is stored: its addresses and ports stay allocated.
    fn commit_allocations(self) {
        if let Some(lease) = self.lease {
            lease.commit();
        }
    }
}
