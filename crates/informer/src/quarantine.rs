//! Objects whose handling ends the whole process are found out and left alone.
//!
//! A panic is caught where it happens, but memory that is exhausted or a stack that overflows ends the process, and at its
//! next start the same object would end it again. So the key of every object that is being handled stands in a small
//! file, the record; it is in the run folder, and outlives the process. After a crash, and only then (`follows_crash`), those
//! keys are *suspects*: they are handled one at a time, so that a second crash has one cause alone. A key with two crashes is
//! *quarantined*: it isn't handled until its object changes, which gives it one more try.
//!
//! Cost: two writes of at most 256 bytes to a file in memory for each time that an object is handled.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use apimachinery::clock;
use parking_lot::Mutex;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

/// Bytes of the record that one key has.
const SLOT_BYTES: usize = 256;
/// The most slots that are read of a record.
const MOST_SLOTS: usize = 16 << 10;
/// With as many crashes an object is quarantined.
const CRASHES_TO_QUARANTINE: u32 = 2;
/// A suspect that caused no second crash within this many seconds is none any more.
const SUSPICION_SECONDS: i64 = 600;

/// `timonel_quarantined_objects`: objects that this process leaves alone.
static QUARANTINED: LazyLock<IntGauge> = LazyLock::new(|| {
    let gauge = IntGauge::new(
        "timonel_quarantined_objects",
        "Objects whose handling ended the process twice and that are left alone",
    )
    .unwrap_or_else(|error| unreachable!("the name is well-formed: {error}"));
    let _ = prometheus::register(Box::new(gauge.clone()));
    gauge
});

/// The quarantine of this process, for control loops; without one nothing is recorded.
static OF_PROCESS: OnceLock<Quarantine> = OnceLock::new();

/// Makes `quarantine` the one of all control loops of this process. Only the first call has an effect.
pub fn install(quarantine: Quarantine) {
    let _ = OF_PROCESS.set(quarantine);
}

/// The quarantine of this process' control loops.
pub fn of_process() -> Quarantine {
    OF_PROCESS.get().cloned().unwrap_or_default()
}

/// A key or version as the record has room for it. Of longer ones the end is a digest, so that no two are the same and what the record says is
/// found again.
fn short(text: &str) -> Cow<'_, str> {
    const ROOM: usize = SLOT_BYTES / 2 - 1;
    if text.len() <= ROOM && !text.contains('\0') {
        return text.into();
    }
    let mut digest = std::hash::DefaultHasher::new();
    text.hash(&mut digest);
    let digest = format!("…{:016x}", digest.finish());
    let mut end = ROOM - digest.len();
    while !text.is_char_boundary(end.min(text.len())) {
        end -= 1;
    }
    format!("{}{digest}", &text[..end.min(text.len())]).replace('\0', "").into()
}

/// What is known of an object that was being handled when the process crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    pub crashes: u32,
    /// The version of the object at its last try, as whoever handles it counts versions.
    pub version: String,
    /// Unix time of the last crash, in seconds.
    pub since: i64,
}

impl Suspect {
    pub fn is_quarantined(&self) -> bool {
        self.crashes >= CRASHES_TO_QUARANTINE
    }
}

/// The record of what is being handled, and the suspects. Clones share it.
#[derive(Clone, Default)]
pub struct Quarantine {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// None in tests and where no folder can be written: then nothing outlives the process.
    record: Option<File>,
    free: Mutex<Slots>,
    suspects: Mutex<BTreeMap<String, Suspect>>,
    file: Option<PathBuf>,
    /// Held by the one suspect that is being handled.
    trial: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Slots {
    free: Vec<usize>,
    used: usize,
}

/// Stands for the handling of an object; it ends when this is dropped.
pub struct Handling {
    quarantine: Quarantine,
    slot: Option<usize>,
    _trial: Option<OwnedMutexGuard<()>>,
}

impl Drop for Handling {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.quarantine.inner.write(slot, &[0]);
            self.quarantine.inner.free.lock().free.push(slot);
        }
    }
}

impl Inner {
    fn write(&self, slot: usize, bytes: &[u8]) {
        let Some(record) = &self.record else { return };
        let place = slot.saturating_mul(SLOT_BYTES) as u64;
        if let Err(error) = record.write_all_at(bytes, place) {
            tracing::debug!(%error, "failed to write the record of objects that are being reconciled");
        }
    }
}

/// The keys that a record holds: `KEY\0VERSION\0` at the start of each slot in use.
fn read_record(path: &Path) -> Vec<(String, String)> {
    let mut bytes = vec![0; SLOT_BYTES * MOST_SLOTS];
    let read = File::open(path).and_then(|file| file.read_at(&mut bytes, 0)).unwrap_or(0);
    bytes.truncate(read);
    let keys = bytes.chunks(SLOT_BYTES).filter_map(|slot| {
        let mut parts = slot.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        let key = parts.next().filter(|key| !key.is_empty())?;
        Some((key, parts.next().unwrap_or_default()))
    });
    keys.collect()
}

impl Quarantine {
    /// Begins a new record at `record`, in the place of that of the process before this one, and keeps the suspects in the file `suspects`.
    /// `follows_crash` says whether that process crashed: then what it was handling is suspect.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn open(record: &Path, suspects: &Path, follows_crash: bool) -> std::io::Result<Self> {
        let was_handled = if follows_crash { read_record(record) } else { Vec::new() };
        let mut known = Self::read(suspects);
        let now = clock::now().as_second();
        known.retain(|_, s| s.is_quarantined() || now.saturating_sub(s.since) < SUSPICION_SECONDS);
        for (key, version) in was_handled {
            let crashes = known.get(&key).map_or(0, |s| s.crashes).saturating_add(1);
            known.insert(key, Suspect { crashes, version, since: now });
        }
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(record)?;
        let quarantine = Quarantine {
            inner: Arc::new(Inner {
                record: Some(file),
                suspects: Mutex::new(known),
                file: Some(suspects.into()),
                ..Inner::default()
            }),
        };
        quarantine.save();
        for (key, suspect) in quarantine.suspects() {
            let is_quarantined = suspect.is_quarantined();
            tracing::error!(
                key,
                suspect.crashes,
                is_quarantined,
                "the process crashed while it reconciled this object"
            );
        }
        Ok(quarantine)
    }

    /// Begins to handle the object `key` in its `version`. None if it is quarantined and hasn't changed since its last try. A suspect waits until
    /// no other suspect is being handled.
    pub async fn enter(&self, key: &str, version: &str) -> Option<Handling> {
        let (key, version) = (&*short(key), &*short(version));
        let is_suspect = {
            let mut suspects = self.inner.suspects.lock();
            match suspects.get_mut(key) {
                Some(suspect) if suspect.is_quarantined() && suspect.version == version => return None,
                Some(suspect) if suspect.is_quarantined() => {
                    suspect.version = version.into();
                    true
                }
                Some(suspect) => clock::now().as_second().saturating_sub(suspect.since) < SUSPICION_SECONDS,
                None => false,
            }
        };
        let trial = if is_suspect { Some(self.inner.trial.clone().lock_owned().await) } else { None };
        Some(Handling { quarantine: self.clone(), slot: self.note(key, version), _trial: trial })
    }

    /// Writes the key into a free slot of the record.
    fn note(&self, key: &str, version: &str) -> Option<usize> {
        self.inner.record.as_ref()?;
        let slot = {
            let mut slots = self.inner.free.lock();
            slots.free.pop().or_else(|| {
                let next = Some(slots.used).filter(|slot| *slot < MOST_SLOTS)?;
                slots.used += 1;
                Some(next)
            })?
        };
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        for part in [key, version] {
            bytes.extend_from_slice(part.as_bytes());
            bytes.push(0);
        }
        self.inner.write(slot, &bytes);
        Some(slot)
    }

    /// Counts a panic of the object's handling, which was caught. Whether it is quarantined now.
    pub fn panicked(&self, key: &str, version: &str) -> bool {
        let (key, version) = (short(key), short(version));
        let is_quarantined = {
            let mut suspects = self.inner.suspects.lock();
            let crashes = suspects.get(&*key).map_or(0, |s| s.crashes).saturating_add(1);
            let suspect = Suspect { crashes, version: version.into(), since: clock::now().as_second() };
            suspects.entry(key.into()).insert_entry(suspect).get().is_quarantined()
        };
        self.save();
        is_quarantined
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, key: &str) {
        if self.inner.suspects.lock().remove(&*short(key)).is_some() {
            self.save();
        }
    }

    /// Reads the suspects that a process keeps in `file`.
    pub fn read(file: &Path) -> BTreeMap<String, Suspect> {
        let text = bounded::bytes(file, bounded::OWN).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// All suspects, the quarantined ones among them.
    pub fn suspects(&self) -> BTreeMap<String, Suspect> {
        self.inner.suspects.lock().clone()
    }

    fn save(&self) {
        let count = self.inner.suspects.lock().values().filter(|s| s.is_quarantined()).count();
        QUARANTINED.set(i64::try_from(count).unwrap_or(i64::MAX));
        let Some(file) = &self.inner.file else { return };
        let text = serde_json::to_vec(&*self.inner.suspects.lock()).unwrap_or_default();
        if let Err(error) = bounded::durable::replace(file, &text) {
            tracing::warn!(%error, "failed to write {}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, follows_crash: bool) -> Quarantine {
        Quarantine::open(&folder.join("record"), &folder.join("suspects.json"), follows_crash).unwrap()
    }

    #[tokio::test]
    async fn object_that_was_handled_in_two_crashes_is_left_alone_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), false);
        let handled = first.enter("pod/a", "1").await.unwrap();
        drop(first.enter("pod/done", "1").await.unwrap());
        // The process crashes: nothing is dropped in order.
        std::mem::forget(handled);
        let second = open(folder.path(), true);
        assert_eq!(second.suspects().keys().collect::<Vec<_>>(), ["pod/a"]);
        let handled = second.enter("pod/a", "1").await.unwrap();
        std::mem::forget(handled);
        let third = open(folder.path(), true);
        assert!(third.enter("pod/a", "1").await.is_none());
        assert!(third.enter("pod/b", "1").await.is_some());
        // It is so at later starts, too, whatever their reason.
        let fourth = open(folder.path(), false);
        assert!(fourth.enter("pod/a", "1").await.is_none());
        // What was changed has one more try.
        let handled = fourth.enter("pod/a", "2").await.unwrap();
        std::mem::forget(handled);
        let fifth = open(folder.path(), true);
        assert!(fifth.enter("pod/a", "2").await.is_none());
        fifth.forget("pod/a");
        assert!(open(folder.path(), false).suspects().is_empty());
    }

    #[tokio::test]
    async fn a_long_name_is_no_way_around() {
        let folder = tempfile::tempdir().unwrap();
        // The longest names of a namespace and an object, with and without characters of several bytes.
        for letter in ["x", "ä"] {
            let key = |end: &str| format!("controller {}/{}{end}", "n".repeat(63), letter.repeat(251));
            for _ in 0..2 {
                std::mem::forget(open(folder.path(), true).enter(&key("a"), &"v".repeat(500)).await);
            }
            let third = open(folder.path(), true);
            assert!(third.enter(&key("a"), &"v".repeat(500)).await.is_none());
            assert!(third.enter(&key("b"), "").await.is_some(), "another with the same beginning");
            assert!(third.enter(&key("a"), &"v".repeat(501)).await.is_some(), "it has changed");
            third.forget(&key("a"));
        }
    }

    #[tokio::test]
    async fn what_was_handled_when_somebody_killed_the_process_is_no_suspect() {
        let folder = tempfile::tempdir().unwrap();
        std::mem::forget(open(folder.path(), false).enter("pod/a", "1").await);
        assert!(open(folder.path(), false).suspects().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_are_handled_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), false);
        std::mem::forget((first.enter("a", "").await, first.enter("b", "").await));
        let second = open(folder.path(), true);
        let of_a = second.enter("a", "").await.unwrap();
        let wait = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, second.enter("b", "")).await.is_err());
        assert!(tokio::time::timeout(wait, second.enter("c", "")).await.is_ok());
        drop(of_a);
        assert!(tokio::time::timeout(wait, second.enter("b", "")).await.is_ok());
    }

    #[test]
    fn panics_count_like_crashes() {
        let quarantine = Quarantine::default();
        assert!(!quarantine.panicked("a", "1"));
        assert!(quarantine.panicked("a", "1"));
    }
}
