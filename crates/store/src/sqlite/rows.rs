//! Reads and marks of the table.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::{KeyValue, Most, Page, ReadError};

pub(super) fn read_meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value =
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get::<_, i64>(0)).optional()?;
    Ok(value.unwrap_or(0) as u64)
}

pub(super) fn write_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")?
        .execute(params![name, value as i64])?;
    Ok(())
}

/// The newest revision, also when compaction has removed its row.
pub(super) fn last_revision(connection: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<i64> = connection.query_row("SELECT max(revision) FROM kv", [], |r| r.get(0))?;
    Ok((newest.unwrap_or(0) as u64).max(read_meta(connection, "revision")?))
}

/// Skips the revisions between the last one and `floor`, and records that they don't exist.
pub(super) fn skip_to_floor(connection: &mut Connection, floor: u64) -> rusqlite::Result<u64> {
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
pub(super) fn history(connection: &Connection, compacted: u64) -> rusqlite::Result<u64> {
    let count = connection.query_row("SELECT count(*) FROM kv WHERE revision > ?1", [compacted as i64], |r| r.get(0));
    count.map(|count: i64| count as u64)
}

pub(super) fn page_at(path: &Path, prefix: &str, revision: u64, after: &str, most: Most) -> Result<Page, ReadError> {
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
    list_present(&connection, prefix, revision, after, most).map_err(fail)
}

/// The live keys below `prefix` after `after` as of `revision`, at most so many.
pub(super) fn list_present(
    connection: &Connection,
    prefix: &str,
    revision: u64,
    after: &str,
    most: Most,
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
        if items.len() >= most.keys || read >= most.bytes {
            return Ok(Page { items, is_cut: true });
        }
        let value = row.get::<_, Vec<u8>>(2)?;
        read = read.saturating_add(value.len());
        let revision = row.get::<_, i64>(1)? as u64;
        items.push(KeyValue { key: row.get::<_, String>(0)?.into(), revision, value: value.into() });
    }
    Ok(Page { items, is_cut: false })
}
