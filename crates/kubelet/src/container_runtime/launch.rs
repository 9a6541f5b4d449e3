//! One attempt at running a container, and what its spec means for every runtime.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Volume, VolumeDevice, VolumeMount,
};
use kube::ResourceExt as _;
use runtime::spec::{Device, Mount};
use runtime::{Image, devices, inside, selinux};

use crate::config::dotted_sysctl;
use crate::devices::ContainerDevices;
use crate::environment::{self, ContainerVariables};
use crate::state::{PodDirs, Sandbox, WaitingReason};

/// Why a container can't be started: the reason and message of its waiting state.
#[derive(Debug, Clone)]
pub struct StartError {
    /// The reason of the waiting state.
    pub reason: WaitingReason,
    /// The message of the waiting state.
    pub message: String,
}

/// A [`WaitingReason::CreateContainerConfigError`].
pub fn config_error(message: impl Into<String>) -> StartError {
    StartError { reason: WaitingReason::CreateContainerConfigError, message: message.into() }
}

/// One attempt at running a container.
pub struct Launch<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its image, which is present.
    pub image: &'a Image,
    /// The pod's sandbox.
    pub sandbox: &'a Sandbox,
    /// The pod's folders.
    pub dirs: &'a PodDirs,
    /// The pod's volumes by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Proposed by us; an engine may have ids of its own.
    pub id: &'a str,
    /// Counts the container's runs from zero.
    pub attempt: i32,
    /// Environment variables.
    pub variables: &'a ContainerVariables,
    /// The id of the container whose process namespace it joins (`targetContainerName`).
    pub target: Option<&'a str>,
    /// What device plugins give it.
    pub devices: &'a ContainerDevices,
}

/// A list of the spec with variables in place of their names.
///
/// # Errors
/// `CreateContainerConfigError` when the list would become larger than a command may be.
pub fn expanded(list: &Option<Vec<String>>, variables: &ContainerVariables) -> Result<Vec<String>, StartError> {
    let list = list.as_deref().unwrap_or_default();
    let expanded = environment::expand_all(list, &variables.named);
    expanded.map_err(|error| config_error(format!("the command or the arguments are too large: {error}")))
}

/// The kernel parameters that a pod sets.
pub fn sysctls(context: &PodSecurityContext) -> Vec<(String, String)> {
    context.sysctls.iter().flatten().map(|s| (dotted_sysctl(&s.name), s.value.clone())).collect()
}

/// Where a seccomp profile of the machine (`Localhost`) is.
pub fn seccomp_path(folder: &Path, profile: &SeccompProfile) -> PathBuf {
    folder.join(profile.localhost_profile.as_deref().unwrap_or(""))
}

/// The mounts of a container: its volumes, the files of the pod's `/etc` and that of the termination message.
///
/// # Errors
/// When a volume is missing, or a part of it (`subPath`) can't be mounted.
pub fn mounts(launch: &Launch<'_>) -> Result<Vec<Mount>, StartError> {
    let spec = launch.pod.spec.clone().unwrap_or_default();
    let mut mounts = Vec::new();
    for wanted in launch.container.volume_mounts.iter().flatten() {
        let mount = volume_mount(launch, &spec, wanted, mounts.len())?;
        mounts.push(mount);
    }
    let mut own = Vec::new();
    for file in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{file}");
        if !mounts.iter().any(|m| m.target == Path::new(&target)) {
            own.push(own_file(launch.dirs.etc(file), target));
        }
    }
    let message = launch.dirs.termination_message(&launch.container.name, launch.attempt);
    make_message_file(&message).map_err(|e| config_error(e.to_string()))?;
    let target = launch.container.termination_message_path.clone();
    own.push(own_file(message, target.unwrap_or_else(|| "/dev/termination-log".into())));
    mounts.extend(own);
    // What a volume is mounted at stays the volume's.
    for mount in &launch.devices.mounts {
        if !mounts.iter().any(|m| m.target == Path::new(&mount.container_path)) {
            mounts.push(Mount { read_only: mount.read_only, ..plugin_mount(&mount.host_path, &mount.container_path) });
        }
    }
    Ok(mounts)
}

/// The mount of a file that the kubelet writes.
fn own_file(source: PathBuf, target: String) -> Mount {
    let target = target.into();
    Mount {
        source,
        target,
        read_only: false,
        recursive: false,
        propagation: "rprivate",
        relabel: true,
        options: Vec::new(),
    }
}

/// The mount of a file or folder of the machine that belongs to a device.
pub fn plugin_mount(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Mount {
    Mount {
        source: source.into(),
        target: target.into(),
        read_only: false,
        recursive: false,
        propagation: "rprivate",
        relabel: false,
        options: Vec::new(),
    }
}

/// Makes the empty file of a termination message, to which every user of the container may write.
fn make_message_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, "")?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

/// One of a container's `volumeMounts`; `number` is its place among them.
fn volume_mount(launch: &Launch<'_>, spec: &PodSpec, wanted: &VolumeMount, number: usize) -> Result<Mount, StartError> {
    let (container, name, variables) = (launch.container, &wanted.name, &launch.variables.named);
    let Some(volume) = launch.volumes.get(name) else {
        let why = format!("cannot find volume {name:?} to mount into container {:?}", container.name);
        return Err(config_error(why));
    };
    let sub = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (_, Some(expression)) if !expression.is_empty() => {
            environment::expand_known(expression, variables).map_err(|e| config_error(format!("subPathExpr: {e}")))?
        }
        (Some(path), _) => path.clone(),
        _ => String::new(),
    };
    if is_device(volume) {
        return Err(config_error(format!("volume {name} has volumeMode Block, but is specified in volumeMounts")));
    }
    let source = if sub.is_empty() {
        volume.clone()
    } else {
        let part = launch.dirs.parts(&container.name).join(number.to_string());
        bind_part(volume, Path::new(&sub), &part)
            .map_err(|e| config_error(format!("failed to prepare subPath for volumeMount {name:?}: {e}")))?;
        part
    };
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "rprivate",
    };
    Ok(Mount {
        source,
        target: wanted.mount_path.clone().into(),
        read_only: wanted.read_only.unwrap_or(false) || is_read_only(spec, name),
        recursive: matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation,
        relabel: is_of_pod(spec, name),
        options: Vec::new(),
    })
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

/// Whether containers may not write to a volume whatever their mounts say. Those that the kubelet keeps up to date are among them: a
/// link in them would have it write and remove files elsewhere (CVE-2017-1002102).
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

/// The devices of a container: its block volumes (`volumeDevices`, KEP-351), and those of device plugins.
///
/// # Errors
/// `CreateContainerConfigError` when the pod has no such volume, or it is no block device.
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
        let write = if is_read_only(&spec, name) { 0 } else { devices::WRITE };
        let access = devices::READ | devices::MAKE | write;
        Ok(Device { source: source.clone(), target, access, ..Device::default() })
    };
    let of_plugins = launch.devices.devices.iter().map(|device| {
        let access = devices::access(&device.permissions);
        let (source, target) = (device.host_path.clone().into(), device.container_path.clone().into());
        Ok(Device { source, target, access, ..Device::default() })
    });
    wanted.map(device).chain(of_plugins).collect()
}

/// The identity of a container, as `containerID` has it after the scheme.
pub fn new_id(pod: &Pod, container: &str, attempt: i32) -> String {
    let seed = format!("{}/{container}/{attempt}", pod.uid().unwrap_or_default());
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    pki::sha256_hex(format!("{seed}/{stamp}").as_bytes())
}
