//! Quarantine of objects whose handling crashes the process.
//!
//! A panic is caught where it happens, but exhausted memory or a stack overflow ends the process, and after its restart the same object would
//! end it again. So the keys of the objects that are being handled are in a small file, the *record*, in the run folder, which outlives
//! the process. After a crash, and only then (`follows_crash`), those keys are *suspects*: they are handled one at a time, so that a second
//! crash has only one possible cause. Caught panics count like crashes, for the kubelet and work queues alike. A key with two of either is
//! *quarantined*: it isn't handled until its object changes, which allows one retry; each failed retry doubles the minimum time until the
//! next one.
//!
//! Cost: two writes of at most 256 bytes to a file on tmpfs whenever an object is handled.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use apimachinery::{ExponentialBackoff, clock};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

/// Size of a key's slot in the record.
const SLOT_BYTES: usize = 256;
/// Limit of slots in a record.
const MAX_SLOTS: usize = 16 << 10;
/// With this many crashes an object is quarantined.
const CRASHES_TO_QUARANTINE: u32 = 2;
/// Minimum time of a quarantine, even if the object changes.
const MIN_QUARANTINE: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// Limit of suspects; the oldest are dropped first.
const MAX_SUSPECTS: usize = 4096;
/// A suspect without a second crash within this time isn't suspect any more.
const SUSPICION_SECONDS: i64 = 600;

/// `timonel_quarantined_objects`: objects in quarantine in this process.
static QUARANTINED: LazyLock<IntGauge> = LazyLock::new(|| {
    let gauge = IntGauge::new(
        "timonel_quarantined_objects",
        "Objects whose handling ended the process twice and that are left alone",
    )
    .unwrap_or_else(|error| unreachable!("the name is well-formed: {error}"));
    let _ = prometheus::register(Box::new(gauge.clone()));
    gauge
});

/// The quarantine of this process' control loops; without one nothing is recorded.
static PROCESS_QUARANTINE: OnceLock<Quarantine> = OnceLock::new();

/// Sets the quarantine of this process' control loops. Only the first call has an effect.
pub fn install(quarantine: Quarantine) {
    let _ = PROCESS_QUARANTINE.set(quarantine);
}

/// The quarantine of this process' control loops.
pub fn process_quarantine() -> Quarantine {
    PROCESS_QUARANTINE.get().cloned().unwrap_or_default()
}

/// Shortens a key or version to the space that a slot has. The end of a shortened text is a digest, so that different texts stay different.
fn shorten(text: &str) -> Cow<'_, str> {
    const MAX_KEY_BYTES: usize = SLOT_BYTES / 2 - 1;
    if text.len() <= MAX_KEY_BYTES && !text.contains('\0') {
        return text.into();
    }
    let mut digest = std::hash::DefaultHasher::new();
    text.hash(&mut digest);
    let digest = format!("…{:016x}", digest.finish());
    let mut end = MAX_KEY_BYTES - digest.len();
    while !text.is_char_boundary(end.min(text.len())) {
        end -= 1;
    }
    format!("{}{digest}", &text[..end.min(text.len())]).replace('\0', "").into()
}

/// An object that was being handled when the process crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Crashes and caught panics.
    pub crashes: u32,
    /// The version of the object at its last handling ([`version_of`]); empty if unknown.
    pub version: String,
    /// Unix time of the last crash, in seconds.
    pub since: i64,
    /// Whether these were caught panics rather than crashes of the process.
    #[serde(default)]
    pub caught: bool,
}

/// Suffix of the version of an object with a deletion timestamp.
const DELETED_SUFFIX: &str = " deleted";

/// The version of an object for the quarantine: its generation, or the resource version if it has none, and whether it is being deleted or gone.
pub fn version_of(meta: Option<&ObjectMeta>) -> String {
    let Some(meta) = meta else { return "gone".into() };
    let uid = meta.uid.as_deref().unwrap_or_default();
    let deleted = if meta.deletion_timestamp.is_some() { DELETED_SUFFIX } else { "" };
    match meta.generation.filter(|generation| *generation > 0) {
        Some(generation) => format!("{uid} {generation}{deleted}"),
        None => format!("{uid} r{}{deleted}", meta.resource_version.as_deref().unwrap_or_default()),
    }
}

/// The error for a quarantined object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// It can be retried after this time; without one only after a change.
    pub retry_after: Option<Duration>,
    /// Crashes and caught panics.
    pub crashes: u32,
    /// Whether these were caught panics rather than crashes of the process.
    pub caught: bool,
}

impl Suspect {
    /// Whether it is in quarantine, rather than only suspect.
    pub fn is_quarantined(&self) -> bool {
        self.crashes >= CRASHES_TO_QUARANTINE
    }

    /// The remaining minimum time of its quarantine.
    fn remaining(&self, now: i64) -> Option<Duration> {
        let quarantines = self.crashes.saturating_sub(CRASHES_TO_QUARANTINE).saturating_add(1);
        let least = i64::try_from(MIN_QUARANTINE.after(quarantines).as_secs()).unwrap_or(i64::MAX);
        // A clock that was set back doesn't prolong it.
        let remaining = least.saturating_sub(now.saturating_sub(self.since)).min(least);
        u64::try_from(remaining).ok().filter(|remaining| *remaining > 0).map(Duration::from_secs)
    }

    /// Whether it can be handled now, in this version; if so, this counts as a retry.
    fn try_start(&mut self, version: &str, now: i64) -> Result<(), Quarantined> {
        if !self.is_quarantined() {
            return Ok(());
        }
        let no = |retry_after| Err(Quarantined { retry_after, crashes: self.crashes, caught: self.caught });
        let is_changed = if self.version.is_empty() { self.caught } else { self.version != version };
        if !is_changed {
            if self.version.is_empty() {
                self.version = version.into();
            }
            return no(None);
        }
        // A deletion happens only once and must not wait.
        let is_last = version == "gone" || version.ends_with(DELETED_SUFFIX);
        if let Some(remaining) = self.remaining(now).filter(|_| !is_last) {
            return no(Some(remaining));
        }
        if !self.version.is_empty() {
            self.version = version.into();
        }
        Ok(())
    }
}

/// The record of objects being handled, and the suspects. Clones share them.
#[derive(Clone, Default)]
pub struct Quarantine {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// None in tests and where the folder isn't writable: then nothing outlives the process.
    record: Option<File>,
    free: Mutex<Slots>,
    suspects: Mutex<BTreeMap<String, Suspect>>,
    file: Option<PathBuf>,
    /// Held while a suspect is being handled.
    trial: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Slots {
    free: Vec<usize>,
    used: usize,
}

/// Guard of the handling of an object, which ends when it is dropped.
pub struct HandlingGuard {
    quarantine: Quarantine,
    slot: Option<usize>,
    /// For suspects.
    trial: Option<(String, OwnedMutexGuard<()>)>,
}

impl Drop for HandlingGuard {
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
    let mut bytes = vec![0; SLOT_BYTES * MAX_SLOTS];
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
    /// Replaces the record of the previous process at `record`, and loads the suspects from the file `suspects`. `follows_crash` tells whether the
    /// previous process crashed: then the objects that it was handling are suspects.
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

    /// Starts the handling of the object `key`. `version` is called for its version only if it is a suspect. A suspect waits until no other
    /// suspect is being handled.
    ///
    /// # Errors
    /// [`Quarantined`] if it is in quarantine and hasn't changed since its last handling, or its minimum time isn't over.
    pub async fn enter(&self, key: &str, version: impl FnOnce() -> String) -> Result<HandlingGuard, Quarantined> {
        let (key, now) = (&*shorten(key), clock::now().as_second());
        let of_suspect = {
            let mut suspects = self.inner.suspects.lock();
            match suspects.get_mut(key) {
                Some(suspect) => {
                    let version = shorten(&version()).into_owned();
                    suspect.try_start(&version, now)?;
                    Some(version)
                }
                None => None,
            }
        };
        let Some(version) = of_suspect else {
            return Ok(HandlingGuard { quarantine: self.clone(), slot: self.record_start(key, ""), trial: None });
        };
        let trial = Some((key.to_string(), self.inner.trial.clone().lock_owned().await));
        Ok(HandlingGuard { quarantine: self.clone(), slot: self.record_start(key, &version), trial })
    }

    /// A suspect was handled successfully: its quarantine and its count of panics end. One that was being handled in a crash stays suspect for a
    /// while, as another object may have caused that.
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

    /// Writes the key to a free slot of the record.
    fn record_start(&self, key: &str, version: &str) -> Option<usize> {
        self.inner.record.as_ref()?;
        let slot = {
            let mut slots = self.inner.free.lock();
            slots.free.pop().or_else(|| {
                let next = Some(slots.used).filter(|slot| *slot < MAX_SLOTS)?;
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

    /// Counts a caught panic of the object's handling; returns whether it is quarantined now. An empty `version` is unknown: any change ends the
    /// quarantine.
    pub fn panicked(&self, key: &str, version: &str) -> bool {
        let (key, version) = (shorten(key), shorten(version));
        let is_quarantined = {
            let mut suspects = self.inner.suspects.lock();
            let before = suspects.get(&*key);
            let crashes = before.map_or(0, |s| s.crashes).saturating_add(1);
            let caught = before.is_none_or(|s| s.caught);
            let since = clock::now().as_second();
            if before.is_none() && suspects.len() >= MAX_SUSPECTS {
                let oldest = suspects.iter().min_by_key(|(_, s)| s.since).map(|(key, _)| key.clone());
                oldest.map(|key| suspects.remove(&key));
            }
            suspects.insert(key.into(), Suspect { crashes, version: version.into(), since, caught });
            crashes >= CRASHES_TO_QUARANTINE
        };
        self.save();
        is_quarantined
    }

    /// Forgets a deleted object.
    pub fn forget(&self, key: &str) {
        if self.inner.suspects.lock().remove(&*shorten(key)).is_some() {
            self.save();
        }
    }

    /// Reads the file of suspects of another process.
    pub fn read(file: &Path) -> BTreeMap<String, Suspect> {
        let text = bounded::bytes(file, bounded::MAX_OWN_FILE_BYTES).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// All suspects, including the quarantined ones.
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
mod tests;
