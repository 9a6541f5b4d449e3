//! Folders that may hold so many bytes and no more: project quotas, where the file system has them (ext4 and XFS, mounted with
//! `prjquota`).
//!
//! A folder gets a project of its own, which all that is made below inherits, and the project a limit. The limit is also what
//! `statfs` tells of the folder.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::inside;

/// Of `linux/fs.h`: a file's project and whether what is made in a folder is of the same.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
const INHERITED: u32 = 0x200;
/// Of `linux/quota.h`: commands, and the kind of quota.
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const PROJECTS: u32 = 2;
/// Which of the limits are meant: those of blocks.
const BLOCKS: u32 = 1;
/// What limits are counted in, in bytes.
const BLOCK: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    rest: [u8; 8],
}

fn attributes(file: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open, and the call writes a `struct fsxattr`, which this is laid out as.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Makes a file, or a folder with what will be made in it, of a project.
fn join(file: &File, project: u32, is_folder: bool) -> io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = project;
    attributes.flags |= if is_folder { INHERITED } else { 0 };
    // SAFETY: the descriptor is open, and the call reads a `struct fsxattr`, which this is laid out as.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// quotactl_fd(2).
fn quota(file: &File, command: u32, project: u32, limits: &mut libc::dqblk) -> io::Result<()> {
    let command = (command << 8) | PROJECTS;
    // SAFETY: the descriptor is open, and the call reads or writes a `struct if_dqblk`, which the C library's is.
    #[allow(unsafe_code)]
    let done =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, std::ptr::from_mut(limits)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn no_limits() -> libc::dqblk {
    // SAFETY: it is made of numbers alone, of which zero is one.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
}

/// What the kernel says of file systems that have no project quotas, or don't enforce them.
fn is_absent(error: &io::Error) -> bool {
    let absent = [libc::ESRCH, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTTY, libc::EINVAL, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| absent.contains(&code))
}

/// Lets a folder hold at most `bytes`; false where the file system can't see to that.
///
/// # Errors
/// Those of the file system.
pub fn bound(folder: &Path, bytes: u64) -> io::Result<bool> {
    let file = File::open(folder)?;
    let project = match attributes(&file) {
        Ok(attributes) => attributes.project,
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let project = match project {
        0 => match free_project(&file, folder) {
            Ok(project) => {
                join_all(folder, project)?;
                project
            }
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        },
        known => known,
    };
    let mut limits = no_limits();
    limits.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    limits.dqb_bsoftlimit = limits.dqb_bhardlimit;
    limits.dqb_valid = BLOCKS;
    match quota(&file, SET_QUOTA, project, &mut limits) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An unused project id: the number that the folder's name comes to, or one after it.
fn free_project(file: &File, folder: &Path) -> io::Result<u32> {
    let mut project = number(&folder.display().to_string());
    loop {
        let mut limits = no_limits();
        match quota(file, GET_QUOTA, project, &mut limits) {
            Ok(()) if limits.dqb_bhardlimit == 0 && limits.dqb_curspace == 0 => return Ok(project),
            Ok(()) => project = (project + 1) | FIRST,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(project),
            Err(error) => return Err(error),
        }
    }
}

/// Projects that people number by hand are small.
const FIRST: u32 = 1 << 30;

fn number(text: &str) -> u32 {
    // FNV-1a, as it must be the same in every version.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST | (hash >> 2)
}

/// Makes a folder and all that is in it of a project. What isn't a file or a folder holds nothing.
fn join_all(folder: &Path, project: u32) -> io::Result<()> {
    inside::walk(folder, |found| {
        let meta = found.meta()?;
        match meta.is_dir() || meta.is_file() {
            true => join(&File::open(found.name())?, project, meta.is_dir()),
            false => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_large_numbers_and_differ() {
        let (a, b) = (number("/data/storage/pvc-a"), number("/data/storage/pvc-b"));
        assert!(a != b && [a, b].iter().all(|n| (FIRST..FIRST * 2).contains(n)), "{a} {b}");
    }

    #[test]
    fn a_file_system_without_them_says_so() {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        assert!(!bound(folder.path(), 1 << 20).unwrap());
        assert!(bound(Path::new("/missing/folder"), 1).is_err());
    }
}
