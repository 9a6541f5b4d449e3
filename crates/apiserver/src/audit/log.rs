//! Where the audit log goes: a file that is rotated, or standard output. A thread of its own writes, so that no request
//! waits for the disk; when it can't follow, requests wait rather than go untold.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// Lines that wait for the writer.
const MAX_QUEUED_LINES: usize = 10_000;

/// The audit log can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't write the audit log {path}: {source}")]
pub struct LogError {
    path: String,
    source: std::io::Error,
}

/// When the log is rotated, and when rotated files are removed; 0 for never.
#[derive(Debug, Clone, Copy)]
struct Rotation {
    /// Size at which it is rotated.
    bytes: u64,
    /// Rotated files that are kept.
    files: usize,
    /// Days for which they are kept.
    days: u64,
}

/// The audit log.
pub struct Log {
    lines: SyncSender<String>,
}

impl Log {
    /// Opens the log; `-` is standard output.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn open(path: &str, megabytes: u64, files: usize, days: u64) -> Result<Self, LogError> {
        let fail = |source| LogError { path: path.into(), source };
        let (lines, waiting) = sync_channel::<String>(MAX_QUEUED_LINES);
        if path == "-" {
            let write = move || waiting.iter().for_each(|line| drop(std::io::stdout().write_all(line.as_bytes())));
            tasks::thread("audit-log", write).map_err(fail)?;
            return Ok(Log { lines });
        }
        let rotation = Rotation { bytes: megabytes << 20, files, days };
        let mut file = Rotated::open(Path::new(path), rotation).map_err(fail)?;
        let write = move || {
            for line in waiting {
                if let Err(error) = file.write(line.as_bytes()) {
                    tracing::error!(%error, path = %file.path.display(), "failed to write an entry of the audit log; the entry is lost");
                }
            }
        };
        tasks::thread("audit-log", write).map_err(fail)?;
        Ok(Log { lines })
    }

    /// Queues an event; waits while the queue is full.
    pub fn write(&self, event: &Value) {
        if self.lines.send(format!("{event}\n")).is_err() {
            tracing::error!("a line of the audit log is lost: the thread that writes them has ended");
        }
    }
}

struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Rotation,
}

impl Rotated {
    fn open(path: &Path, rotation: Rotation) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Rotated { path: path.into(), file, size, rotation })
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.rotation.bytes > 0 && self.size > 0 && self.size + line.len() as u64 > self.rotation.bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// `audit.log` → `audit-TIME.log`, as upstream names it.
    fn rotate(&mut self) -> std::io::Result<()> {
        let stem = self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
        #[expect(clippy::disallowed_methods, reason = "a full log is put aside; what is in it is there already")]
        std::fs::rename(&self.path, self.path.with_file_name(format!("{stem}-{time}{extension}")))?;
        *self = Rotated::open(&self.path, self.rotation)?;
        let mut old: Vec<PathBuf> = std::fs::read_dir(self.path.parent().unwrap_or(Path::new(".")))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| {
                let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                name.starts_with(&format!("{stem}-")) && name.ends_with(&extension)
            })
            .collect();
        old.sort();
        let too_many = if self.rotation.files == 0 { 0 } else { old.len().saturating_sub(self.rotation.files) };
        let limit = Duration::from_secs(self.rotation.days * 86_400);
        for (i, path) in old.iter().enumerate() {
            let age = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            let age = age.and_then(|t| SystemTime::now().duration_since(t).ok()).unwrap_or_default();
            if i < too_many || (self.rotation.days > 0 && age > limit) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = Rotated::open(&path, Rotation { bytes: 10, files: 2, days: 0 }).unwrap();
        for i in 0..6 {
            log.write(format!("line {i}\n").as_bytes()).unwrap();
            // Names differ by milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 5\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
