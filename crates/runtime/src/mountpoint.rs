//! Mount points.

use std::io;
use std::path::Path;

/// Makes a mount point: a folder, or an empty file for what is bound to a file (mount(8), "Bind mounts"). The folders above it are
/// made, too.
///
/// # Errors
/// When one of them can't be made (mkdir(2), open(2)).
pub fn make(path: &Path, folder: bool) -> io::Result<()> {
    if folder {
        return std::fs::create_dir_all(path);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path).map(|_| ())
}
