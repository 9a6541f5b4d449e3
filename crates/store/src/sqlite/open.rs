//! How a database is opened: what it is, and whether it is whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::OpenError;

/// The shape of the tables, as `user_version` in the file says it. Zero is said by files from before it was written down, and by
/// new ones.
const SCHEMA_VERSION: i64 = 1;

/// Files up to this size are checked before they are used (measured: a tenth of a second, and what the disk takes to read them),
/// larger ones while they are.
const MAX_BLOCKING_CHECK_BYTES: u64 = 256 << 20;
/// Between two checks.
const INTEGRITY_CHECK_PERIOD: Duration = Duration::from_secs(24 * 3600);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS kv (
        revision INTEGER PRIMARY KEY,
        key      TEXT NOT NULL,
        deleted  INTEGER NOT NULL,
        value    BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS kv_key ON kv (key, revision);
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// Opens the connection that writes.
pub fn writer(path: &Path) -> Result<Connection, OpenError> {
    let refuse = |reason: String| OpenError { path: path.display().to_string(), reason };
    let fail = |error: rusqlite::Error| refuse(explain(&error));
    let size = std::fs::metadata(path).map_or(0, |file| file.len());
    let connection = Connection::open(path).map_err(fail)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    if version > SCHEMA_VERSION {
        return Err(refuse(format!(
            "a newer timonel wrote it (its tables have version {version}, this one knows them up to {SCHEMA_VERSION}): start that one, or put back a copy from before the upgrade"
        )));
    }
    if size > 0 && size <= MAX_BLOCKING_CHECK_BYTES {
        check(&connection).map_err(refuse)?;
    }
    prepare(&connection).map_err(fail)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // Takes effect only on a new file, before the first table.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "busy_timeout", 10_000)?;
    connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.set_prepared_statement_cache_capacity(16);
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)
}

/// Checks a large database now, and every one once a day, as long as the process lives.
pub async fn keep_verified(path: PathBuf) {
    let size = std::fs::metadata(&path).map_or(0, |file| file.len());
    if size <= MAX_BLOCKING_CHECK_BYTES {
        tokio::time::sleep(INTEGRITY_CHECK_PERIOD).await;
    }
    loop {
        let of = path.clone();
        match tokio::task::spawn_blocking(move || verify(&of)).await {
            Ok(Err(reason)) => {
                tracing::error!(database = %path.display(), reason, "the database is damaged: stop the server and restore it from a backup before more is lost");
            }
            Ok(Ok(())) | Err(_) => tracing::debug!("the integrity check of the database passed"),
        }
        tokio::time::sleep(INTEGRITY_CHECK_PERIOD).await;
    }
}

/// Looks through the whole database for pages that don't fit together. It reads beside the one that writes.
///
/// # Errors
/// Says what is damaged, and what can be done.
pub fn verify(path: &Path) -> Result<(), String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| explain(&e))?;
    check(&connection)
}

fn check(connection: &Connection) -> Result<(), String> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| explain(&e))?;
    if said == "ok" { Ok(()) } else { Err(damaged(&said)) }
}

fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(&error.to_string()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{error}: another process, most likely another server, has it open")
        }
        _ => error.to_string(),
    }
}

fn damaged(what: &str) -> String {
    format!(
        "it is damaged ({}): put a copy from before back (with its -wal file, if it has one), or save what can be read, with: sqlite3 state.db .recover | sqlite3 new.db; look for a disk that fails",
        what.trim().replace('\n', "; ")
    )
}
