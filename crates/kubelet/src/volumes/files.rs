//! Files that the kubelet writes into volumes, so that a reader sees all of the old or all of the new (upstream's atomic writer).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Its content.
    pub content: Vec<u8>,
    /// Its mode.
    pub mode: i32,
    /// The user that owns it; root, unless the source names one.
    pub owner: Option<u32>,
}

/// Files of a volume by path.
pub type Files = BTreeMap<String, VolumeFile>;

/// Writes a volume's files so that a reader sees all of the old or all of the new: they lie in a folder of their own,
/// `..data` points to it, and is swapped by one rename.
///
/// # Errors
/// A file can't be written, or the link not be swapped; what was there before stays.
pub fn write_atomically(folder: &Path, files: &Files) -> io::Result<()> {
    let link = folder.join("..data");
    let present = std::fs::read_link(&link).ok().map(|target| folder.join(target));
    if let Some(present) = &present
        && files.iter().all(|(path, file)| {
            bounded::bytes(present.join(path), bounded::MAX_OWN_FILE_BYTES).ok().as_ref() == Some(&file.content)
        })
        && count_files(present) == files.len()
    {
        return Ok(());
    }
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    let fresh = folder.join(format!("..{stamp}"));
    std::fs::create_dir(&fresh)?;
    for (path, VolumeFile { content, mode, owner }) in files {
        let relative = Path::new(path);
        if relative.is_absolute() || relative.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(io::Error::other(format!("the path {path:?} leads out of the volume")));
        }
        let target = fresh.join(relative);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, content)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(*mode as u32))?;
        if owner.is_some() {
            std::os::unix::fs::lchown(&target, *owner, None)?;
        }
    }
    let swap = folder.join("..data_tmp");
    let _ = std::fs::remove_file(&swap);
    std::os::unix::fs::symlink(fresh.file_name().unwrap_or_default(), &swap)?;
    #[expect(clippy::disallowed_methods, reason = "a link to what is in memory, or made again at the next start")]
    std::fs::rename(&swap, &link)?;
    let tops: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !tops.contains(name.as_str()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for top in tops {
        let visible = folder.join(top);
        if std::fs::symlink_metadata(&visible).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(top), &visible)?;
        }
    }
    if let Some(old) = present {
        let _ = runtime::remove_tree(&old);
    }
    Ok(())
}

/// Those in and below a folder; links are none of the folders.
fn count_files(folder: &Path) -> usize {
    let (mut count, mut open) = (0, vec![folder.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_swapped_at_once_and_stay_in_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let files = |list: &[(&str, &str)]| -> Files {
            let file = |text: &str| VolumeFile { content: text.as_bytes().to_vec(), mode: 0o644, owner: None };
            list.iter().map(|(path, text)| ((*path).to_string(), file(text))).collect()
        };
        let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).ok();
        write_atomically(folder.path(), &files(&[("a", "1"), ("b/c", "2")])).unwrap();
        assert_eq!((read("a").as_deref(), read("b/c").as_deref()), (Some("1"), Some("2")));
        let data = std::fs::read_link(folder.path().join("..data")).unwrap();
        write_atomically(folder.path(), &files(&[("a", "1"), ("b/c", "2")])).unwrap();
        assert_eq!(std::fs::read_link(folder.path().join("..data")).unwrap(), data, "nothing changed");
        write_atomically(folder.path(), &files(&[("a", "3")])).unwrap();
        assert_eq!((read("a").as_deref(), read("b/c")), (Some("3"), None));
        for outside in ["../x", "/x", "a/../../x"] {
            assert!(write_atomically(folder.path(), &files(&[(outside, "1")])).is_err(), "{outside}");
        }
    }
}
