//! Root file systems of containers: overlay mounts over an image's layers.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mountpoint::make;
use crate::users::Users;

/// Bytes that the options of a mount may have (`mount(2)`: a page).
const MAX_OPTIONS: usize = 4096;

/// Mounts `layers` (lowest first) with a writable layer in `writable` at `rootfs`; for a pod with users of its own, as they see it;
/// with SELinux' `label` for all that is there, if one is given. The writable layer begins empty.
///
/// The mount is `volatile` where the kernel knows that (since 5.10; its `Documentation/filesystems/overlayfs.rst`): otherwise each
/// unmount writes all that is dirty on the whole disk first, and the end of a container waits for the writes of everybody. What is in
/// the layer doesn't outlive its container, so nothing is lost with it in a power failure.
///
/// # Errors
/// Those of the system calls; an overlay needs a kernel with overlayfs and a file system that can hold its upper layer.
pub fn mount_overlay(
    layers: &[PathBuf],
    writable: &Path,
    rootfs: &Path,
    users: Option<&Users>,
    label: Option<&str>,
) -> io::Result<()> {
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    if is_mounted(rootfs) {
        return Ok(());
    }
    // A volatile mount leaves a mark with which its layer is never mounted again, as it may be half written.
    for path in [&upper, &work] {
        crate::remove_tree(path)?;
    }
    for path in [rootfs, &upper, &work] {
        std::fs::create_dir_all(path)?;
    }
    // Only until they are part of the overlay, which holds them by itself.
    let translated = writable.join("layers");
    let layers: Vec<PathBuf> = match users {
        None => layers.to_vec(),
        Some(users) => {
            users.own(&upper)?;
            let show = |(i, layer): (usize, &PathBuf)| {
                let target = translated.join(i.to_string());
                users.mount(layer, &target, false, false).map(|()| target)
            };
            layers.iter().enumerate().map(show).collect::<io::Result<_>>()?
        }
    };
    let lower: Vec<String> = layers.iter().rev().map(|l| l.display().to_string()).collect();
    let lower = if lower.is_empty() {
        // An image without layers: an empty folder stands for them.
        let empty = writable.join("empty");
        std::fs::create_dir_all(&empty)?;
        empty.display().to_string()
    } else {
        lower.join(":")
    };
    let label = label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
    let options = format!("lowerdir={lower},upperdir={},workdir={}{label}", upper.display(), work.display());
    let volatile = format!("{options},volatile");
    if volatile.len() >= MAX_OPTIONS {
        return Err(io::Error::other("the image has too many layers for one overlay mount"));
    }
    let mount_with = |options: &str| mount(Some("overlay"), rootfs, Some("overlay"), MsFlags::empty(), Some(options));
    match mount_with(&volatile) {
        // Kernels before 5.10 don't know the option.
        Err(Errno::EINVAL) => mount_with(&options)?,
        result => result?,
    }
    if users.is_some() {
        unmount_below(&[&translated])?;
    }
    Ok(())
}

/// Unmounts whatever is mounted at or below any of `paths`, deepest first. What isn't mounted is no error.
///
/// # Errors
/// When something stays mounted. Nothing may be removed then: it could be a user's data.
pub fn unmount_below(paths: &[&Path]) -> io::Result<()> {
    let mounts = bounded::text("/proc/self/mountinfo", bounded::MAX_KERNEL_FILE_BYTES)?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| paths.iter().any(|path| p.starts_with(path)))
        .collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH) {
            // It went with another one, or with the folder that it was on.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(io::Error::other(format!("{} can't be unmounted: {error}", point.display()))),
        }
    }
    Ok(())
}

/// Makes of `folder` a mount of its own that shares what is mounted below it, if it doesn't lie in one
/// (`mount_namespaces(7)`, shared subtrees).
///
/// # Errors
/// Those of the system calls.
pub fn share(folder: &Path) -> io::Result<()> {
    if is_shared(folder)? {
        return Ok(());
    }
    if !is_mounted(folder) {
        mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    }
    mount(None::<&str>, folder, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Whether the mount that `path` lies in is a shared one.
fn is_shared(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let mounts = bounded::text("/proc/self/mountinfo", bounded::MAX_KERNEL_FILE_BYTES)?;
    // The one with the longest path holds it; of several at one place, the last.
    let holding = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let point = PathBuf::from(unescape(fields.get(4)?));
        let optional = fields.get(6..)?.iter().take_while(|f| **f != "-");
        path.starts_with(&point)
            .then(|| (point.components().count(), optional.clone().any(|f| f.starts_with("shared:"))))
    });
    Ok(holding.max_by_key(|(depth, _)| *depth).is_some_and(|(_, shared)| shared))
}

/// Whether something is mounted exactly at `path`.
pub fn is_mounted(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    // Kernels since 5.8 say it themselves; the list of all mounts grows with the pods.
    // Nobody else is asked, as the server of a folder in the network may be silent.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    if let Ok(found) = statx(CWD, path, flags, StatxFlags::empty())
        && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    let Ok(mounts) = bounded::text("/proc/self/mountinfo", bounded::MAX_KERNEL_FILE_BYTES) else { return false };
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|p| Path::new(&unescape(p)) == path)
}

/// Undoes the octal escapes of proc(5).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Makes `path` inside `root` without ever leaving it through a symbolic link, and returns where it really is.
/// `folder` tells whether a folder or an empty file is wanted.
///
/// # Errors
/// When a link points outside for good, or something of another kind is in the way.
pub fn make_inside(root: &Path, path: &Path, folder: bool) -> io::Result<PathBuf> {
    let target = resolve_inside(root, path)?;
    if target.exists() {
        return Ok(target);
    }
    make(&target, folder)?;
    Ok(target)
}

/// Follows `path` as a process chrooted to `root` would.
///
/// # Errors
/// When links go round in circles.
pub fn resolve_inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut pending: Vec<std::ffi::OsString> = parts(path);
    pending.reverse();
    let mut at = root.to_path_buf();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            if at != root {
                at.pop();
            }
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(link) => {
                links += 1;
                if links > 40 {
                    return Err(io::Error::other(format!("too many symbolic links in {}", path.display())));
                }
                if link.is_absolute() {
                    at = root.to_path_buf();
                }
                pending.extend(parts(&link).into_iter().rev());
            }
            Err(_) => at = next,
        }
    }
    Ok(at)
}

fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    path.components()
        .filter_map(|c| match c {
            std::path::Component::Normal(part) => Some(part.to_os_string()),
            std::path::Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../..", root.join("usr/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let resolve =
            |p: &str| resolve_inside(&root, Path::new(p)).map(|p| p.strip_prefix(&root).unwrap().to_path_buf());
        assert_eq!(resolve("/bin/sh").unwrap(), Path::new("usr/bin/sh"));
        assert_eq!(resolve("/absolute/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(resolve("/usr/up/x").unwrap(), Path::new("x"));
        assert_eq!(resolve("../../x").unwrap(), Path::new("x"));
        assert!(resolve("/loop").is_err());
    }
}
