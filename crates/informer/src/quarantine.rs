//! Objects whose handling ends the whole process are found out and left alone.
//!
//! A panic is caught where it happens, but memory that is exhausted or a stack that overflows ends the process, and at its
//! next start the same object would end it again. So the key of every object that is being handled stands in a small
//! file, the record; it is in the run folder, and outlives the process. After a crash, and only then (`follows_crash`), those
//! keys are *suspects*: they are handled one at a time, so that a second crash has one cause alone. Panics that were caught count
//! like crashes, for kubelet and work queues alike. A key with two of either is *quarantined*: it isn't handled until its object
//! changes, which gives it one more try; the more tries end so, the longer it waits for the next one at least.
//!
//! Cost: two writes of at most 256 bytes to a file in memory for each time that an object is handled.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
/// How long a quarantined object is left alone at least, whatever changes; it doubles with each crash, up to a day.
const LEAST_SECONDS: i64 = 60;
const LONGEST_SECONDS: i64 = 24 * 3600;
/// The most suspects that are known at a time; the oldest are forgotten first.
const MOST_SUSPECTS: usize = 4096;
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
    /// The version of the object at its last try ([`version_of`]), empty if it isn't known.
    pub version: String,
    /// Unix time of the last crash, in seconds.
    pub since: i64,
    /// Whether these were panics that were caught, and the process went on.
    #[serde(default)]
    pub caught: bool,
}

/// Ends the version of an object that is to be deleted.
const DELETED: &str = " deleted";

/// What counts as a change of an object: its spec's generation, or anything where it has none, and that it is to be deleted or is gone.
pub fn version_of(meta: Option<&ObjectMeta>) -> String {
    let Some(meta) = meta else { return "gone".into() };
    let uid = meta.uid.as_deref().unwrap_or_default();
    let deleted = if meta.deletion_timestamp.is_some() { DELETED } else { "" };
    match meta.generation.filter(|generation| *generation > 0) {
        Some(generation) => format!("{uid} {generation}{deleted}"),
        None => format!("{uid} r{}{deleted}", meta.resource_version.as_deref().unwrap_or_default()),
    }
}

/// Why an object isn't handled now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// It may be tried again after such a time; otherwise only after a change.
    pub again: Option<Duration>,
    pub crashes: u32,
    pub caught: bool,
}

impl Suspect {
    pub fn is_quarantined(&self) -> bool {
        self.crashes >= CRASHES_TO_QUARANTINE
    }

    /// The time that it is still left alone, whatever changes.
    fn rest(&self, now: i64) -> Option<Duration> {
        let doubled = self.crashes.saturating_sub(CRASHES_TO_QUARANTINE).min(20);
        let least = LEAST_SECONDS.saturating_mul(1 << doubled).min(LONGEST_SECONDS);
        // A clock that was set back meanwhile makes no longer wait of it.
        let rest = least.saturating_sub(now.saturating_sub(self.since)).min(least);
        u64::try_from(rest).ok().filter(|rest| *rest > 0).map(Duration::from_secs)
    }

    /// Whether it may be tried now, in this version; a try is noted.
    fn may_be_tried(&mut self, version: &str, now: i64) -> Result<(), LeftAlone> {
        if !self.is_quarantined() {
            return Ok(());
        }
        let no = |again| Err(LeftAlone { again, crashes: self.crashes, caught: self.caught });
        let is_changed = if self.version.is_empty() { self.caught } else { self.version != version };
        if !is_changed {
            if self.version.is_empty() {
                self.version = version.into();
            }
            return no(None);
        }
        // An object is deleted and gone once only, and nobody who deletes it is to wait.
        let is_last = version == "gone" || version.ends_with(DELETED);
        if let Some(rest) = self.rest(now).filter(|_| !is_last) {
            return no(Some(rest));
        }
        if !self.version.is_empty() {
            self.version = version.into();
        }
        Ok(())
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
    /// If it is a suspect's.
    trial: Option<(String, OwnedMutexGuard<()>)>,
}

impl Drop for Handling {
    fn drop(&mut self) {
        if let Some((key, _)) = &self.trial
            && !std::thread::panicking()
        {
            self.quarantine.succeeded(key);
        }
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
            known.insert(key, Suspect { crashes, version, since: now, caught: false });
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

    /// Begins to handle the object `key`; `version` says its version, and is asked only if it is suspect. A suspect waits until no other
    /// suspect is being handled.
    ///
    /// # Errors
    /// If it is quarantined, and didn't change since its last try or not long enough ago.
    pub async fn enter(&self, key: &str, version: impl FnOnce() -> String) -> Result<Handling, LeftAlone> {
        let (key, now) = (&*short(key), clock::now().as_second());
        let of_suspect = {
            let mut suspects = self.inner.suspects.lock();
            match suspects.get_mut(key) {
                Some(suspect) => {
                    let version = short(&version()).into_owned();
                    suspect.may_be_tried(&version, now)?;
                    Some(version)
                }
                None => None,
            }
        };
        let Some(version) = of_suspect else {
            return Ok(Handling { quarantine: self.clone(), slot: self.note(key, ""), trial: None });
        };
        let trial = Some((key.to_string(), self.inner.trial.clone().lock_owned().await));
        Ok(Handling { quarantine: self.clone(), slot: self.note(key, &version), trial })
    }

    /// A suspect was handled to the end: it isn't quarantined any more, nor are its panics in a row. One that the process crashed with once
    /// is suspect for a while, as it may have been another's fault.
    fn succeeded(&self, key: &str) {
        let is_settled = |s: &Suspect| {
            s.caught || s.is_quarantined() || clock::now().as_second().saturating_sub(s.since) >= SUSPICION_SECONDS
        };
        let removed = {
            let mut suspects = self.inner.suspects.lock();
            suspects.get(key).is_some_and(is_settled) && suspects.remove(key).is_some()
        };
        if removed {
            self.save();
        }
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

    /// Counts a panic of the object's handling, which was caught; an empty `version` says that anything may be a change. Whether it is quarantined now.
    pub fn panicked(&self, key: &str, version: &str) -> bool {
        let (key, version) = (short(key), short(version));
        let is_quarantined = {
            let mut suspects = self.inner.suspects.lock();
            let before = suspects.get(&*key);
            let crashes = before.map_or(0, |s| s.crashes).saturating_add(1);
            let caught = before.is_none_or(|s| s.caught);
            let since = clock::now().as_second();
            if before.is_none() && suspects.len() >= MOST_SUSPECTS {
                let oldest = suspects.iter().min_by_key(|(_, s)| s.since).map(|(key, _)| key.clone());
                oldest.map(|key| suspects.remove(&key));
            }
            suspects.insert(key.into(), Suspect { crashes, version: version.into(), since, caught });
            crashes >= CRASHES_TO_QUARANTINE
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

    thread_local! {
        static NOW: std::cell::Cell<i64> = const { std::cell::Cell::new(1_800_000_000) };
    }

    /// Lets the time of this test be `later` seconds later than it was.
    fn pass(later: i64) {
        NOW.set(NOW.get() + later);
        clock::set_source(|| jiff::Timestamp::from_second(NOW.get()).unwrap());
    }

    fn version(text: &str) -> impl FnOnce() -> String {
        let text = text.to_string();
        move || text
    }

    async fn crash(quarantine: &Quarantine, key: &str, of: &str) {
        // The process crashes: nothing is dropped in order.
        std::mem::forget(quarantine.enter(key, version(of)).await.unwrap());
    }

    #[tokio::test]
    async fn object_that_was_handled_in_two_crashes_is_left_alone_until_it_changes() {
        pass(0);
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), false);
        drop(first.enter("pod/done", version("1")).await.unwrap());
        crash(&first, "pod/a", "1").await;
        let second = open(folder.path(), true);
        assert_eq!(second.suspects().keys().collect::<Vec<_>>(), ["pod/a"]);
        crash(&second, "pod/a", "1").await;
        let third = open(folder.path(), true);
        assert!(third.enter("pod/a", version("1")).await.is_err());
        assert!(third.enter("pod/b", version("1")).await.is_ok());
        // It is so at later starts, too, whatever their reason, and however long after.
        pass(7 * 24 * 3600);
        let fourth = open(folder.path(), false);
        assert_eq!(fourth.enter("pod/a", version("1")).await.err().unwrap().again, None);
        // What was changed has one more try.
        crash(&fourth, "pod/a", "2").await;
        let fifth = open(folder.path(), true);
        assert_eq!(fifth.enter("pod/a", version("2")).await.err().unwrap().again, None);
        // Whoever changes it all the time crashes nothing all the time.
        let again = fifth.enter("pod/a", version("3")).await.err().unwrap().again;
        assert_eq!(again, Some(Duration::from_secs(120)));
        // But for a deletion nobody waits.
        assert!(fifth.enter("pod/a", version("3 deleted")).await.is_ok());
        fifth.panicked("pod/a", "3 deleted");
        fifth.forget("pod/a");
        assert!(open(folder.path(), false).suspects().is_empty());
    }

    #[tokio::test]
    async fn a_long_name_is_no_way_around() {
        pass(0);
        let folder = tempfile::tempdir().unwrap();
        // The longest names of a namespace and an object, with and without characters of several bytes.
        for letter in ["x", "ä"] {
            let key = |end: &str| format!("controller {}/{}{end}", "n".repeat(63), letter.repeat(251));
            for _ in 0..2 {
                std::mem::forget(open(folder.path(), true).enter(&key("a"), version(&"v".repeat(500))).await);
            }
            let third = open(folder.path(), true);
            assert!(third.enter(&key("a"), version(&"v".repeat(500))).await.is_err());
            assert!(third.enter(&key("b"), version("")).await.is_ok(), "another with the same beginning");
            pass(100);
            assert!(third.enter(&key("a"), version(&"v".repeat(501))).await.is_ok(), "it has changed");
            third.forget(&key("a"));
        }
    }

    #[tokio::test]
    async fn object_that_was_mended_is_in_quarantine_no_longer() {
        pass(0);
        let folder = tempfile::tempdir().unwrap();
        for crashed in [false, true] {
            crash(&open(folder.path(), crashed), "pod/a", "1").await;
        }
        pass(100);
        let mended = open(folder.path(), true);
        assert!(mended.enter("pod/a", version("1")).await.is_err());
        pass(100);
        drop(mended.enter("pod/a", version("2")).await.unwrap());
        assert!(open(folder.path(), false).enter("pod/a", version("2")).await.is_ok());
    }

    #[tokio::test]
    async fn object_whose_version_nobody_knew_when_it_crashed_is_left_alone_as_it_is_now() {
        pass(0);
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"a": {"crashes": 2, "version": "", "since": 0}}"#;
        std::fs::write(folder.path().join("suspects.json"), text).unwrap();
        let quarantine = open(folder.path(), false);
        assert_eq!(quarantine.enter("a", version("7")).await.err().unwrap().again, None);
        assert_eq!(quarantine.enter("a", version("7")).await.err().unwrap().again, None);
        assert!(quarantine.enter("a", version("8")).await.is_ok());
    }

    #[tokio::test]
    async fn what_was_handled_when_somebody_killed_the_process_is_no_suspect() {
        let folder = tempfile::tempdir().unwrap();
        crash(&open(folder.path(), false), "pod/a", "1").await;
        assert!(open(folder.path(), false).suspects().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_are_handled_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), false);
        crash(&first, "a", "").await;
        crash(&first, "b", "").await;
        let second = open(folder.path(), true);
        let of_a = second.enter("a", String::new).await.unwrap();
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, second.enter("b", String::new)).await.is_err());
        assert!(tokio::time::timeout(wait, second.enter("c", String::new)).await.is_ok());
        drop(of_a);
        assert!(tokio::time::timeout(wait, second.enter("b", String::new)).await.is_ok());
    }

    #[tokio::test]
    async fn panics_count_like_crashes_unless_the_next_try_succeeds() {
        pass(0);
        let quarantine = Quarantine::default();
        assert!(!quarantine.panicked("a", "1"));
        assert!(quarantine.panicked("a", "1"));
        assert!(quarantine.enter("a", version("1")).await.is_err());
        assert!(!quarantine.panicked("b", "1"));
        drop(quarantine.enter("b", version("1")).await.unwrap());
        assert!(!quarantine.panicked("b", "1"), "they aren't in a row");
    }

    #[test]
    fn suspects_are_bounded_in_number() {
        let quarantine = Quarantine::default();
        for i in 0..MOST_SUSPECTS + 10 {
            quarantine.panicked(&format!("{i}"), "");
        }
        assert_eq!(quarantine.suspects().len(), MOST_SUSPECTS);
    }
}
