//! Changing objects.

use apimachinery::{ObjectExt as _, Status};
use bytes::Bytes;
use serde_json::Value;

use super::{CONFLICT_RETRIES, Draft, WriteRequest};
use crate::admission::Operation;
use crate::conversion;

impl WriteRequest<'_> {
    /// Makes the new object from the stored one with `make`, and stores it; returns its bytes. If `make`'s result has a resource version, it
    /// must be that of the stored object; else `make` is called again when another write came first.
    ///
    /// # Errors
    /// 404 without the object, 409 when a precondition fails or other writes are faster again and again, 422 when the new object is
    /// invalid, what `make` refuses, and what admission and the store refuse.
    pub async fn update(&self, make: impl Fn(&Value) -> Result<Value, Status>) -> Result<Bytes, Status> {
        let resource = self.server.cache.stored(self.kind)?;
        for round in 0..=CONFLICT_RETRIES {
            let entry = resource.get(&self.key()).ok_or_else(|| self.kind.not_found(self.name))?;
            let old = conversion::object(self.server, self.kind, entry.parse()).await?;
            let new = make(&old)?;
            self.check_same(&new, &old)?;
            let mut draft = Draft::new(self, Operation::Update, new, old);
            draft.run().await?;
            match draft.commit_update(&entry).await {
                // A writer that names a revision gets the conflict in the next round: it was the current one in this.
                Err(status) if status.reason == "Conflict" && round < CONFLICT_RETRIES => {}
                done => return done,
            }
        }
        Err(self.kind.modified(self.name))
    }

    /// Whether the new object is the stored one as the writer knows it.
    fn check_same(&self, new: &Value, old: &Value) -> Result<(), Status> {
        if new.name() != old.name() {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                new.name(),
                old.name()
            )));
        }
        if !new.resource_version().is_empty() && new.resource_version() != old.resource_version() {
            return Err(self.kind.modified(self.name));
        }
        if !new.uid().is_empty() && new.uid() != old.uid() {
            let why =
                format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
            return Err(self.kind.conflict(self.name, &why));
        }
        Ok(())
    }
}
