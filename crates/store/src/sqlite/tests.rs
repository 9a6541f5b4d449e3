use parking_lot::Mutex;
use rusqlite::Connection;

use super::*;
use crate::{Change, KeyValue};

#[derive(Default)]
struct Seen {
    items: Mutex<Vec<KeyValue>>,
    changes: Mutex<Vec<Change>>,
}

impl Observer for Seen {
    fn snapshot(&self, items: Vec<KeyValue>, _revision: u64) {
        *self.items.lock() = items;
    }
    fn changes(&self, batch: &[Change]) {
        self.changes.lock().extend_from_slice(batch);
    }
}

fn create(key: &str, value: &str) -> Write {
    Write::Create { key: key.into(), value: value.to_string().into() }
}
fn update(key: &str, value: &str, expected: u64) -> Write {
    Write::Update { key: key.into(), value: value.to_string().into(), expected }
}
fn texts(items: &[KeyValue]) -> Vec<String> {
    items.iter().map(|kv| format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.revision)).collect()
}

fn open(dir: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&dir.path().join("db"), Options { history: 10, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn writes_are_compare_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert_eq!(store.write(create("/a", "1")).await, Ok(1));
    assert_eq!(store.write(create("/a", "2")).await, Err(WriteError::Exists));
    assert_eq!(store.write(update("/a", "2", 7)).await, Err(WriteError::Conflict { actual: 1 }));
    assert_eq!(store.write(update("/a", "2", 1)).await, Ok(2));
    assert_eq!(store.write(Write::Delete { key: "/a".into(), expected: 2 }).await, Ok(3));
    assert_eq!(store.write(update("/a", "2", 3)).await, Err(WriteError::NotFound));
    assert_eq!(store.write(create("/a", "3")).await, Ok(4));
}

#[tokio::test]
async fn past_is_read_in_pages_of_so_many_keys_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for key in ["/a/1", "/a/2", "/a/3", "/b/1"] {
        store.write(create(key, "old")).await.unwrap();
    }
    store.write(update("/a/2", "new", 2)).await.unwrap();
    let page = async |after: &str, most| {
        let page = store.page_at("/a/", 4, after, Most { keys: most, ..Most::PLENTY }).await.unwrap();
        (texts(&page.items), page.is_cut)
    };
    assert_eq!(page("", 2).await, (vec!["/a/1=old@1".into(), "/a/2=old@2".into()], true));
    assert_eq!(page("/a/2", 2).await, (vec!["/a/3=old@3".into()], false));
    assert_eq!(page("/a/3", 2).await, (Vec::new(), false));
    assert!(store.list_at("/a/", 4).await.unwrap().len() == 3);
    let connection = Connection::open(&store.path).unwrap();
    let by_bytes = rows::list_present(&connection, "/a/", 4, "", Most { keys: 10, bytes: 4 }).unwrap();
    assert_eq!((by_bytes.items.len(), by_bytes.is_cut), (2, true), "the bytes are used up");
}

#[tokio::test]
async fn past_is_readable_until_it_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.write(create("/a/x", "1")).await.unwrap();
    store.write(create("/a/y", "1")).await.unwrap();
    store.write(update("/a/x", "2", 1)).await.unwrap();
    store.write(Write::Delete { key: "/a/y".into(), expected: 2 }).await.unwrap();
    assert_eq!(texts(&store.list_at("/a/", 2).await.unwrap()), ["/a/x=1@1", "/a/y=1@2"]);
    assert_eq!(texts(&store.list_at("/a/", 4).await.unwrap()), ["/a/x=2@3"]);
    store.compact(3).await.unwrap();
    assert_eq!(store.list_at("/a/", 2).await, Err(ReadError::Compacted { asked: 2, oldest: 3 }));
    assert_eq!(texts(&store.list_at("/a/", 3).await.unwrap()), ["/a/x=2@3", "/a/y=1@2"]);
    assert_eq!(store.list_at("/a/", 9).await, Err(ReadError::Future { asked: 9, newest: 4 }));
}

#[tokio::test]
async fn observer_sees_everything_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.write(create("/a", "1")).await.unwrap();
    let seen = Arc::new(Seen::default());
    store.attach(seen.clone()).await.unwrap();
    let writers: Vec<_> = (0..50)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.write(create(&format!("/b/{i}"), "1")).await.unwrap() })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..52).collect::<Vec<_>>());
    assert_eq!(texts(&seen.items.lock()), ["/a=1@1"]);
    assert_eq!(seen.changes.lock().iter().map(|c| c.revision).collect::<Vec<_>>(), (2..52).collect::<Vec<_>>());
}

#[tokio::test]
async fn revision_survives_reopening_after_compaction_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(&dir);
        store.write(create("/a", "1")).await.unwrap();
        store.write(Write::Delete { key: "/a".into(), expected: 1 }).await.unwrap();
        store.compact(2).await.unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.write(create("/b", "1")).await, Ok(3));
}

#[tokio::test]
async fn history_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("db"), Options { history: 100, ..Options::default() }).unwrap();
    let mut revision = store.write(create("/a", "0")).await.unwrap();
    for i in 0..1000 {
        revision = store.write(update("/a", &i.to_string(), revision)).await.unwrap();
    }
    let connection = Connection::open(dir.path().join("db")).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM kv", [], |r| r.get(0)).unwrap();
    assert!(rows <= 202, "{rows} rows are left of 1001");
    assert_eq!(texts(&store.list_at("/", revision).await.unwrap()), ["/a=999@1001"]);
}

#[tokio::test]
async fn heartbeats_wait_for_company_and_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    // As good as for ever: only company brings them to the disk.
    let options = Options {
        deferred_prefix: "/beat/",
        max_write_delay: std::time::Duration::from_secs(3600),
        ..Options::default()
    };
    let store = SqliteStore::open(&dir.path().join("db"), options).unwrap();
    for name in ["/beat/a", "/beat/b"] {
        // Only updates are patient.
        store.write(create(name, "0")).await.unwrap();
    }
    let (first, second) = (store.clone(), store.clone());
    let first = tokio::spawn(async move { first.write(update("/beat/a", "1", 1)).await });
    let second = tokio::spawn(async move { second.write(update("/beat/b", "1", 2)).await });
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && !second.is_finished());
    let other = store.write(create("/other", "1")).await.unwrap();
    assert_eq!((first.await.unwrap().unwrap() + second.await.unwrap().unwrap(), other), (3 + 4, 5));
}

/// A copy of a database that is put back gives no revision that clients saw a second meaning.
#[tokio::test]
async fn a_restored_database_begins_above_the_history_that_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("db"), dir.path().join("copy"));
    let open = |path: &Path, seconds| {
        SqliteStore::open(path, Options { history: 10, floor: floor(seconds), ..Options::default() }).unwrap()
    };
    let first = open(&file, 100).write(create("/a", "1")).await.unwrap();
    assert_eq!(first, floor(100) + 1);
    let connection = Connection::open(&file).unwrap();
    connection.execute("VACUUM INTO ?1", [copy.display().to_string()]).unwrap();
    drop(connection);
    let lost = open(&file, 150).write(update("/a", "lost", first)).await.unwrap();
    let restored = open(&copy, 200);
    assert_eq!(restored.write(create("/b", "2")).await, Ok(floor(200) + 1));
    // What was read before the copy is still to be had, what was written after it never was.
    assert_eq!(texts(&restored.list_at("/", first).await.unwrap()), [format!("/a=1@{first}")]);
    assert_eq!(restored.list_at("/", lost).await, Err(ReadError::Compacted { asked: lost, oldest: floor(200) }));
    // A clock that was set back moves nothing back.
    drop(restored);
    assert_eq!(open(&copy, 50).write(create("/c", "3")).await, Ok(floor(200) + 2));
}

#[tokio::test]
async fn history_is_bounded_over_many_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut revision = 0;
    for start in 1..=20 {
        let options = Options { history: 10, floor: floor(start * 1000), ..Options::default() };
        let store = SqliteStore::open(&dir.path().join("db"), options).unwrap();
        for i in 0..10 {
            let write = if revision == 0 { create("/a", "0") } else { update("/a", &i.to_string(), revision) };
            revision = store.write(write).await.unwrap();
        }
        // Its thread has done what is due before it answers, so that the next one has the file to itself.
        store.compact(0).await.unwrap();
    }
    let rows: i64 = Connection::open(dir.path().join("db"))
        .unwrap()
        .query_row("SELECT count(*) FROM kv", [], |r| r.get(0))
        .unwrap();
    assert!(rows <= 21, "{rows} rows are left of 200");
}

#[tokio::test]
async fn damaged_and_newer_databases_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    {
        let store = open(&dir);
        for i in 0..200 {
            store.write(create(&format!("/{i}"), &"x".repeat(1000))).await.unwrap();
        }
    }
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
    assert_eq!(version, 1);
    connection.pragma_update(None, "user_version", 2).unwrap();
    drop(connection);
    let refusal = || SqliteStore::open(&path, Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(refusal().contains("a newer timonel wrote it"), "{}", refusal());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 0).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4 * 4096].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    assert!(refusal().contains("it is damaged"), "{}", refusal());
    assert!(verify(&path).unwrap_err().contains("put a copy from before back"));
    std::fs::write(&path, b"this is no database at all, whatever it may be").unwrap();
    assert!(refusal().contains("it is damaged"), "{}", refusal());
}
