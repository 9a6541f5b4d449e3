//! What a container's spec means, whoever runs it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Volume, VolumeDevice,
};
use kube::ResourceExt as _;
use runtime::spec::{Device, Mount};
use runtime::{Image, inside, selinux};

use crate::environment;
use crate::state::{Places, Sandbox, WaitingReason};

/// Why a container can't be started: the reason and message of its waiting state.
#[derive(Debug, Clone)]
pub struct StartError {
    pub reason: WaitingReason,
    pub message: String,
}

pub fn config_error(message: impl Into<String>) -> StartError {
    StartError { reason: WaitingReason::CreateContainerConfigError, message: message.into() }
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
    /// Environment variables.
    pub variables: &'a BTreeMap<String, String>,
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
                source: places.etc(file),
                target: target.into(),
                read_only: false,
                recursive: false,
                propagation: "rprivate",
                relabel: true,
            });
        }
    }
    let message = places.termination_message(&container.name, launch.attempt);
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

/// The identity of a container, as `containerID` has it after the scheme.
pub fn new_id(pod: &Pod, container: &str, attempt: i32) -> String {
    let seed = format!("{}/{container}/{attempt}", pod.uid().unwrap_or_default());
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    pki::sha256_hex(format!("{seed}/{stamp}").as_bytes())
}
