//! What was acknowledged survives SIGKILL at any moment.
//!
//! This test runs itself again as a child that writes and reports each acknowledged write; the child is killed at a
//! moment drawn by chance, and the database is looked at. `SEED=n` repeats a run.
#![allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use store::sqlite::Options;
use store::{Change, KeyValue, Observer, ReadError, SqliteStore, Store as _, Write};

const DATABASE: &str = "STORE_KILL9_DATABASE";
const KEYS: u64 = 40;

#[derive(Default)]
struct Content(Mutex<(Vec<KeyValue>, u64)>);

impl Observer for Content {
    fn snapshot(&self, items: Vec<KeyValue>, revision: u64) {
        *self.0.lock() = (items, revision);
    }
    fn changes(&self, _: &[Change]) {}
}

async fn content(store: &SqliteStore) -> (BTreeMap<String, KeyValue>, u64) {
    let seen = Arc::new(Content::default());
    store.attach(seen.clone()).await.unwrap();
    let (items, revision) = std::mem::take(&mut *seen.0.lock());
    (items.into_iter().map(|kv| (kv.key.to_string(), kv)).collect(), revision)
}

fn open(path: &str) -> SqliteStore {
    // A short history, so that compaction is killed in its middle too.
    SqliteStore::open(std::path::Path::new(path), Options { history: 50, ..Options::default() }).unwrap()
}

/// The child: writes for ever, several at a time, and prints `key revision` for what was acknowledged (a deletion as
/// `key revision -`). Ignored as a test of its own.
#[test]
#[ignore = "the child of what_was_acknowledged_survives"]
fn child() {
    let Ok(path) = std::env::var(DATABASE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&path);
        let (present, _) = content(&store).await;
        let tasks: Vec<_> = (0..KEYS)
            .map(|i| {
                let (store, key) = (store.clone(), Arc::<str>::from(format!("/k/{i}")));
                let mut at = present.get(&*key).map(|kv| kv.revision);
                tokio::spawn(async move {
                    for n in 0u64.. {
                        let value = format!("{key} {n} {}", "x".repeat((n as usize * 37) % 3000)).into();
                        let key = key.clone();
                        let write = match at {
                            None => Write::Create { key: key.clone(), value },
                            Some(expected) if n % 7 == 6 => Write::Delete { key: key.clone(), expected },
                            Some(expected) => Write::Update { key: key.clone(), value, expected },
                        };
                        let deletes = matches!(write, Write::Delete { .. });
                        let revision = store.write(write).await.unwrap();
                        at = (!deletes).then_some(revision);
                        println!("\n@ {key} {revision} {}", if deletes { "-" } else { "+" });
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db").display().to_string();
    let mut newest = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(DATABASE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(chance.random_range(20..250)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut acknowledged: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for line in reading.join().unwrap() {
            let words: Vec<&str> = line.split(' ').collect();
            // The last line may have been cut off.
            if let ["@", key, revision, mark @ ("+" | "-")] = words[..] {
                acknowledged.insert(key.into(), (revision.parse().unwrap(), mark == "+"));
            }
        }
        let store = open(&path);
        let (present, revision) = content(&store).await;
        assert!(revision >= newest, "SEED={seed} round {round}: the counter went back from {newest} to {revision}");
        for (key, (at, exists)) in &acknowledged {
            // A later write may have reached the disk without its answer.
            match present.get(key) {
                Some(kv) => assert!(kv.revision >= *at, "SEED={seed} round {round}: {key} is older than {at}"),
                // Deleted by a write whose answer was cut off; then it stands in the history, unless that was cut too.
                None if *exists => match store.list_at(key, *at).await {
                    Ok(past) => {
                        let found = past.iter().any(|kv| *kv.key == **key && kv.revision == *at);
                        assert!(found, "SEED={seed} round {round}: {key} of {at} is lost");
                    }
                    Err(ReadError::Compacted { .. }) => {}
                    Err(error) => panic!("SEED={seed} round {round}: {error}"),
                },
                None => {}
            }
            newest = newest.max(*at);
        }
        for kv in present.values() {
            assert!(
                kv.value.starts_with(kv.key.as_bytes()),
                "SEED={seed} round {round}: {} has another's value",
                kv.key
            );
        }
        newest = newest.max(revision);
    }
    assert!(newest > 1000, "SEED={seed}: only {newest} writes in all rounds: the test has lost its teeth");
}
