//! What is written down of published CSI volumes, so that nothing stays mounted whatever dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::state::{self, PodDirs};

/// What is kept of a published volume until its driver has let it go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The driver's name.
    pub driver: String,
    /// The volume's handle.
    pub handle: String,
    /// Where it is published.
    pub target: PathBuf,
    /// Where it is staged, if its driver stages volumes.
    pub staged: Option<PathBuf>,
    /// It was attached to the node, and may be taken from it.
    #[serde(default)]
    pub attached: bool,
}

/// What the node uses of what is attached to it, as `status.volumesInUse` names it.
pub fn in_use(config: &Config) -> BTreeSet<String> {
    let attached = all_records(config).filter(|(_, r)| r.attached);
    attached.map(|(_, r)| ::csi::unique_volume_name(&r.driver, &r.handle)).collect()
}

/// The records of one pod.
pub fn records(pod: &Path) -> Vec<(PathBuf, Record)> {
    let files = std::fs::read_dir(pod.join("csi")).into_iter().flatten().flatten();
    files
        .filter_map(|f| {
            Some((f.path(), serde_json::from_slice(&bounded::bytes(f.path(), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()?))
        })
        .collect()
}

/// The records of all pods.
pub fn all_records(config: &Config) -> impl Iterator<Item = (PathBuf, Record)> {
    state::pod_folders(config).flat_map(|pod| records(&pod.path()))
}

/// Writes a record.
///
/// # Errors
/// Those of the file system.
pub fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    bounded::durable::replace(path, &serde_json::to_vec(record)?)
}

/// The file that says that a volume is published. It ends with the machine, as the mount does.
pub fn mark(dirs: &PodDirs, volume: &str) -> PathBuf {
    dirs.run.join("csi").join(volume)
}
