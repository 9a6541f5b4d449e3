//! Files in a folder, and news of them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
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

/// Whether anybody has the file open for writing, which `file` must not be itself: the kernel lends no one a file to read
/// undisturbed while there is such a one (`F_SETLEASE` in fcntl(2)). False, too, where a file system has no leases.
pub fn is_written(file: &File) -> bool {
    /// Which signal tells of it (linux/fcntl.h); libc has no name for it.
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // SAFETY: commands with a number as argument, on a descriptor that is open as long as `file` is borrowed. Who opened
    // the file for writing while the lease is held would be the reason for a signal: one that is ignored by default, where
    // SIGIO would end this process.
    #[allow(unsafe_code)]
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        let refused = libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) != 0;
        let refused = refused && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
        refused
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
