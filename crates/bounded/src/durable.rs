//! Atomic, durable writes of files: after a crash or power cut a file has its old or its new content, never a part of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces a file's content, with mode 0600: writes a temporary file beside it, syncs that (fsync(2)), renames it over the old one and syncs
/// the folder. When this returns, the new content is on the disk.
///
/// # Errors
/// When a file can't be created, written, synced or renamed; the old content stays then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = path.with_file_name(beside);
    // A temporary file that an earlier process left may have another mode.
    let _ = std::fs::remove_file(&beside);
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        #[expect(clippy::disallowed_methods, reason = "this is the helper")]
        std::fs::rename(&beside, path)?;
        Ok(())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
        return written;
    }
    folder_of(path)?.sync_all()
}

/// [`replace`], after creating the missing parent folders.
///
/// # Errors
/// When a folder can't be created, and as [`replace`].
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    replace(path, content)
}

fn folder_of(path: &Path) -> io::Result<File> {
    File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        // Where the new one can't be written, or can't take the place of the old one.
        std::fs::create_dir(folder.path().join(".state.json.new")).unwrap();
        assert!(replace(&path, b"four").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        let taken = folder.path().join("folder");
        std::fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"x").is_err());
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(replace(&folder.path().join("none/state"), b"x").is_err());
        create(&folder.path().join("none/state"), b"x").unwrap();
    }

    #[test]
    fn only_the_owner_reads_it_whatever_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("key"), folder.path().join(".key.new"));
        for left in [&path, &beside] {
            std::fs::write(left, "old").unwrap();
            std::fs::set_permissions(left, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        // A link that was left there isn't followed either.
        let elsewhere = folder.path().join("elsewhere");
        std::fs::remove_file(&beside).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
        replace(&path, b"secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!elsewhere.exists());
    }
}
