//! Files in a folder, and news of them.

use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;

/// What appears in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Files, of interest once they are whole.
    Files,
    /// Sockets, which nobody writes to.
    Sockets,
}

/// Tells of every file that is written or moved into the folder (inotify(7)), and of those that go. News that nobody took
/// yet stand for later ones. Watching has begun when this returns, so whoever reads the folder afterwards misses nothing.
pub fn watch(folder: &Path, kind: Kind) -> mpsc::Receiver<()> {
    let (changed, changes) = mpsc::channel(1);
    let begin = || -> nix::Result<Inotify> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let made = match kind {
            Kind::Files => AddWatchFlags::IN_CLOSE_WRITE,
            Kind::Sockets => AddWatchFlags::IN_CREATE,
        };
        let wanted = made | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        watch.add_watch(folder, wanted)?;
        Ok(watch)
    };
    match begin() {
        Ok(watch) => {
            std::thread::spawn(move || {
                while watch.read_events().is_ok() {
                    if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                        return;
                    }
                }
            });
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "new files aren't noticed until the next start");
        }
    }
    changes
}

/// The YAML and JSON files of a folder, in the order of their names.
pub fn manifests(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_manifest = |path: &PathBuf| {
        matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
    };
    let mut manifests: Vec<PathBuf> = paths.filter(is_manifest).collect();
    manifests.sort();
    manifests
}
