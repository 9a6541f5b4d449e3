//! User namespaces (user_namespaces(7)): a pod's users are none of the machine's. Its root is an ordinary user outside, and what
//! belongs to its users on disk is shown to it by mounts that translate (`MOUNT_ATTR_IDMAP`, mount_setattr(2)).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mountpoint::make;

/// How many users and groups a pod has.
pub const LENGTH: u32 = 65536;

/// The users of a pod: its user 0 is `first` on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The file of the user namespace.
    pub namespace: PathBuf,
    /// The machine's user that is the pod's root.
    pub first: u32,
}

impl Users {
    /// As `/proc/PID/uid_map` wants it.
    pub fn map(first: u32) -> String {
        format!("0 {first} {LENGTH}\n")
    }

    /// Gives what the machine's root has made to the pod's.
    ///
    /// # Errors
    /// Those of chown(2).
    pub fn own(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.first), Some(self.first))
    }

    /// Mounts at `target` what is at `source`, as the pod's users see it: what is the machine's user 0's is their user 0's.
    /// `target` is made.
    ///
    /// # Errors
    /// Those of the system calls; not every file system can be shown so (mount_setattr(2), "ID-mapped mounts").
    pub fn mount(&self, source: &Path, target: &Path, read_only: bool, recursive: bool) -> io::Result<()> {
        make(target, source.is_dir())?;
        let tree = clone_tree(source)?;
        let namespace = std::fs::File::open(&self.namespace)?;
        set(&tree, libc::AT_RECURSIVE, libc::MOUNT_ATTR_IDMAP, namespace.as_raw_fd() as u64).map_err(|e| {
            let why = "its file system can't show other users' names (hostUsers: false; tmpfs can since Linux 6.3)";
            io::Error::new(e.kind(), format!("{} can't be mounted: {why}: {e}", source.display()))
        })?;
        if read_only {
            set(&tree, if recursive { libc::AT_RECURSIVE } else { 0 }, libc::MOUNT_ATTR_RDONLY, 0)?;
        }
        let to = CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: the descriptor is open and the paths are strings that live through the call.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// linux/mount.h
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// A copy of the mounts at and below a path, which are nowhere yet (open_tree(2)).
fn clone_tree(source: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(source.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: the path is a string that lives through the call.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

fn set(tree: &OwnedFd, flags: libc::c_int, attribute: u64, namespace: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attribute, attr_clr: 0, propagation: 0, userns_fd: namespace };
    let flags = flags | libc::AT_EMPTY_PATH;
    // SAFETY: the descriptors are open, and the size is that of what is pointed to.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
