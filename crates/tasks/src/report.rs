//! A file that tells of tasks that are started again and again: `timonel check` is another process and reads no metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// With as many restarts in one process a task is told of.
const TOLD_FROM: u64 = 3;
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A task that was started again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    pub restarts: u64,
    /// `panic` or `ended`.
    pub reason: String,
    /// Unix time of the last restart, in seconds.
    pub at: u64,
}

static REPORT: Mutex<Report> = Mutex::new(Report { file: None, tasks: BTreeMap::new() });

struct Report {
    file: Option<PathBuf>,
    tasks: BTreeMap<String, Restarted>,
}

/// Tells of this process' tasks in `file` from now on, and nothing of those of the process before it.
pub fn report_to(file: PathBuf) {
    let mut report = REPORT.lock();
    let _ = std::fs::remove_file(&file);
    report.file = Some(file);
}

/// What the process that tells in `file` has told of: by the task's name.
pub fn read(file: &Path) -> BTreeMap<String, Restarted> {
    let text = bounded::bytes(file, MAX_FILE_BYTES).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

pub fn restarted(name: &str, reason: &str) {
    let mut report = REPORT.lock();
    report.count(name, reason);
    report.write();
}

impl Report {
    fn count(&mut self, name: &str, reason: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let before = self.tasks.get(name).map_or(0, |task| task.restarts);
        self.tasks.insert(name.into(), Restarted { restarts: before.saturating_add(1), reason: reason.into(), at });
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        let told: BTreeMap<_, _> = self.tasks.iter().filter(|(_, task)| task.restarts >= TOLD_FROM).collect();
        if told.is_empty() {
            return;
        }
        let text = serde_json::to_vec(&told).unwrap_or_default();
        if let Err(error) = bounded::durable::replace(file, &text) {
            tracing::debug!(%error, "can't write {}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_that_is_started_again_and_again_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tasks.json");
        let mut report = Report { file: Some(file.clone()), tasks: BTreeMap::new() };
        for name in ["often", "often", "often", "once"] {
            report.count(name, "panic");
            report.write();
        }
        let told = read(&file);
        assert_eq!(told.keys().collect::<Vec<_>>(), ["often"]);
        assert_eq!((told["often"].restarts, told["often"].reason.as_str()), (3, "panic"));
    }
}
