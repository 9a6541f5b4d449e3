//! Trees of folders that containers have shaped: of any depth, with paths of any length. Nothing here calls itself, a name is
//! never followed, and what is mounted somewhere in a tree isn't part of it.

use std::ffi::{CStr, CString};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Folders of one tree that are open at a time.
const MAX_OPEN_FOLDERS: usize = 64;
/// The same for a removal where folders can't be moved.
const HELD_AT_MOST: usize = 512;
/// Levels that a walk goes down. Of those that aren't held open it remembers 24 bytes each.
const MAX_DEPTH: usize = 1 << 20;
/// How often a folder is read anew that isn't empty after all of it was removed.
const MAX_ATTEMPTS: u32 = 10;

/// Whether what is mounted in a tree belongs to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    Follow,
    Leave,
}

/// Opens the folder `name` for reading, if it is one.
fn open(at: BorrowedFd<'_>, name: &CStr, mounts: Mounts) -> Result<OwnedFd, Errno> {
    let resolve = match mounts {
        Mounts::Follow => ResolveFlags::NO_SYMLINKS,
        Mounts::Leave => ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(at, name, flags, Mode::empty(), resolve)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A folder above the one that is being read, which isn't open itself.
struct Above {
    device: u64,
    inode: u64,
    /// Where to go on in it.
    offset: i64,
}

impl Above {
    fn of(folder: BorrowedFd<'_>, offset: i64) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(folder)?;
        Ok(Above { device: stat.st_dev, inode: stat.st_ino, offset })
    }

    /// Opens it from one of its folders, if that hasn't been moved elsewhere.
    fn open(&self, below: BorrowedFd<'_>) -> Result<Dir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(below, c"..", flags, Mode::empty())?;
        let found = Above::of(opened.as_fd(), 0)?;
        if (found.device, found.inode) != (self.device, self.inode) {
            return Err(Errno::STALE);
        }
        let mut folder = Dir::new(opened)?;
        folder.seek(self.offset)?;
        Ok(folder)
    }
}

/// Calls `each` with all that is below `root` (the folder that it is in, and its name) and goes into that of which it says so.
/// What goes away meanwhile is passed over; of a folder that is moved meanwhile, the rest may be.
///
/// # Errors
/// Those of `each`, and when the tree is deeper than [`MAX_DEPTH`].
pub(crate) fn walk(
    root: OwnedFd,
    mounts: Mounts,
    mut each: impl FnMut(BorrowedFd<'_>, &CStr) -> io::Result<bool>,
) -> io::Result<()> {
    let mut held = vec![Dir::new(root)?];
    // Between the last that is held and the one above it.
    let mut between: Vec<Above> = Vec::new();
    loop {
        let open_folders = held.len();
        let Some(folder) = held.last_mut() else { return Ok(()) };
        if let Some(Ok(entry)) = folder.read() {
            let (name, at) = (entry.file_name(), folder.fd()?);
            if is_dots(name) || !each(at, name)? {
                continue;
            }
            let Ok(below) = open(at, name, mounts).and_then(Dir::new) else { continue };
            if open_folders < MAX_OPEN_FOLDERS {
                held.push(below);
                continue;
            }
            if between.len() >= MAX_DEPTH {
                return Err(io::Error::other(format!("folders are nested more than {MAX_DEPTH} levels deep")));
            }
            between.push(Above::of(at, entry.offset())?);
            *folder = below;
            continue;
        }
        match between.pop().map(|above| above.open(folder.fd()?)) {
            Some(Ok(above)) => *folder = above,
            // Nothing leads from here to the folders above, but for those that are held.
            Some(Err(_)) => {
                between.clear();
                held.pop();
            }
            None => drop(held.pop()),
        }
    }
}

/// Bytes on disk of all that is below `folder`, as du(1) counts them; a file with several names counts once in all. What is mounted
/// there isn't counted.
///
/// # Errors
/// When there is no such folder, or it is nested too deep to be counted.
pub fn disk_usage(folder: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let mut used = 0u64;
    walk(root, Mounts::Leave, |at, name| {
        let Ok(stat) = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let names = if is_folder { 1 } else { stat.st_nlink.max(1) };
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        used = used.saturating_add(bytes / names);
        Ok(is_folder)
    })?;
    Ok(used)
}

/// Removes a file, a link or an empty folder. Says whether it is gone; a folder that isn't empty stays.
fn unlink(at: BorrowedFd<'_>, name: &CStr, is_folder: bool) -> Result<bool, Errno> {
    if !is_folder {
        match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            // A folder, as unlink(2) may say it.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::NOTDIR) if !is_folder => Err(Errno::PERM),
        Err(error) => Err(error),
    }
}

/// A folder whose content is being removed.
struct Level {
    folder: Dir,
    /// Its name in the one above.
    name: CString,
    tries: u32,
}

/// Removes `path` with all that is below it. What lies deeper than some levels is first moved up, so that neither descriptors nor
/// memory depend on the depth. That nothing is there is no error.
///
/// # Errors
/// When something stays: it is mounted, or the file system refuses its removal. All else is removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let name = CString::new(name.as_bytes())?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    if unlink(parent.as_fd(), &name, false)? {
        return Ok(());
    }
    let folder = Dir::new(open(parent.as_fd(), &name, Mounts::Leave)?)?;
    let mut removal =
        Removal { levels: vec![Level { folder, name, tries: 0 }], moved: 0, seed: RandomState::new(), failed: None };
    removal.run(parent.as_fd())?;
    removal.failed.map_or(Ok(()), |error| Err(error.into()))
}

struct Removal {
    /// From the root of the tree to the folder that is being emptied.
    levels: Vec<Level>,
    /// Folders that were moved up to the root since its last reading.
    moved: u64,
    /// So that no process can take the names of those in advance.
    seed: RandomState,
    failed: Option<Errno>,
}

impl Removal {
    fn run(&mut self, parent: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(level) = self.levels.last_mut() {
            match level.folder.read() {
                Some(Ok(entry)) if is_dots(entry.file_name()) => {}
                Some(Ok(entry)) => {
                    let is_folder = entry.file_type() == FileType::Directory;
                    match unlink(level.folder.fd()?, entry.file_name(), is_folder) {
                        Ok(true) => {}
                        Ok(false) => self.enter(entry.file_name())?,
                        Err(error) => self.failed = Some(error),
                    }
                }
                Some(Err(_)) | None => self.leave(parent)?,
            }
        }
        Ok(())
    }

    /// Goes on with a folder that isn't empty, now or when it has come up to the root.
    fn enter(&mut self, name: &CStr) -> io::Result<()> {
        let (Some(root), Some(level)) = (self.levels.first(), self.levels.last()) else { return Ok(()) };
        let at = level.folder.fd()?;
        if self.levels.len() >= MAX_OPEN_FOLDERS {
            let new = format!(".removed-{:x}", self.seed.hash_one(self.moved));
            if rustix::fs::renameat(at, name, root.folder.fd()?, new).is_ok() {
                self.moved += 1;
                return Ok(());
            }
        }
        if self.levels.len() >= HELD_AT_MOST {
            self.failed = Some(Errno::NAMETOOLONG);
            return Ok(());
        }
        match open(at, name, Mounts::Leave).and_then(Dir::new) {
            Ok(folder) => self.levels.push(Level { folder, name: name.into(), tries: 0 }),
            Err(Errno::NOENT) => {}
            Err(error) => self.failed = Some(error),
        }
        Ok(())
    }

    /// Removes the folder whose end was reached, or begins with it anew if it isn't empty yet.
    fn leave(&mut self, parent: BorrowedFd<'_>) -> io::Result<()> {
        let is_root = self.levels.len() == 1;
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        let above = match self.levels.last() {
            Some(above) => above.folder.fd()?,
            None => parent,
        };
        match unlink(above, &level.name, true) {
            Ok(true) => return Ok(()),
            Ok(false) if is_root && self.moved > 0 => {
                // Another seed, as the count begins anew.
                (self.moved, self.seed) = (0, RandomState::new());
            }
            Ok(false) if self.failed.is_none() && level.tries < MAX_ATTEMPTS => level.tries += 1,
            Ok(false) => {
                self.failed = self.failed.or(Some(Errno::NOTEMPTY));
                return Ok(());
            }
            Err(error) => {
                self.failed = Some(error);
                return Ok(());
            }
        }
        level.folder.rewind();
        self.levels.push(level);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes so many folders one in the other, with a file in the last, as a process with a working directory does it.
    fn nest(root: &Path, levels: usize) {
        std::fs::create_dir_all(root).unwrap();
        let mut at: OwnedFd = std::fs::File::open(root).unwrap().into();
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
            at = open(at.as_fd(), c"d", Mounts::Leave).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&at, c"file", flags, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::write(&file, &[1; 64 << 10]).unwrap();
    }

    /// On a thread whose stack would not hold a frame for each level.
    fn with_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap().join().unwrap()
    }

    #[test]
    fn trees_of_any_depth_are_counted_and_removed() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().join("root");
        nest(&root, 40_000);
        for wide in 0..300 {
            std::fs::create_dir_all(root.join(format!("wide/{wide}/below"))).unwrap();
        }
        let (counted, removed) = with_small_stack(move || (disk_usage(&root).unwrap(), remove_tree(&root)));
        assert!(counted >= 64 << 10, "{counted}");
        removed.unwrap();
        assert_eq!(std::fs::read_dir(all.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_what_they_lead_to_stays() {
        let all = tempfile::tempdir().unwrap();
        let (root, outside) = (all.path().join("root"), all.path().join("outside"));
        for folder in [&root, &outside] {
            std::fs::create_dir_all(folder.join("a")).unwrap();
            std::fs::write(folder.join("a/file"), [1; 4096]).unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        let before = disk_usage(&root).unwrap();
        std::fs::hard_link(root.join("a/file"), root.join("a/again")).unwrap();
        assert_eq!(disk_usage(&root).unwrap(), before, "a file with two names is one");
        remove_tree(&root).unwrap();
        symlink(&outside, &root).unwrap();
        remove_tree(&root).unwrap();
        assert!(std::fs::symlink_metadata(&root).is_err() && outside.join("a/file").exists());
        // Again, and where not even the folder above is.
        remove_tree(&root).unwrap();
        remove_tree(&root.join("not/there")).unwrap();
        assert!(disk_usage(&root).is_err());
    }

    #[test]
    fn what_is_mounted_is_left_alone() {
        use nix::mount::{MsFlags, mount};
        let all = tempfile::tempdir().unwrap();
        let (root, outside) = (all.path().join("root"), all.path().join("outside"));
        for folder in [root.join("a/mounted"), root.join("b"), outside.clone()] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(outside.join("file"), vec![1; 1 << 20]).unwrap();
        mount(Some(&outside), &root.join("a/mounted"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let counted = disk_usage(&root).unwrap();
        let refused = remove_tree(&root);
        let itself = remove_tree(&root.join("a/mounted"));
        crate::rootfs::unmount_below(&[&root]).unwrap();
        assert!(counted < 1 << 20, "{counted}");
        assert!(refused.is_err() && itself.is_err());
        assert!(outside.join("file").exists() && !root.join("b").exists());
        remove_tree(&root).unwrap();
    }
}
