//! The count of visits: in a file of the pod's volume, so that it outlives the pod; without a volume in memory.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::Error;

pub struct Visits {
    /// The volume, if there is one.
    folder: Option<PathBuf>,
    count: Mutex<u64>,
}

const FILE: &str = "visits";

impl Visits {
    pub fn open(folder: &Path) -> Self {
        if !folder.is_dir() {
            return Visits { folder: None, count: Mutex::new(0) };
        }
        let count = match crate::input::small_file(folder.join(FILE)) {
            Ok(text) => text.trim().parse().unwrap_or_else(|_| {
                eprintln!("hello: {} is no number; visits are counted from 0", folder.join(FILE).display());
                0
            }),
            Err(_) => 0,
        };
        Visits { folder: Some(folder.into()), count: Mutex::new(count) }
    }

    /// Counts one, and says how many there were, or why that can't be kept.
    pub fn count(&self) -> Result<u64, Error> {
        let mut count = self.count.lock().map_err(|_| Error::answer("an earlier visit failed"))?;
        let next = count.saturating_add(1);
        if let Some(folder) = &self.folder {
            write(folder, next).map_err(Error::on(folder.display().to_string()))?;
        }
        *count = next;
        Ok(next)
    }

    /// Where visits are kept.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}

/// The whole number or the one before, whatever ends this program or the machine.
fn write(folder: &Path, count: u64) -> std::io::Result<()> {
    let partial = folder.join(".visits.new");
    let mut file = File::create(&partial)?;
    writeln!(file, "{count}")?;
    file.sync_all()?;
    std::fs::rename(&partial, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_kept_in_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let visits = Visits::open(folder.path());
        assert_eq!([visits.count(), visits.count()].map(Result::unwrap), [1, 2]);
        assert_eq!(Visits::open(folder.path()).count().unwrap(), 3);
        // What can't be written isn't counted.
        let gone = tempfile::tempdir().unwrap();
        let visits = Visits::open(gone.path());
        drop(gone);
        assert!(visits.count().is_err());
        std::fs::write(folder.path().join(FILE), "many").unwrap();
        assert_eq!(Visits::open(folder.path()).count().unwrap(), 1);
        let without = Visits::open(&folder.path().join("none"));
        assert_eq!((without.count().unwrap(), without.folder()), (1, None));
    }
}
