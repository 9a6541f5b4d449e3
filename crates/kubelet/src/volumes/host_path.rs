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
        "DirectoryOrCreate" | "" if meta.is_err() => std::fs::create_dir_all(&path)?,
        "FileOrCreate" if meta.is_err() => std::fs::File::create(&path).map(|_| ())?,
        _ => {}
    }
    let kind_of = std::fs::metadata(&path).ok().map(|meta| meta.file_type());
    let is = |of: fn(&std::fs::FileType) -> bool| kind_of.as_ref().is_some_and(of);
    match kind {
        "Directory" | "DirectoryOrCreate" if !is(std::fs::FileType::is_dir) => return refuse("a directory"),
        "File" | "FileOrCreate" if !is(std::fs::FileType::is_file) => return refuse("a file"),
        "Socket" if !is(|kind| kind.is_socket()) => return refuse("a socket file"),
        "CharDevice" if !is(|kind| kind.is_char_device()) => return refuse("a character device"),
        "BlockDevice" if !is(|kind| kind.is_block_device()) => return refuse("a block device"),
        _ => {}
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_must_be_of_the_volumes_type() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let null = PathBuf::from("/dev/null");
        let kinds =
            ["", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"];
        let taken = |path: &std::path::Path| {
            kinds.into_iter().filter(|kind| publish(path.to_str().unwrap(), kind).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(taken(folder.path()), ["", "Directory", "DirectoryOrCreate"]);
        assert_eq!(taken(&file), ["", "File", "FileOrCreate"]);
        assert_eq!(taken(&socket), ["", "Socket"]);
        assert_eq!(taken(&null), ["", "CharDevice"]);
        for (kind, is_made) in
            [("Directory", false), ("File", false), ("DirectoryOrCreate", true), ("FileOrCreate", true), ("", true)]
        {
            let path = folder.path().join(format!("new-{kind}"));
            assert_eq!(publish(path.to_str().unwrap(), kind).is_ok(), is_made, "{kind}");
            assert_eq!(path.exists(), is_made, "{kind}");
        }
    }
}
