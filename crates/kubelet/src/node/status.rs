//! The Node's status. Pure but for what it reads of the machine.

use std::collections::BTreeMap;
use std::iter::once;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::{Map, Value, json};

use super::registration::addresses;
use crate::config::{Config, PORT};
use crate::container_runtime::{ContainerRuntime, RuntimeFeatures, Version};
use crate::devices::Amount;
use crate::machine::{MachineInfo, allocatable};
use crate::pod::admission::Pressures;
use crate::spec::resources::is_extended;
use crate::volumes::csi;

/// The most images that are listed (upstream's `nodeStatusMaxImages`), and names of each.
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// A condition, with the time of its last change kept from `before`.
fn condition(before: &[NodeCondition], kind: &str, status: bool, (yes, no): (&str, &str), message: &str) -> Value {
    let now = json!(k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let text = if status { "True" } else { "False" };
    let same = before.iter().find(|c| c.type_ == kind && c.status == text);
    let since = same.and_then(|c| serde_json::to_value(&c.last_transition_time).ok()).filter(|t| !t.is_null());
    json!({"type": kind, "status": text, "reason": if status { yes } else { no }, "message": message,
           "lastHeartbeatTime": now, "lastTransitionTime": since.unwrap_or(now)})
}

/// The conditions of the node, with the times of those of `before` that didn't change. `unready` says why it isn't ready, if it isn't.
pub fn conditions(before: &[NodeCondition], pressures: Pressures, unready: Option<&str>) -> Vec<Value> {
    let of = |kind, is: bool, reasons, (yes, no): (&str, &str)| {
        condition(before, kind, is, reasons, if is { yes } else { no })
    };
    vec![
        of(
            "MemoryPressure",
            pressures.memory,
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        ),
        of(
            "DiskPressure",
            pressures.disk,
            ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            ("kubelet has disk pressure", "kubelet has no disk pressure"),
        ),
        of(
            "PIDPressure",
            pressures.pids,
            ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        ),
        of(
            "Ready",
            unready.is_none(),
            ("KubeletReady", "KubeletNotReady"),
            ("kubelet is posting ready status", unready.unwrap_or("")),
        ),
    ]
}

/// The status that says what this node is and that it is ready.
pub fn status(
    config: &Config,
    runtime: &dyn ContainerRuntime,
    images: &[runtime::Image],
    conditions: Vec<Value>,
    devices: &BTreeMap<String, Amount>,
) -> Value {
    let facts = MachineInfo::gather(&config.data_dir);
    let (mut capacity, mut allocatable) = allocatable::amounts(config, &facts);
    for (resource, amount) in devices {
        capacity[resource] = amount.capacity.to_string().into();
        allocatable[resource] = amount.allocatable.to_string().into();
    }
    let Version { name, version } = runtime.version();
    let features = runtime.features();
    json!({
        "capacity": capacity, "allocatable": allocatable,
        // As a list that is merged by type, two addresses of one type would become one.
        "addresses": addresses(config).into_iter().chain([json!({"$patch": "replace"})]).collect::<Vec<_>>(),
        "volumesInUse": csi::in_use(config),
        "runtimeHandlers": handlers(&features),
        "features": {"supplementalGroupsPolicy": features.supplemental_groups_policy},
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "nodeInfo": {"machineID": facts.machine_id, "systemUUID": facts.machine_id, "bootID": facts.boot_id,
            "kernelVersion": facts.kernel, "osImage": facts.os_image, "containerRuntimeVersion": format!("{name}://{version}"),
            "kubeletVersion": concat!("v1.37.0+timonel", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64"},
        "images": listed(images),
        "conditions": conditions,
    })
}

/// Extended resources that somebody advertised in `status.capacity` are allocatable as they are (kubernetes.io, "Advertise Extended Resources for a
/// Node"), but for those of device plugins, of which only healthy devices are. What has to change in `status.allocatable`; nothing if it is so.
pub fn advertised(node: &Node, devices: &BTreeMap<String, Amount>) -> Map<String, Value> {
    let status = node.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.clone()).unwrap_or_default();
    let allocatable = status.and_then(|status| status.allocatable.clone()).unwrap_or_default();
    let is_other = |name: &String| is_extended(name) && !devices.contains_key(name);
    let new = capacity.iter().filter(|(name, amount)| is_other(name) && allocatable.get(*name) != Some(amount));
    let gone = allocatable.keys().filter(|name| is_other(name) && !capacity.contains_key(*name));
    let new = new.map(|(name, amount)| (name.clone(), json!(amount)));
    new.chain(gone.map(|name| (name.clone(), Value::Null))).collect()
}

/// `status.images`: the largest ones, by which the scheduler saves most.
fn listed(images: &[runtime::Image]) -> Vec<Value> {
    let mut images: Vec<&runtime::Image> = images.iter().collect();
    images.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
    let entry = |image: &runtime::Image| {
        let names: Vec<&String> = image.digests.iter().chain(&image.names).take(MAX_IMAGE_NAMES).collect();
        json!({"names": names, "sizeBytes": image.size})
    };
    images.into_iter().take(MAX_IMAGES).map(entry).collect()
}

/// `status.runtimeHandlers`.
fn handlers(features: &RuntimeFeatures) -> Vec<Value> {
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let handler = |name: &str| {
        json!({"name": name, "features": {"recursiveReadOnlyMounts": has(&features.recursive_read_only, name),
            "userNamespaces": has(&features.user_namespaces, name)}})
    };
    once("").chain(features.handlers.iter().flatten().map(String::as_str)).map(handler).collect()
}

/// The reasons of events for conditions that have another status than `before`.
pub fn transitions(before: &[NodeCondition], now: &[NodeCondition]) -> Vec<&'static str> {
    let reason = |c: &NodeCondition| {
        Some(match (c.type_.as_str(), c.status.as_str()) {
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("MemoryPressure", "False") => "NodeHasSufficientMemory",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("DiskPressure", "False") => "NodeHasNoDiskPressure",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
            ("PIDPressure", "False") => "NodeHasSufficientPID",
            ("Ready", "True") => "NodeReady",
            ("Ready", "False") => "NodeNotReady",
            _ => return None,
        })
    };
    let is_new = |c: &&NodeCondition| !before.iter().any(|b| b.type_ == c.type_ && b.status == c.status);
    now.iter().filter(is_new).filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_is_allocatable_unless_a_plugin_says_how_much_is() {
        let change = |capacity: Value, allocatable: Value| {
            let status = json!({"capacity": capacity, "allocatable": allocatable});
            let node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap();
            let devices = BTreeMap::from([("acme.com/gpu".to_string(), Amount { capacity: 2, allocatable: 1 })]);
            Value::Object(advertised(&node, &devices))
        };
        let (cpu, dongle) = (json!({"cpu": "2"}), json!({"cpu": "2", "example.com/dongle": "4"}));
        assert_eq!(change(dongle.clone(), json!({"cpu": "1"})), json!({"example.com/dongle": "4"}));
        assert_eq!(change(dongle.clone(), dongle.clone()), json!({}));
        assert_eq!(change(cpu, dongle), json!({"example.com/dongle": null}));
        assert_eq!(change(json!({"kubernetes.io/x": "1", "memory": "1Ki"}), json!({})), json!({}));
        assert_eq!(change(json!({"a.com/x": "2"}), json!({"a.com/x": "1"})), json!({"a.com/x": "2"}));
        assert_eq!(change(json!({"acme.com/gpu": "2"}), json!({"acme.com/gpu": "1"})), json!({}));
    }

    #[test]
    fn the_largest_images_are_listed() {
        let image = |size: u64| {
            let names = (0..9).map(|n| format!("i{size}:{n}")).collect();
            let digests = vec!["i@sha256:0".into()];
            let (layers, defaults) = (Vec::new(), Default::default());
            runtime::Image { id: size.to_string(), size, names, digests, layers, defaults, unsettled: None }
        };
        let told = listed(&(0..60).map(image).collect::<Vec<_>>());
        assert_eq!((told.len(), &told[0]["sizeBytes"], &told[49]["sizeBytes"]), (50, &json!(59), &json!(10)));
        assert_eq!(told[0]["names"], json!(["i@sha256:0", "i59:0", "i59:1", "i59:2", "i59:3"]));
    }
}
