//! Cuts off history, a batch at a time so that writers don't wait, and gives free pages back to the file system.

use rusqlite::{OptionalExtension as _, params};

use super::rows::{history, write_meta};
use super::writer::Writer;

/// Limit of rows that one compaction step deletes.
const COMPACTION_BATCH_ROWS: u64 = 2000;

/// Free pages that stay in the file for further writes.
const MIN_FREE_PAGES: i64 = 1024;

impl Writer {
    pub(super) fn compact_if_due(&mut self) {
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

    pub(super) fn compact(&mut self, revision: u64) -> rusqlite::Result<()> {
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
