//! The machine's devices in a bundle.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::devices::{self, Rule};

/// A device of the machine that a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// On the machine.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// What may be done with it: bits of [`devices::READ`], [`devices::WRITE`] and [`devices::MAKE`].
    pub access: u32,
    /// Type and number; without them, those of the source.
    pub number: Option<(devices::Type, u32, u32)>,
    /// The mode of the file in the container; without one, that of the source.
    pub mode: Option<u32>,
    /// User and group of the file in the container; without them, those of the source.
    pub owner: (Option<u32>, Option<u32>),
}

impl Device {
    /// As the bundle has it: the device, and the rule that lets it be used.
    pub(super) fn entries(&self) -> io::Result<(Value, Rule)> {
        let no_device = || io::Error::other(format!("{} is no device", self.source.display()));
        let mut device = match self.number {
            Some((kind, major, minor)) => {
                let kind = if kind == devices::Type::Block { "b" } else { "c" };
                json!({"path": self.target, "type": kind, "major": major, "minor": minor, "fileMode": 0o660, "uid": 0, "gid": 0})
            }
            None => device_node(&self.target, &std::fs::metadata(&self.source)?).ok_or_else(no_device)?,
        };
        for (key, value) in [("fileMode", self.mode), ("uid", self.owner.0), ("gid", self.owner.1)] {
            if let Some(value) = value {
                device[key] = value.into();
            }
        }
        let number = |key: &str| device[key].as_u64().and_then(|n| u32::try_from(n).ok());
        let rule = Rule {
            kind: if device["type"] == "b" { devices::Type::Block } else { devices::Type::Char },
            major: number("major"),
            minor: number("minor"),
            access: self.access,
        };
        Ok((device, rule))
    }
}

/// A device as the bundle has it, if it is one.
fn device_node(path: &Path, meta: &std::fs::Metadata) -> Option<Value> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let kind = match meta.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        _ => return None,
    };
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    Some(json!({"path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid()}))
}

/// The machine's devices, which privileged containers find in their own `/dev`.
pub(super) fn host_devices(folder: &Path, found: &mut Vec<Value>) {
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        devices_in(&folder, found, &mut open);
    }
}

/// The devices of one folder, and the folders in it.
fn devices_in(folder: &Path, found: &mut Vec<Value>, folders: &mut Vec<PathBuf>) {
    // What each container has anyway, and what is of one namespace alone.
    const OWN: [&str; 14] = [
        "null", "zero", "full", "tty", "random", "urandom", "console", "ptmx", "pts", "shm", "mqueue", "fd", "core",
        "log",
    ];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if name.to_str().is_none_or(|name| OWN.contains(&name)) {
            continue;
        }
        if meta.is_dir() {
            folders.push(path);
        } else {
            found.extend(device_node(&path, &meta));
        }
    }
}
