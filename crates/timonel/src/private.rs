//! Folders and files that only root may read: there are secrets, keys and other people's files in them. The umask of the process is left
//! alone, as containers and the files that are made for them would inherit it.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// Makes a folder with mode 0700, and says so if others could look into one that was there.
///
/// # Errors
/// Those of the file system.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    let fail = || format!("can't make {} a folder that only root may read", path.display());
    std::fs::create_dir_all(path).with_context(fail)?;
    close(path, 0o700).with_context(fail)
}

/// Takes from a file, or a folder, what isn't in `mode`.
fn close(path: &Path, mode: u32) -> std::io::Result<()> {
    let present = std::fs::symlink_metadata(path)?.mode() & 0o7777;
    if present & !mode == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(present & mode))?;
    tracing::info!(path = %path.display(), "users other than root could read this path; changed its mode to {:o} from {present:o}", present & mode);
    Ok(())
}

/// Closes the files of a folder that isn't shared with containers.
///
/// # Errors
/// Those of the file system.
pub fn files(path: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let path = entry.path();
            match close(&path, 0o600) {
                // The database removes its journals by itself.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.with_context(|| format!("can't close {}", path.display()))?,
            }
        }
    }
    Ok(())
}

/// Makes a file that only root may read, if it isn't there: what SQLite makes beside it gets the same mode.
///
/// # Errors
/// Those of the file system.
pub fn file(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).with_context(|| format!("can't make {}", path.display()))
}

/// This machine's password, by which its server knows it again; made once.
///
/// # Errors
/// Those of the file system.
pub fn password(agent_dir: &Path) -> anyhow::Result<String> {
    let path = agent_dir.join("node-password");
    if let Ok(text) = bounded::text(&path, bounded::MAX_OWN_FILE_BYTES)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().into());
    }
    let password = pki::random_secret();
    bounded::durable::create(&path, format!("{password}\n").as_bytes())
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_others_could_read_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        folder(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
        let file = data.join("state.db");
        std::fs::write(&file, "x").unwrap();
        for (path, bits) in [(&data, 0o755), (&file, 0o644)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
        }
        folder(&data).unwrap();
        files(&data).unwrap();
        super::file(&data.join("new.db")).unwrap();
        assert_eq!((mode(&data), mode(&file), mode(&data.join("new.db"))), (0o700, 0o600, 0o600));
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn a_machine_keeps_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let first = password(dir.path()).unwrap();
        assert_eq!((first.len(), password(dir.path()).unwrap()), (32, first));
        assert_eq!(mode(&dir.path().join("node-password")), 0o600);
    }
}
