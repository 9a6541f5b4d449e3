//! Files in a folder, and news of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

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

/// News of what is written in many folders, by one instance of inotify: a user may have few of those (128 mostly), but many watches.
/// Dropped with the last follower.
#[derive(Clone, Default)]
pub struct SharedWatch(Arc<Mutex<Weak<Folders>>>);

/// The folders that are followed, by their watches.
struct Folders {
    inotify: Inotify,
    followed: Mutex<HashMap<WatchDescriptor, (usize, watch::Sender<()>)>>,
}

/// Who follows a folder.
pub struct Follower {
    folders: Arc<Folders>,
    folder: WatchDescriptor,
    news: watch::Receiver<()>,
}

impl SharedWatch {
    /// Watching has begun when this returns, so whoever reads the folder afterwards misses nothing.
    ///
    /// # Errors
    /// When it isn't there, or the user has too many watches.
    pub fn follow(&self, folder: &Path) -> io::Result<Follower> {
        let mut shared = self.0.lock();
        let folders = match shared.upgrade() {
            Some(folders) => folders,
            None => {
                let folders = Folders::begin()?;
                *shared = Arc::downgrade(&folders);
                folders
            }
        };
        let mut followed = folders.followed.lock();
        // The same folder is the same watch.
        let news = News::IN_MODIFY | News::IN_CREATE | News::IN_CLOSE_WRITE;
        let folder = folders.inotify.add_watch(folder, news)?;
        let (count, sender) = followed.entry(folder).or_insert_with(|| (0, watch::Sender::new(())));
        *count += 1;
        let news = sender.subscribe();
        drop(followed);
        Ok(Follower { folders, folder, news })
    }
}

impl Folders {
    fn begin() -> io::Result<Arc<Self>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let readable = inotify.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives, and AsyncFd owns it.
        #[allow(unsafe_code)]
        let readable = unsafe { AsyncFd::register_with_interest(readable, Interest::READABLE)? };
        let folders = Arc::new(Folders { inotify, followed: Mutex::default() });
        let (kept, readable) = (Arc::downgrade(&folders), Arc::new(readable));
        tasks::until_done("file-news", move || Self::read(kept.clone(), readable.clone()));
        Ok(folders)
    }

    /// Tells followers of their news; ends when the last one is gone, at the news that its watch is.
    async fn read(kept: Weak<Self>, readable: Arc<AsyncFd<OwnedFd>>) {
        loop {
            let Ok(mut ready) = readable.readable().await else { return };
            let Some(folders) = kept.upgrade() else { return };
            match folders.inotify.read_events() {
                Ok(events) => folders.tell(&events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => {
                    tracing::warn!(%error, "failed to read inotify events");
                    return;
                }
            }
        }
    }

    fn tell(&self, events: &[InotifyEvent]) {
        let followed = self.followed.lock();
        // Too many at once: some may be of anybody.
        let all = events.iter().any(|event| event.mask.contains(News::IN_Q_OVERFLOW));
        for (folder, (_, sender)) in followed.iter() {
            if all || events.iter().any(|event| event.wd == *folder) {
                sender.send_replace(());
            }
        }
    }
}

impl Follower {
    /// Waits until there are news, and takes them.
    ///
    /// # Errors
    /// When there won't be any.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.news.changed().await.map_err(io::Error::other)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followed = self.folders.followed.lock();
        if let Some((count, _)) = followed.get_mut(&self.folder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                followed.remove(&self.folder);
                let _ = self.folders.inotify.rm_watch(self.folder);
            }
        }
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
    /// Sockets, which are created and not written.
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
            let watch = Arc::new(watch);
            tasks::until_done("folder-news", move || tell(watch.clone(), changed.clone()));
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "failed to watch a folder; new files in it are read after a restart");
        }
    }
    changes
}

/// Hands on that there are news, as long as anybody listens.
async fn tell(watch: Arc<Watch>, changed: mpsc::Sender<()>) {
    while watch.changed().await.is_ok() {
        if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
            return;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_follow_by_one_instance_and_each_hears_of_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, folders) = (SharedWatch::default(), ["a", "b"].map(|name| dir.path().join(name)));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let mut followers: Vec<Follower> = (0..300).map(|n| shared.follow(&folders[n % 2]).unwrap()).collect();
        assert!(followers.iter().all(|follower| Arc::ptr_eq(&follower.folders, &followers[0].folders)));
        // One leaves; the others of its folder stay.
        drop(followers.remove(0));
        std::fs::write(folders[0].join("log"), "x").unwrap();
        for follower in followers.iter_mut().skip(1).step_by(2) {
            follower.changed().await.unwrap();
        }
        let others = followers.iter_mut().step_by(2);
        assert!(others.into_iter().all(|follower| !follower.news.has_changed().unwrap()));
        drop(followers);
        assert!(shared.0.lock().upgrade().is_none());
        assert!(shared.follow(&dir.path().join("none")).is_err());
    }
}
