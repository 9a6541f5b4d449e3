//! The Container Device Interface (CNCF CDI, specification 1.0): files in which vendors say what a container is given so that it can use a
//! device. Names are `vendor.com/class=device`. Of two folders the later one's devices are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bounded::values::Limits;
use serde::Deserialize;

/// The most files that are read of a folder, and the largest of them, in bytes.
const MAX_FILES: usize = 1024;
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why devices can't be injected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CdiError {
    /// The name isn't `vendor.com/class=device`.
    #[error("{0:?} is no CDI device name; it must be like vendor.com/class=device")]
    Name(String),
    /// No file has these devices.
    #[error("unresolvable CDI devices {}", .0.join(", "))]
    Unresolvable(Vec<String>),
    /// Two files of one folder have the same device.
    #[error("CDI device {device} is in both {} and {}", .files.0.display(), .files.1.display())]
    Conflict {
        /// The device.
        device: String,
        /// The two files.
        files: (PathBuf, PathBuf),
    },
}

/// What a container is given (`containerEdits`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `NAME=value`
    pub env: Vec<String>,
    /// Devices of the machine.
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts of the machine's files.
    pub mounts: Vec<Mount>,
    /// Programs that are run at points of the container's life.
    pub hooks: Vec<Hook>,
    /// Further groups of the container's process.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    /// On the machine; where it is empty, as in the container.
    pub host_path: PathBuf,
    /// `b` or `c`; what isn't said is as the machine has it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The device's number.
    pub major: Option<u32>,
    /// The device's number.
    pub minor: Option<u32>,
    /// The mode of the file in the container.
    pub file_mode: Option<u32>,
    /// Of `r`, `w` and `m`; all of them where it is empty.
    pub permissions: String,
    /// The owner of the file in the container.
    pub uid: Option<u32>,
    /// The group of the file in the container.
    pub gid: Option<u32>,
}

/// A mount of a file or folder of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// On the machine.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// As mount(8) has them.
    pub options: Vec<String>,
}

/// A program that is run at a point of the container's life (runtime-spec, "POSIX-platform Hooks").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// `createRuntime`, `createContainer`, `startContainer`, `poststart`, `poststop` or `prestart`.
    pub hook_name: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout: Option<u32>,
}

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    cdi_version: String,
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: Edits,
}

/// Splits `vendor.com/class=device` (specification, "CDI Kind" and "CDI Device").
fn parse_name(name: &str) -> Option<(&str, &str)> {
    let (kind, device) = name.split_once('=')?;
    (is_kind(kind) && is_device_name(device)).then_some((kind, device))
}

/// Whether this is the name of a device.
pub fn is_name(name: &str) -> bool {
    parse_name(name).is_some()
}

fn is_kind(kind: &str) -> bool {
    let is = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    kind.split_once('/').is_some_and(|(vendor, class)| is(vendor, "_-.") && is(class, "_-"))
}

fn is_device_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// The files of a folder that can be read; of the others a line each.
fn specs(folder: &Path) -> (Vec<(PathBuf, Spec)>, Vec<String>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_spec = |path: &PathBuf| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
    let mut paths: Vec<PathBuf> = entries.filter(is_spec).take(MAX_FILES).collect();
    paths.sort();
    let (mut specs, mut unread) = (Vec::new(), Vec::new());
    for path in paths {
        match read(&path) {
            Ok(spec) => specs.push((path, spec)),
            Err(why) => unread.push(format!("{}: {why}", path.display())),
        }
    }
    (specs, unread)
}

fn read(path: &Path) -> Result<Spec, String> {
    let text = bounded::bytes(path, MAX_FILE_BYTES).map_err(|e| e.to_string())?;
    // JSON is YAML, too.
    let document = apimachinery::yaml::first(&text, Limits::FILE).map_err(|e| e.to_string())?;
    let spec = Spec::deserialize(document.value).map_err(|e| e.to_string())?;
    if spec.cdi_version.is_empty() {
        return Err("cdiVersion is missing".into());
    }
    if !is_kind(&spec.kind) {
        return Err(format!("kind {:?} must be like vendor.com/class", spec.kind));
    }
    Ok(spec)
}

impl Edits {
    fn extend(&mut self, more: &Edits) {
        self.env.extend_from_slice(&more.env);
        self.device_nodes.extend_from_slice(&more.device_nodes);
        self.mounts.extend_from_slice(&more.mounts);
        self.hooks.extend_from_slice(&more.hooks);
        self.additional_gids.extend_from_slice(&more.additional_gids);
    }
}

/// What containers are given that get these devices: what their files say of each, and once what a file says of all of its devices.
/// Also a line for each file that can't be read, which may be why a device isn't found.
///
/// # Errors
/// When a name is malformed, a device is in no file, or in two of the same folder.
pub fn resolve(folders: &[PathBuf], names: &[String]) -> Result<Edits, (CdiError, Vec<String>)> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let mut wanted = Vec::new();
    for name in names {
        let parsed = parse_name(name).ok_or_else(|| (CdiError::Name(name.clone()), Vec::new()))?;
        if !wanted.contains(&parsed) {
            wanted.push(parsed);
        }
    }
    let mut unread = Vec::new();
    let mut folders_with_specs = Vec::new();
    for folder in folders {
        let (specs, bad) = specs(folder);
        unread.extend(bad);
        folders_with_specs.push(specs);
    }
    let mut found: BTreeMap<(&str, &str), (&Path, &Spec, &Device)> = BTreeMap::new();
    for specs in &folders_with_specs {
        let mut here: BTreeMap<(&str, &str), (&Path, &Spec, &Device)> = BTreeMap::new();
        for (path, spec) in specs {
            for device in spec.devices.iter().filter(|d| wanted.contains(&(spec.kind.as_str(), d.name.as_str()))) {
                let key = (spec.kind.as_str(), device.name.as_str());
                if let Some((other, ..)) = here.insert(key, (path, spec, device)) {
                    let device = format!("{}={}", key.0, key.1);
                    return Err((CdiError::Conflict { device, files: (other.into(), path.clone()) }, unread));
                }
            }
        }
        found.extend(here);
    }
    let missing: Vec<String> =
        wanted.iter().filter(|key| !found.contains_key(*key)).map(|(kind, name)| format!("{kind}={name}")).collect();
    if !missing.is_empty() {
        return Err((CdiError::Unresolvable(missing), unread));
    }
    let mut edits = Edits::default();
    let mut once = BTreeSet::new();
    for (path, spec, device) in wanted.iter().filter_map(|key| found.get(key)) {
        if once.insert(*path) {
            edits.extend(&spec.container_edits);
        }
        edits.extend(&device.container_edits);
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn env(folders: &[&tempfile::TempDir], names: &[&str]) -> Result<Vec<String>, CdiError> {
        let paths: Vec<PathBuf> = folders.iter().map(|f| f.path().into()).collect();
        let names: Vec<String> = names.iter().map(|n| (*n).to_string()).collect();
        resolve(&paths, &names).map(|edits| edits.env).map_err(|(error, _)| error)
    }

    const TWO: &str = r#"{"cdiVersion": "0.6.0", "kind": "acme.com/gpu",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}, {"name": "b", "containerEdits": {"env": ["B=1"]}}]}"#;

    #[test]
    fn what_a_file_says_of_all_its_devices_comes_once() {
        let files = folder(&[("acme.json", TWO)]);
        assert_eq!(
            env(&[&files], &["acme.com/gpu=b", "acme.com/gpu=a", "acme.com/gpu=b"]).unwrap(),
            ["ALL=1", "B=1", "A=1"]
        );
        assert!(env(&[&files], &[]).unwrap().is_empty());
    }

    #[test]
    fn the_later_folder_wins_and_two_files_of_one_folder_conflict() {
        let yaml = "cdiVersion: 0.6.0\nkind: acme.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    env: [A=2]\n";
        let (early, late) = (folder(&[("acme.json", TWO)]), folder(&[("other.yaml", yaml)]));
        assert_eq!(env(&[&early, &late], &["acme.com/gpu=a"]).unwrap(), ["A=2"]);
        let both = folder(&[("acme.json", TWO), ("other.yaml", yaml)]);
        assert!(matches!(env(&[&both], &["acme.com/gpu=a"]), Err(CdiError::Conflict { .. })));
        assert_eq!(env(&[&both], &["acme.com/gpu=b"]).unwrap(), ["ALL=1", "B=1"], "only what is asked for conflicts");
    }

    #[test]
    fn malformed_names_and_missing_devices_are_named() {
        let files = folder(&[("acme.json", TWO), ("broken.json", "{"), ("note.txt", "x")]);
        for name in
            ["gpu=a", "acme.com/gpu", "acme.com/gpu=", "acme.com/=a", "/gpu=a", "acme.com/gpu=a/b", "acme.com/g.pu=a"]
        {
            assert_eq!(env(&[&files], &[name]), Err(CdiError::Name(name.into())), "{name}");
        }
        let names = ["acme.com/gpu=a".to_string(), "acme.com/gpu=z".to_string()];
        let (error, unread) = resolve(&[files.path().into()], &names).unwrap_err();
        assert_eq!(error.to_string(), "unresolvable CDI devices acme.com/gpu=z");
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(unread[0].contains("broken.json"), "{unread:?}");
    }

    #[test]
    fn all_that_a_device_is_made_of_is_read() {
        let yaml = r#"
cdiVersion: "0.7.0"
kind: acme.com/net
devices:
- name: eth:0
  containerEdits:
    deviceNodes: [{path: /dev/x, hostPath: /dev/null, type: c, major: 1, minor: 3, fileMode: 438, permissions: rw, uid: 5, gid: 6}]
    mounts: [{hostPath: /lib/acme, containerPath: /usr/lib/acme, options: [ro, nosuid]}]
    hooks: [{hookName: createContainer, path: /bin/true, args: ["true", "-x"], env: [K=V], timeout: 3}]
    additionalGids: [44]
"#;
        let files = folder(&[("net.yaml", yaml)]);
        let edits = resolve(&[files.path().into()], &["acme.com/net=eth:0".into()]).unwrap();
        let [node] = edits.device_nodes.as_slice() else { panic!("{edits:?}") };
        assert_eq!(
            (node.host_path.as_path(), node.major, node.file_mode, node.uid),
            (Path::new("/dev/null"), Some(1), Some(438), Some(5))
        );
        assert_eq!(edits.mounts[0].options, ["ro", "nosuid"]);
        assert_eq!((edits.hooks[0].hook_name.as_str(), edits.hooks[0].timeout), ("createContainer", Some(3)));
        assert_eq!(edits.additional_gids, [44]);
    }
}
