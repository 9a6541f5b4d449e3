//! Files in a folder, and news of them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

pub use nix::sys::inotify::AddWatchFlags as News;

/// News of folders (inotify(7)), of which it is of interest only that there are some.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Watching has begun when this returns, so whoever reads the folders afterwards misses nothing.
    ///
    /// # Errors
    /// When one of them isn't there, or the user has too many watches.
    pub fn new(folders: &[&Path], news: News) -> io::Result<Self> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for folder in folders {
            watch.add_watch(*folder, news)?;
        }
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives, and AsyncFd owns it.
        #[allow(unsafe_code)]
        let watch = unsafe { AsyncFd::register_with_interest(OwnedFd::from(watch), Interest::READABLE)? };
        Ok(Watch(watch))
    }

    /// Waits until there are news, and takes them.
    ///
    /// # Errors
    /// When there won't be any.
    pub async fn changed(&self) -> io::Result<()> {
        let mut events = [0; 16 << 10];
        self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut events)?)).await.map(|_| ())
    }
}

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
    let made = match kind {
        Kind::Files => News::IN_CLOSE_WRITE,
        Kind::Sockets => News::IN_CREATE,
    };
    match Watch::new(&[folder], made | News::IN_MOVED_TO | News::IN_DELETE) {
        Ok(watch) => {
            tokio::spawn(async move {
                while watch.changed().await.is_ok() {
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
