//! A report file of tasks that restart repeatedly, for `timonel check`, which is another process and reads no metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Tasks with fewer restarts in this process aren't in the report.
const MIN_REPORTED_RESTARTS: u64 = 3;
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A task in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// Restarts in this process.
    pub restarts: u64,
    /// Why it was restarted last: `panic` or `ended`.
    pub reason: String,
    /// Unix time of the last restart, in seconds.
    pub at: u64,
}

static REPORT: Mutex<Report> = Mutex::new(Report { file: None, tasks: BTreeMap::new() });

struct Report {
    file: Option<PathBuf>,
    tasks: BTreeMap<String, Restarted>,
}

/// Sets the file to which this process reports, and removes the report of the process before it.
pub fn set_report_file(file: PathBuf) {
    let mut report = REPORT.lock();
    let _ = std::fs::remove_file(&file);
    report.file = Some(file);
}

/// Reads a report, by the task's name. It is empty if there is no readable report.
pub fn read_report(file: &Path) -> BTreeMap<String, Restarted> {
    let text = bounded::bytes(file, MAX_FILE_BYTES).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

pub(crate) fn restarted(name: &str, reason: &str) {
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
        let reported: BTreeMap<_, _> =
            self.tasks.iter().filter(|(_, task)| task.restarts >= MIN_REPORTED_RESTARTS).collect();
        if reported.is_empty() {
            return;
        }
        let text = serde_json::to_vec(&reported).unwrap_or_default();
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
        let reported = read_report(&file);
        assert_eq!(reported.keys().collect::<Vec<_>>(), ["often"]);
        assert_eq!((reported["often"].restarts, reported["often"].reason.as_str()), (3, "panic"));
    }
}
