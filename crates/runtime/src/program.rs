//! This program, as processes start it that will be in containers.
//!
//! A container can reach what its own first process was before it became the container's program (`/proc/self/exe` as a command, or
//! `/proc/PID/exe` of one that is on its way in), and writing to it would be writing to a program that the machine's root runs
//! (CVE-2019-5736). So shims, from which all those come, run from a mount of the file that is in no namespace and that nobody can write
//! by. The pages are the file's own and so shared by all. Where the kernel makes no such mount they run from a sealed copy in memory.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};

const EXE: &str = "/proc/self/exe";

/// Where to find the program for a shim. The name is good in this process and in its children until they become other programs.
pub fn path() -> PathBuf {
    static PROGRAM: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let made = read_only_mount(Path::new(EXE)).or_else(|error| {
            tracing::info!(%error, "failed to mount this program read-only; shims run from a sealed copy in memory");
            sealed_copy(Path::new(EXE))
        });
        made.inspect_err(|error| tracing::warn!(%error, "failed to seal this program; a privileged container could write to its file")).ok()
    });
    match program {
        Some(program) => format!("/proc/self/fd/{}", program.as_raw_fd()).into(),
        None => EXE.into(),
    }
}

/// A mount of one file that can't be written by, in no namespace (open_tree(2), mount_setattr(2); since Linux 5.12).
#[allow(unsafe_code)]
fn read_only_mount(file: &Path) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(file.as_os_str().as_encoded_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a text that lives through the call; what comes back is a descriptor that the kernel has just made for us.
    let mount = unsafe {
        match libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?),
        }
    };
    let mut attributes: libc::mount_attr =
        // SAFETY: all zero is a value of this type of numbers, and means no change.
        unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    // SAFETY: the descriptor is open, the path is an empty text, and the kernel reads as many bytes as the structure has.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(mount) }
}

/// A copy of a file in memory that can't be changed any more (memfd_create(2)).
#[allow(unsafe_code)]
fn sealed_copy(file: &Path) -> io::Result<OwnedFd> {
    let copy = memfd_create(c"timonel", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut writer = std::fs::File::from(copy.try_clone()?);
    io::copy(&mut std::fs::File::open(file)?, &mut writer)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: a command with a number as argument, on a descriptor that is open.
    if unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // A program that is open for writing can't be run; by another name it is open for reading alone.
    let reader = std::fs::File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?;
    drop(writer);
    // SAFETY: the descriptor is taken out of the file, which forgets it.
    Ok(unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(reader)) })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A program that is run by what `path` leads to, and what comes of writing to it.
    fn run_and_write(program: OwnedFd) -> (String, Option<i32>) {
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let said = std::process::Command::new(&path).arg("word").output().unwrap();
        // It isn't busy now: no process runs it.
        // A sealed file may be opened for writing, but not written.
        let written = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"x"));
        let error = written.err();
        (String::from_utf8(said.stdout).unwrap(), error.and_then(|e| e.raw_os_error()))
    }

    #[test]
    fn a_program_is_run_by_what_nobody_can_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("echo");
        std::fs::copy("/bin/echo", &file).unwrap();
        let mounted = read_only_mount(&file).unwrap();
        let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| {
            use std::os::unix::fs::MetadataExt as _;
            (a.dev(), a.ino()) == (b.dev(), b.ino())
        };
        let of_mount = std::fs::metadata(format!("/proc/self/fd/{}", mounted.as_raw_fd())).unwrap();
        assert!(same(&of_mount, &std::fs::metadata(&file).unwrap()), "its pages are shared");
        assert_eq!(run_and_write(mounted), ("word\n".into(), Some(libc::EROFS)));
        let (said, refused) = run_and_write(sealed_copy(&file).unwrap());
        assert_eq!(said, "word\n");
        assert!(matches!(refused, Some(libc::EPERM | libc::ETXTBSY)), "{refused:?}");
        assert!(std::fs::OpenOptions::new().write(true).open(&file).is_ok());
    }
}
