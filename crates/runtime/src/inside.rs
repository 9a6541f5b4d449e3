//! What lies in a folder that a hostile process may change at any moment, as containers change their volumes. Paths are followed
//! by the kernel and never lead out (`RESOLVE_IN_ROOT` in openat2(2)); what was found is used by its descriptor, not by its
//! name, which may stand for something else by then.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::tree;

/// How often a path is followed anew when something was renamed at that moment.
const MAX_ATTEMPTS: usize = 100;

fn open_at(root: BorrowedFd<'_>, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    let mut tries = std::iter::repeat_with(open).take(MAX_ATTEMPTS);
    Ok(tries.find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))?)
}

/// What `path` stands for, which may be anything.
fn find(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    open_at(root, path, OFlags::PATH, ResolveFlags::empty()).map(File::from)
}

fn folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A name for what is open, whatever its own one stands for now (proc_pid_fd(5)).
fn name_of(open: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// Reads the file that `path` stands for within `root`, if it has no more than `limit` bytes.
///
/// # Errors
/// When there is none, it is larger, or it is no plain file: a pipe or device could keep its reader for ever.
pub fn read(root: &Path, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let found = find(folder(root)?.as_fd(), path)?;
    if !found.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    bounded::bytes(name_of(&found), limit)
}

/// What the file system says of itself that what `path` stands for within `root` lies on.
///
/// # Errors
/// Those of the system calls.
pub fn file_system(root: &Path, path: &Path) -> io::Result<Statvfs> {
    Ok(fstatvfs(find(folder(root)?.as_fd(), path)?)?)
}

/// Mounts at `target` what `path` stands for within `root`, which is made a folder with `root`'s rights if nothing is there.
/// What was mounted at `target` before is not any more.
///
/// # Errors
/// Those of the system calls.
pub fn bind(root: &Path, path: &Path, target: &Path) -> io::Result<()> {
    let root = folder(root)?;
    let found = match find(root.as_fd(), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_folders(&root, path)?,
        found => found?,
    };
    while crate::rootfs::is_mounted(target) {
        umount2(target, MntFlags::MNT_DETACH)?;
    }
    crate::mountpoint::make(target, found.metadata()?.is_dir())?;
    // Not what is mounted below it: that would go from its own place, too, when it goes from here.
    mount(Some(&name_of(&found)), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn make_folders(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let rights = Permissions::from_mode(find(root.as_fd(), Path::new("."))?.metadata()?.mode() & 0o7777);
    let mut at = PathBuf::from(".");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent = find(root.as_fd(), &at)?;
        at.push(name);
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            // A mask would have taken some of the rights.
            Ok(()) => std::fs::set_permissions(name_of(&find(root.as_fd(), &at)?), rights.clone())?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    find(root.as_fd(), &at)
}

/// Shows `each` everything at and below `root`, links themselves among it, until it fails. What goes away meanwhile is passed over.
///
/// # Errors
/// Those of `each`, and when `root` can't be opened.
pub fn walk(root: &Path, mut each: impl FnMut(&Found) -> io::Result<()>) -> io::Result<()> {
    let root = Found(File::from(rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?));
    each(&root)?;
    if !root.meta()?.is_dir() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = open_at(root.0.as_fd(), Path::new("."), flags, ResolveFlags::NO_SYMLINKS)?;
    tree::walk(opened, tree::Mounts::Follow, |at, name| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(found) = rustix::fs::openat(at, name, flags, Mode::empty()) else { return Ok(false) };
        let found = Found(File::from(found));
        each(&found)?;
        Ok(found.meta()?.is_dir())
    })
}

/// Something found on a walk, by a descriptor that can't read or write it (`O_PATH`).
pub struct Found(File);

impl Found {
    /// # Errors
    /// Those of the file system.
    pub fn meta(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// A name for it, good as long as it is borrowed, whatever its own one stands for now.
    pub fn name(&self) -> PathBuf {
        name_of(&self.0)
    }
}

/// What a group may do with files that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Of volumes that the agent alone writes to.
    Read,
    /// Of all other volumes.
    ReadWrite,
}

/// Gives a group everything below `root` (`fsGroup`). Links are left alone.
///
/// # Errors
/// When `root` can't be opened; what can't be changed is passed over.
pub fn give_to_group(root: &Path, group: u32, rights: Rights) -> io::Result<()> {
    walk(root, |found| {
        let _ = give(found, group, rights);
        Ok(())
    })
}

fn give(found: &Found, group: u32, rights: Rights) -> io::Result<()> {
    let meta = found.meta()?;
    if meta.is_symlink() {
        return Ok(());
    }
    rustix::fs::chownat(&found.0, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    // As upstream's `SetVolumeOwnership`: the owner gets no less than the group.
    let extra = match rights {
        Rights::Read => 0o440,
        Rights::ReadWrite => 0o660,
    };
    let extra = if meta.is_dir() { extra | 0o2110 } else { extra };
    std::fs::set_permissions(found.name(), Permissions::from_mode(meta.mode() & 0o7777 | extra))
}

/// Shows a folder at another place, where it is read-only and no link is followed (`MS_NOSYMFOLLOW`, since Linux 5.10): for
/// programs that go by names.
///
/// # Errors
/// Those of mount(2).
pub fn show_without_links(folder: &Path, at: &Path) -> io::Result<()> {
    // Of linux/mount.h; nix has no name for it.
    let no_links = MsFlags::from_bits_retain(0x100);
    let none = None::<&str>;
    std::fs::create_dir_all(at)?;
    mount(Some(folder), at, none, MsFlags::MS_BIND, none)?;
    mount(none, at, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | no_links, none)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_never_lead_out() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(all.path().join("secret"), "of the machine").unwrap();
        std::fs::write(root.join("etc/passwd"), "its own").unwrap();
        symlink("../../../../../secret", root.join("up")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        assert_eq!(read(&root, Path::new("absolute"), 100).unwrap(), b"its own");
        assert_eq!(read(&root, Path::new("/etc/passwd"), 100).unwrap(), b"its own");
        assert!(read(&root, Path::new("up"), 100).is_err());
        assert!(read(&root, Path::new("../secret"), 100).is_err());
        assert!(read(&root, Path::new("magic"), 100).is_err());
    }

    #[test]
    fn the_file_system_is_that_within_the_root() {
        let root = tempfile::tempdir().unwrap();
        let mounted = root.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        mount(Some("x"), &mounted, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        symlink("/mounted", root.path().join("link")).unwrap();
        symlink("/proc", root.path().join("out")).unwrap();
        let size = |path: &str| {
            file_system(root.path(), Path::new(path)).map(|stat| stat.blocks() * stat.fragment_size()).ok()
        };
        assert_eq!((size("mounted"), size("/link"), size("out")), (Some(1 << 20), Some(1 << 20), None));
        crate::rootfs::unmount_below(&[root.path()]).unwrap();
    }

    #[test]
    fn only_plain_files_of_a_reasonable_size_are_read() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = File::create(root.path().join("large")).unwrap();
        large.set_len(1 << 40).unwrap();
        std::fs::write(root.path().join("full"), "1234").unwrap();
        let said = |name: &str| read(root.path(), Path::new(name), 4).map_err(|error| error.to_string());
        assert_eq!(said("full"), Ok(b"1234".to_vec()));
        assert_eq!(said("large"), Err("it is larger than 4 bytes".into()));
        assert_eq!(said("pipe"), Err("it is no plain file".into()));
        assert_eq!(said("."), Err("it is no plain file".into()));
    }

    #[test]
    fn what_is_mounted_is_what_was_found() {
        let all = tempfile::tempdir().unwrap();
        let (root, target) = (all.path().join("root"), all.path().join("target"));
        std::fs::create_dir_all(root.join("there")).unwrap();
        std::fs::set_permissions(&root, Permissions::from_mode(0o775)).unwrap();
        symlink("/", root.join("way-out")).unwrap();
        bind(&root, Path::new("way-out/new/deep"), &target).unwrap();
        std::fs::write(target.join("f"), "x").unwrap();
        assert_eq!(std::fs::metadata(root.join("new/deep")).unwrap().mode() & 0o7777, 0o775);
        assert!(root.join("new/deep/f").exists());
        // A file takes the place of the folder that was mounted before.
        bind(&root, Path::new("new/deep/f"), &all.path().join("file")).unwrap();
        assert_eq!(std::fs::read(all.path().join("file")).unwrap(), b"x");
        bind(&root, Path::new("there"), &target).unwrap();
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
        crate::rootfs::unmount_below(&[all.path()]).unwrap();
    }

    #[test]
    fn who_goes_by_names_meets_no_links() {
        let all = tempfile::tempdir().unwrap();
        let (root, shown) = (all.path().join("root"), all.path().join("shown"));
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(root.join("a/file"), "x").unwrap();
        symlink("a", root.join("link")).unwrap();
        show_without_links(&root, &shown).unwrap();
        assert_eq!(std::fs::read(shown.join("a/file")).unwrap(), b"x");
        assert_eq!(std::fs::read_link(shown.join("link")).unwrap(), Path::new("a"));
        assert_eq!(std::fs::read(shown.join("link/file")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(std::fs::write(shown.join("a/file"), "y").is_err());
        crate::rootfs::unmount_below(&[all.path()]).unwrap();
    }

    #[test]
    fn a_group_gets_what_is_in_the_folder_alone() {
        let all = tempfile::tempdir().unwrap();
        let (root, outside) = (all.path().join("root"), all.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for file in [&outside, &root.join("a/b/c")] {
            std::fs::write(file, "").unwrap();
            std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, root.join("a/link")).unwrap();
        give_to_group(&root, 4321, Rights::ReadWrite).unwrap();
        let of = |path: &Path| std::fs::metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
        assert_eq!(of(&root), (4321, 0o2775));
        assert_eq!(of(&root.join("a/b")), (4321, 0o2775));
        assert_eq!(of(&root.join("a/b/c")), (4321, 0o660));
        assert_ne!(of(&outside).0, 4321);
        // What the group may only read, it may not write; the rest stays as it was.
        let file = root.join("a/b/c");
        std::fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        give_to_group(&root, 4322, Rights::Read).unwrap();
        assert_eq!(of(&file), (4322, 0o440));
    }
}
