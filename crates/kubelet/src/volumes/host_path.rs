//! `hostPath`.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use super::VolumeError;

/// The path of a volume, whose type is checked or made (`hostPath.type`).
///
/// # Errors
/// When what is there is of another type, or can't be made.
pub fn publish(path: &str, kind: &str) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(path);
    let meta = std::fs::metadata(&path);
    let refuse =
        |what: &str| Err(VolumeError::Refused(format!("hostPath type check failed: {} is not {what}", path.display())));
    match kind {
        "DirectoryOrCreate" if meta.is_err() => std::fs::create_dir_all(&path)?,
        "FileOrCreate" if meta.is_err() => std::fs::File::create(&path).map(|_| ())?,
        "" if meta.is_err() => std::fs::create_dir_all(&path)?,
        "Directory" if !meta.as_ref().is_ok_and(std::fs::Metadata::is_dir) => return refuse("a directory"),
        "File" if !meta.as_ref().is_ok_and(std::fs::Metadata::is_file) => return refuse("a file"),
        "Socket" if !meta.as_ref().is_ok_and(|m| m.file_type().is_socket()) => return refuse("a socket file"),
        "CharDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_char_device()) => {
            return refuse("a character device");
        }
        "BlockDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_block_device()) => {
            return refuse("a block device");
        }
        _ => {}
    }
    Ok(path)
}
