//! `emptyDir`: on the node's disk, in memory, or of huge pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MsFlags, mount};
use runtime::rootfs;

use super::VolumeError;
use crate::config::Config;
use crate::machine::{MachineInfo, allocatable};
use crate::spec::resources::pod_limits;

/// Makes the folder of a volume, with what its medium asks for mounted on it.
///
/// # Errors
/// When the folder can't be made, or the pod doesn't ask for the huge pages.
pub fn publish(config: &Config, pod: &Pod, source: &EmptyDirVolumeSource, folder: &Path) -> Result<(), VolumeError> {
    make_open(folder)?;
    let medium = source.medium.as_deref().unwrap_or("");
    if rootfs::is_mounted(folder) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if medium == "Memory" {
        let (_, allocatable) = allocatable::amounts(config, &MachineInfo::gather(&config.data_dir));
        let allocatable = Quantity::from_json(&allocatable["memory"]).unwrap_or_default();
        let asked = source.size_limit.as_ref().and_then(|q| q.0.parse().ok());
        let size = memory_size(allocatable, pod_limits(pod).memory_bytes, asked);
        let options = format!("mode=1777,size={size}");
        mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(|error| VolumeError::Refused(error.to_string()))?;
    }
    if medium.starts_with("HugePages") {
        let options = format!("mode=1777,pagesize={}", page_size(pod, medium)?);
        mount(Some("hugetlbfs"), folder, Some("hugetlbfs"), flags, Some(options.as_str()))
            .map_err(|error| VolumeError::Refused(format!("no huge pages can be mounted: {error}")))?;
    }
    Ok(())
}

/// The size of a volume in memory, in bytes (KEP-1967): no more than the pod may use, or all pods of the node together, and no more than
/// is asked for, if anything is.
fn memory_size(of_node: Quantity, of_pod: i64, asked: Option<Quantity>) -> i64 {
    let node = of_node.value().max(1);
    let most = Some(of_pod).filter(|pod| (1..=node).contains(pod)).unwrap_or(node);
    asked.map(Quantity::value).filter(|asked| (1..most).contains(asked)).unwrap_or(most)
}

/// The size of the huge pages of an `emptyDir`: that which its medium names, or the only one that the pod asks for.
fn page_size(pod: &Pod, medium: &str) -> Result<String, VolumeError> {
    let refuse = |why: String| Err(VolumeError::Refused(why));
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let of_containers = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref());
    let of_pod = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref());
    let asked: BTreeSet<&str> = of_containers
        .chain(of_pod)
        .flat_map(BTreeMap::keys)
        .filter_map(|name| name.strip_prefix("hugepages-"))
        .collect();
    let wanted = medium.strip_prefix("HugePages").unwrap_or("").trim_start_matches('-');
    let size = match (wanted, asked.len()) {
        ("", 1) => asked.first().copied().unwrap_or(""),
        ("", 0) => return refuse("the pod asks for no huge pages (resources hugepages-2Mi and the like)".into()),
        ("", _) => {
            return refuse(
                "the pod asks for huge pages of several sizes: the medium must be HugePages-2Mi or the like".into(),
            );
        }
        (size, _) if asked.contains(size) => size,
        (size, _) => {
            return refuse(format!("the pod asks for no hugepages-{size}, which the medium {medium} is made of"));
        }
    };
    Ok(size.trim_end_matches('i').into())
}

/// Makes a folder in which everybody may write, unless it is there: from then on its rights are its users' to change.
fn make_open(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    // It has its name only once it has its rights, which making alone doesn't give under a mask.
    let new = folder.with_extension("new~");
    std::fs::create_dir_all(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o777))?;
    #[expect(clippy::disallowed_methods, reason = "an empty folder")]
    std::fs::rename(new, folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_memory_is_bounded_whatever_is_asked_for() {
        let size = |asked: Option<&str>, of_pod: i64| {
            memory_size("1Gi".parse().unwrap(), of_pod, asked.map(|text| text.parse().unwrap()))
        };
        for (asked, of_pod, want) in [
            (None, 0, 1 << 30),
            (Some("0"), 0, 1 << 30),
            (Some("-1"), 0, 1 << 30),
            (Some("9E"), 0, 1 << 30),
            (Some("1Mi"), 0, 1 << 20),
            (None, 64 << 20, 64 << 20),
            (Some("128Mi"), 64 << 20, 64 << 20),
            (Some("1Mi"), 64 << 20, 1 << 20),
            (None, i64::MAX, 1 << 30),
        ] {
            assert_eq!(size(asked, of_pod), want, "{asked:?} {of_pod}");
        }
    }
}
