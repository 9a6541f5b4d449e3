//! What a container's spec means, whoever runs it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Volume, VolumeDevice,
};
use kube::ResourceExt as _;
use runtime::spec::{Device, Limits, Mount};
use runtime::{Image, huge_pages, inside, selinux};

use crate::Agent;
use crate::environment;
use crate::pod::sandbox::{Places, Sandbox, cgroup, etc};

/// Why a container can't be started: the reason and message of its waiting state.
#[derive(Debug, Clone)]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

pub fn config_error(message: impl Into<String>) -> StartError {
    StartError { reason: "CreateContainerConfigError", message: message.into() }
}

/// A pod's ephemeral containers as plain ones; what makes them special isn't among a container's fields.
pub fn ephemeral(pod: &Pod) -> Vec<Container> {
    let all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    all.filter_map(|c| serde_json::from_value(serde_json::to_value(c).ok()?).ok()).collect()
}

/// The containers that a pod is started with, init containers and sidecars among them. Whoever asks for all containers means these, and
/// mostly the ephemeral ones, too.
pub fn started(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Whether an init container is one that runs beside the main containers (KEP-753).
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container's policy asks for a restart when what differs between two limits changes.
pub fn resize_restarts(container: &Container, before: Option<&Limits>, after: &Limits) -> bool {
    let Some(before) = before else { return false };
    container.resize_policy.iter().flatten().any(|policy| {
        let changed = match policy.resource_name.as_str() {
            "cpu" => (before.cpu_shares, before.cpu_milli) != (after.cpu_shares, after.cpu_milli),
            "memory" => before.memory_bytes != after.memory_bytes,
            _ => false,
        };
        changed && policy.restart_policy == "RestartContainer"
    })
}

/// The weight of a request, in thousandths of a core, within the kernel's bounds, as upstream has it.
pub fn shares(milli: i64) -> u64 {
    let shares = u64::try_from(milli).unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(2, 262_144)
}

/// The most thousandths of a core that anything is limited to: far more than machines have, and what is computed from it (a quota in
/// microseconds) doesn't overflow.
const MOST_MILLI: i64 = 1_000_000_000;

/// What a container may use of the machine.
pub fn limits(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let amount = |map: &Option<BTreeMap<String, _>>, name: &str| -> apimachinery::Quantity {
        let quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            map.as_ref().and_then(|m| m.get(name));
        quantity.and_then(|q| q.0.parse().ok()).unwrap_or_default()
    };
    let milli = |map: &Option<BTreeMap<String, _>>, name: &str| amount(map, name).milli();
    let request = milli(&resources.requests, "cpu");
    Limits {
        cpu_shares: shares(request),
        cpu_milli: milli(&resources.limits, "cpu").clamp(0, MOST_MILLI),
        memory_bytes: amount(&resources.limits, "memory").value().max(0),
        ..Limits::default()
    }
}

/// What a pod may use as a whole: what it says itself, else what its containers may together if each says so.
pub fn pod_limits(pod: &Pod) -> Limits {
    let pod = serde_json::to_value(pod).unwrap_or_default();
    let amounts = |part: &str| api::quota::pod_amounts(&pod, part);
    let spec = &pod["spec"];
    let all = || ["containers", "initContainers"].into_iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    let says = |name: &str| {
        !spec["resources"]["limits"][name].is_null() || all().all(|c| !c["resources"]["limits"][name].is_null())
    };
    let (requests, limits) = (amounts("requests"), amounts("limits"));
    let limit = |name: &str| limits.get(name).filter(|_| says(name)).copied().unwrap_or_default();
    let request = requests.get("cpu").copied().unwrap_or_default().milli();
    let bytes = |name: &str| limits.get(name).map_or(0, |limit| limit.value().max(0) as u64);
    Limits {
        cpu_shares: shares(request),
        cpu_milli: limit("cpu").milli().clamp(0, MOST_MILLI),
        memory_bytes: limit("memory").value().max(0),
        pids: 0,
        // Who asks for none gets none.
        huge_pages: huge_pages::sizes().into_iter().map(|size| (size, bytes(&huge_pages::resource(size)))).collect(),
    }
}

/// The score that upstream gives by QoS class. What a node can't do without is spared, and a sidecar is spared as long as the main
/// containers are.
pub fn oom_score(pod: &Pod, container: &Container) -> i64 {
    let total = i128::from(crate::node::stats::Memory::read().total).max(1);
    oom_score_of(pod, container, total)
}

fn oom_score_of(pod: &Pod, container: &Container, total: i128) -> i64 {
    let Some(spec) = &pod.spec else { return 1000 };
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("BestEffort") => 1000,
        _ => {
            let score = |container: &Container| {
                let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
                let asked = requests.and_then(|r| r.get("memory"));
                let asked = asked.and_then(|q| q.0.parse::<apimachinery::Quantity>().ok()).map_or(0, |q| q.value());
                i64::try_from(1000 - 1000 * i128::from(asked) / total).unwrap_or(3).clamp(3, 999)
            };
            let own = score(container);
            let sidecar = spec.init_containers.iter().flatten().any(|c| c.name == container.name && is_sidecar(c));
            let least = spec.containers.iter().map(score).min().filter(|_| sidecar);
            own.min(least.unwrap_or(own))
        }
    }
}

/// One attempt at running a container.
pub struct Launch<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a Image,
    pub sandbox: &'a Sandbox,
    pub places: &'a Places,
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Proposed by us; an engine may have ids of its own.
    pub id: &'a str,
    pub attempt: i32,
    /// The id of the container whose processes it is to look at.
    pub target: Option<&'a str>,
}

/// A list of the spec with variables in place of their names.
pub fn expanded(list: &Option<Vec<String>>, variables: &BTreeMap<String, String>) -> Result<Vec<String>, StartError> {
    let list = list.as_deref().unwrap_or_default();
    let expanded = environment::expand_all(list, variables);
    expanded.map_err(|error| config_error(format!("the command or the arguments are too large: {error}")))
}

pub fn sysctls(context: &PodSecurityContext) -> Vec<(String, String)> {
    context.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect()
}

/// Where a seccomp profile of the machine (`Localhost`) is.
pub fn seccomp_path(folder: &Path, profile: &SeccompProfile) -> PathBuf {
    folder.join(profile.localhost_profile.as_deref().unwrap_or(""))
}

impl Agent {
    /// The variables of a container; `of_image` are those of its image, as far as they are known.
    pub async fn variables(
        &self,
        launch: &Launch<'_>,
        of_image: &[String],
    ) -> Result<BTreeMap<String, String>, StartError> {
        let Launch { pod, container, sandbox, volumes, .. } = launch;
        self.environment(pod, container, of_image, &sandbox.ips, volumes).await.map_err(config_error)
    }

    /// Makes the cgroup of a pod, with what it may use and weighs as a whole among other pods and its QoS class among the classes.
    pub fn bound_pod(&self, pod: &Pod) -> std::io::Result<()> {
        let cgroup = cgroup(&self.config, pod);
        runtime::cgroup::create(&cgroup)?;
        let limits = Limits { pids: self.config.pod_max_pids, ..pod_limits(pod) };
        runtime::cgroup::set_limits(&cgroup, &limits)?;
        let class = cgroup.rsplit_once('/').map_or("", |(class, _)| class);
        // Guaranteed pods are beside the classes, each with its own weight.
        if class.trim_matches('/') == self.config.cgroup_root.trim_matches('/') {
            return Ok(());
        }
        runtime::cgroup::weigh(class)
    }
}

/// What of the machine a container finds where.
pub fn mounts(launch: &Launch<'_>, variables: &BTreeMap<String, String>) -> Result<Vec<Mount>, StartError> {
    let (container, places) = (launch.container, launch.places);
    let spec = launch.pod.spec.clone().unwrap_or_default();
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let Some(volume) = launch.volumes.get(&wanted.name) else {
            return Err(config_error(format!(
                "cannot find volume {:?} to mount into container {:?}",
                wanted.name, container.name
            )));
        };
        let sub = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (_, Some(expression)) if !expression.is_empty() => {
                environment::expand(expression, variables).map_err(|e| config_error(format!("subPathExpr: {e}")))?
            }
            (Some(path), _) => path.clone(),
            _ => String::new(),
        };
        if is_device(volume) {
            let name = &wanted.name;
            return Err(config_error(format!("volume {name} has volumeMode Block, but is specified in volumeMounts")));
        }
        let source = if sub.is_empty() {
            volume.clone()
        } else {
            let part = places.parts(&container.name).join(mounts.len().to_string());
            bind_part(volume, Path::new(&sub), &part).map_err(|e| {
                config_error(format!("failed to prepare subPath for volumeMount {:?}: {e}", wanted.name))
            })?;
            part
        };
        let propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        };
        let read_only = wanted.read_only.unwrap_or(false) || is_read_only(&spec, &wanted.name);
        let recursive = matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        let target = wanted.mount_path.clone().into();
        mounts.push(Mount {
            source,
            target,
            read_only,
            recursive,
            propagation,
            relabel: is_of_pod(&spec, &wanted.name),
        });
    }
    let own = |target: &str| mounts.iter().any(|m| m.target == Path::new(target));
    let mut extra = Vec::new();
    for file in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{file}");
        if !own(&target) {
            extra.push(Mount {
                source: etc(places, file),
                target: target.into(),
                read_only: false,
                recursive: false,
                propagation: "rprivate",
                relabel: true,
            });
        }
    }
    let message = termination_file(places, &container.name, launch.attempt);
    let write = || -> std::io::Result<()> {
        if let Some(parent) = message.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&message, "")?;
        std::fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))
    };
    write().map_err(|e| config_error(e.to_string()))?;
    let target = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
    extra.push(Mount {
        source: message,
        target: target.into(),
        read_only: false,
        recursive: false,
        propagation: "rprivate",
        relabel: true,
    });
    mounts.extend(extra);
    Ok(mounts)
}

/// Mounts a part of a volume, as it is now, at `target`: containers of the pod may change meanwhile what its path leads to.
fn bind_part(volume: &Path, part: &Path, target: &Path) -> io::Result<()> {
    if part.is_absolute() {
        return Err(io::Error::other(format!("{} must not be an absolute path", part.display())));
    }
    if part.components().any(|c| c == Component::ParentDir) {
        return Err(io::Error::other(format!("{} must not contain '..'", part.display())));
    }
    inside::bind(volume, part, target)
}

/// Whether containers may not write to a volume whatever their mounts say. What the agent keeps up to date is among them: who could
/// put links there would have it write and remove files elsewhere (CVE-2017-1002102).
fn is_read_only(spec: &PodSpec, name: &str) -> bool {
    let claim = |v: &Volume| v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
    let kept =
        |v: &Volume| v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some();
    spec.volumes.iter().flatten().any(|v| v.name == name && (v.image.is_some() || claim(v) || kept(v)))
}

/// Whether a volume's files may get a container's label: not those of the machine, of an image or of a server.
fn is_of_pod(spec: &PodSpec, name: &str) -> bool {
    let other = |v: &Volume| v.host_path.is_some() || v.image.is_some() || v.nfs.is_some();
    !spec.volumes.iter().flatten().any(|v| v.name == name && other(v))
}

/// What a container asks of SELinux, if it asks for anything.
pub fn selinux_options(pod: &PodSecurityContext, own: &SecurityContext) -> Option<selinux::Options> {
    let asked = own.se_linux_options.clone().or_else(|| pod.se_linux_options.clone())?;
    let text = |part: Option<String>| part.unwrap_or_default();
    Some(selinux::Options {
        user: text(asked.user),
        role: text(asked.role),
        kind: text(asked.type_),
        level: text(asked.level),
    })
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// The block volumes of a container (`volumeDevices`, KEP-351).
pub fn devices(launch: &Launch<'_>) -> Result<Vec<Device>, StartError> {
    let spec = launch.pod.spec.clone().unwrap_or_default();
    let wanted = launch.container.volume_devices.iter().flatten();
    let device = |wanted: &VolumeDevice| {
        let name = &wanted.name;
        let missing = || {
            let container = &launch.container.name;
            config_error(format!("cannot find volume {name:?} to pass into container {container:?}"))
        };
        let source = launch.volumes.get(name).ok_or_else(missing)?;
        if !is_device(source) {
            let text = format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices");
            return Err(config_error(text));
        }
        let target = PathBuf::from(&wanted.device_path);
        Ok(Device { source: source.clone(), target, read_only: is_read_only(&spec, name) })
    };
    wanted.map(device).collect()
}

/// The host's side of `terminationMessagePath`.
pub fn termination_file(places: &Places, container: &str, attempt: i32) -> PathBuf {
    places.data.join("messages").join(container).join(attempt.to_string())
}

/// The identity of a container, as `containerID` has it after the scheme.
pub fn new_id(pod: &Pod, container: &str, attempt: i32) -> String {
    let seed = format!("{}/{container}/{attempt}", pod.uid().unwrap_or_default());
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    pki::sha256_hex(format!("{seed}/{stamp}").as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "p"}, "status": {"qosClass": "Burstable"},
            "spec": {"containers": containers, "initContainers": init}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn sidecars_are_spared_as_long_as_main_containers() {
        let asks = |name: &str, memory: &str| json!({"name": name, "resources": {"requests": {"memory": memory}}});
        let mut proxy = asks("proxy", "1");
        proxy["restartPolicy"] = "Always".into();
        let pod = pod(json!([asks("a", "500"), asks("b", "100")]), json!([proxy, asks("plain", "1")]));
        let score = |name: &str| {
            let spec = pod.spec.as_ref().unwrap();
            oom_score_of(&pod, started(spec).find(|c| c.name == name).unwrap(), 1000)
        };
        assert_eq!(["a", "b", "proxy", "plain"].map(score), [500, 900, 500, 999]);
    }

    proptest! {
        /// Whatever amounts a pod names, what is computed from them stays within the kernel's bounds.
        #[test]
        fn extremes_of_amounts_are_borne(
            cpu in "(-)?[0-9]{1,18}(|m|k|M|G|T|P|E)", memory in "(-)?[0-9]{1,18}(|Ki|Mi|Gi|Ti|Pi|Ei)", total in 1i128..1 << 60
        ) {
            let resources = json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
            let pod = pod(json!([{"name": "c", "resources": resources}]), json!([]));
            let container = &pod.spec.as_ref().unwrap().containers[0];
            for limits in [limits(container), pod_limits(&pod)] {
                prop_assert!((2..=262_144).contains(&limits.cpu_shares));
                prop_assert!((0..=MOST_MILLI).contains(&limits.cpu_milli) && limits.memory_bytes >= 0);
            }
            prop_assert!((3..=999).contains(&oom_score_of(&pod, container, total)));
        }
    }
}
