//! What is kept of allocated devices on disk, so that a restart takes none of them from its pod: a file by upstream's name and of its form
//! (`pkg/kubelet/cm/devicemanager/checkpoint`), as programs of vendors read it, but for the checksum, which is of upstream's memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use plugins::deviceplugin::ContainerAllocateResponse;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::inventory::{Allocation, Inventory, PodAllocations};

/// Upstream's name of the file.
pub const FILE: &str = "kubelet_internal_checkpoint";
/// The most of devices' ids that nobody has, in bytes.
const MAX_LISTED_BYTES: usize = 4 << 20;
/// Where devices stand that have no NUMA node.
const NO_NODE: i64 = -1;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Vec<Entry>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    /// By NUMA node.
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Vec<String>>,
    /// A `ContainerAllocateResponse` in protobuf, in base64.
    #[serde(rename = "AllocResp")]
    alloc_resp: String,
}

fn entry(uid: &str, container: &str, resource: &str, allocation: &Allocation) -> Entry {
    let mut device_ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for (id, nodes) in &allocation.devices {
        let nodes: &[i64] = if nodes.is_empty() { &[NO_NODE] } else { nodes };
        nodes.iter().for_each(|node| device_ids.entry(*node).or_default().push(id.clone()));
    }
    Entry {
        pod_uid: uid.into(),
        container_name: container.into(),
        resource_name: resource.into(),
        device_ids,
        alloc_resp: STANDARD.encode(allocation.response.encode_to_vec()),
    }
}

impl Entry {
    fn allocation(&self) -> Option<Allocation> {
        let mut devices: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (node, ids) in &self.device_ids {
            for id in ids {
                devices.entry(id.clone()).or_default().extend(Some(*node).filter(|node| *node != NO_NODE));
            }
        }
        let response = ContainerAllocateResponse::decode(STANDARD.decode(&self.alloc_resp).ok()?.as_slice()).ok()?;
        Some(Allocation { devices, response })
    }
}

/// Writes the file.
///
/// # Errors
/// Those of the file system.
pub fn write(folder: &Path, inventory: &Inventory) -> io::Result<()> {
    let entries = inventory.allocations().iter().flat_map(|(uid, pod)| {
        let of_container = move |(container, resources): (&String, &BTreeMap<String, Allocation>)| {
            resources.iter().map(|(r, allocation)| entry(uid, container, r, allocation)).collect::<Vec<_>>()
        };
        pod.iter().flat_map(of_container)
    });
    let mut registered: BTreeMap<String, Vec<String>> =
        inventory.resources().map(|r| (r.clone(), Vec::new())).collect();
    // Plugins tell their devices again when they come back; they are here for those who read along.
    let mut room = MAX_LISTED_BYTES;
    for (resource, device, _) in inventory.allocatable() {
        room = room.saturating_sub(device.len());
        if room > 0 {
            registered.entry(resource.clone()).or_default().push(device.clone());
        }
    }
    let data = Data { pod_device_entries: entries.collect(), registered_devices: registered };
    let text = serde_json::to_vec(&Checkpoint { data })?;
    if text.len() as u64 > bounded::MAX_OWN_FILE_BYTES {
        return Err(io::Error::other(format!("it has {} bytes, and could not be read again", text.len())));
    }
    bounded::durable::replace(&folder.join(FILE), &text)
}

/// Reads the file; without one there are no devices yet.
///
/// # Errors
/// When the file can't be read, or isn't a checkpoint.
pub fn read(folder: &Path, now: Instant) -> io::Result<Inventory> {
    let text = match bounded::bytes(folder.join(FILE), bounded::MAX_OWN_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inventory::default()),
        other => other?,
    };
    let Checkpoint { data } = serde_json::from_slice(&text)?;
    let mut allocations: BTreeMap<String, PodAllocations> = BTreeMap::new();
    for entry in data.pod_device_entries {
        let Some(allocation) = entry.allocation() else {
            let (pod, container) = (&entry.pod_uid, &entry.container_name);
            tracing::error!(pod, container, "failed to read which devices a container has from the checkpoint");
            continue;
        };
        let pod = allocations.entry(entry.pod_uid).or_default();
        pod.entry(entry.container_name).or_default().insert(entry.resource_name, allocation);
    }
    Ok(Inventory::restored(data.registered_devices.into_keys().collect(), allocations, now))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plugins::deviceplugin::{Device, DeviceSpec, HEALTHY, NumaNode, TopologyInfo};

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), Instant::now()).unwrap().allocations().is_empty(), "there is no file at first");
        let mut inventory = Inventory::default();
        let topology = || Some(TopologyInfo { nodes: vec![NumaNode { id: 0 }, NumaNode { id: 1 }] });
        let device = |id: &str, topology| Device { id: id.into(), health: HEALTHY.into(), topology };
        inventory.connected("acme.com/gpu");
        inventory.update("acme.com/gpu", vec![device("a", None), device("b", topology()), device("c", None)]);
        inventory.reserve(("uid", "main"), "acme.com/gpu", 2, &BTreeSet::new(), &[]).unwrap();
        let spec = DeviceSpec { container_path: "/dev/a".into(), host_path: "/dev/b".into(), permissions: "rw".into() };
        let response = ContainerAllocateResponse {
            envs: [("A".to_string(), "1".to_string())].into(),
            devices: vec![spec],
            ..ContainerAllocateResponse::default()
        };
        inventory.complete(("uid", "main"), "acme.com/gpu", response);
        write(folder.path(), &inventory).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.contains(r#""DeviceIDs":{"-1":["a"],"0":["b"],"1":["b"]}"#), "{text}");
        assert!(text.contains(r#""RegisteredDevices":{"acme.com/gpu":["a","b","c"]}"#), "{text}");
        let again = read(folder.path(), Instant::now()).unwrap();
        assert_eq!(again.allocations(), inventory.allocations());
        assert!(again.resources().eq(["acme.com/gpu"]));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        read(folder.path(), Instant::now()).unwrap_err();
    }
}
