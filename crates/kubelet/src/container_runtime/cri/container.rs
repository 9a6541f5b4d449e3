//! From a container's spec to the runtime's words.

use std::path::Path;

use ::cri::v1;
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, SeccompProfile, SecurityContext, VolumeMount};
use runtime::Image;
use runtime::spec::{Limits, Mount, READ_ONLY, masked};

use super::{CONTAINER_NAME, sandbox};
use crate::container_runtime::launch::{
    Launch, StartError, config_error, devices, expanded, mounts, seccomp_path, selinux_options,
};
use crate::container_runtime::{NodeHandles, RuntimeFeatures, runtime_class};
use crate::machine::Memory;
use crate::spec::resources::{limits, oom_score};

/// A container as the CRI has it.
///
/// # Errors
/// When the runtime can't do what the spec asks for, or a volume is missing.
pub async fn configuration(
    node: &NodeHandles,
    features: &RuntimeFeatures,
    launch: &Launch<'_>,
    owner: &str,
) -> Result<v1::ContainerConfig, StartError> {
    let Launch { pod, container, image, sandbox, .. } = launch;
    let spec = pod.spec.clone().unwrap_or_default();
    let context = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let variables = launch.variables;
    let handler = runtime_class::handler(&node.client, &spec).await.map_err(|e| config_error(e.to_string()))?;
    let mut labels = sandbox::labels(pod, owner);
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    let annotations = [
        ("io.kubernetes.container.restartCount", launch.attempt.to_string()),
        (
            "io.kubernetes.container.terminationMessagePath",
            container.termination_message_path.clone().unwrap_or_default(),
        ),
    ];
    let own_annotations = annotations.into_iter().map(|(key, value)| (key.to_string(), value));
    let mut namespaces = sandbox::namespaces(&spec, sandbox.first_user);
    if let Some(target) = launch.target {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = target.into();
    }
    let asked = container.image.clone().unwrap_or_default();
    let mounts = resolved_mounts(features, &handler, launch)?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: launch.attempt as u32 }),
        image: Some(v1::ImageSpec { image: image.id.clone(), user_specified_image: asked, ..Default::default() }),
        command: expanded(&container.command, variables)?,
        args: expanded(&container.args, variables)?,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts.into_iter().map(|m| mount(m, sandbox.first_user)).collect(),
        devices: devices(launch)?
            .into_iter()
            .map(|device| v1::Device {
                container_path: device.target.display().to_string(),
                host_path: device.source.display().to_string(),
                permissions: runtime::devices::letters(device.access),
            })
            .collect(),
        envs: variables.all.clone().into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        labels,
        annotations: own_annotations.chain(launch.devices.annotations.clone()).collect(),
        log_path: format!("{}/{}.log", container.name, launch.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&limits(container), Some(oom_score(pod, container, Memory::read().total)))),
            security_context: Some(security(&node.config.seccomp_dir(), &context, &own, image, namespaces)?),
        }),
        cdi_devices: launch.devices.cdi.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
    })
}

/// The mounts of a container, as far as the runtime's handler can make them recursively read-only.
fn resolved_mounts(features: &RuntimeFeatures, handler: &str, launch: &Launch<'_>) -> Result<Vec<Mount>, StartError> {
    let mut mounts = mounts(launch)?;
    if features.recursive_read_only.iter().any(|able| able == handler) {
        return Ok(mounts);
    }
    let insists = |m: &&VolumeMount| m.recursive_read_only.as_deref() == Some("Enabled");
    if let Some(mount) = launch.container.volume_mounts.iter().flatten().find(insists) {
        return Err(config_error(format!(
            "failed to resolve recursive read-only mode for volume {:?}: the container runtime has none",
            mount.name
        )));
    }
    mounts.iter_mut().for_each(|mount| mount.recursive = false);
    Ok(mounts)
}

fn mount(mount: Mount, first_user: Option<u32>) -> v1::Mount {
    let propagation = match mount.propagation {
        "rslave" => v1::MountPropagation::PropagationHostToContainer,
        "rshared" => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    let users: Vec<v1::IdMapping> = first_user.map(sandbox::mapping).into_iter().collect();
    v1::Mount {
        container_path: mount.target.display().to_string(),
        host_path: mount.source.display().to_string(),
        readonly: mount.read_only,
        propagation: propagation as i32,
        uid_mappings: users.clone(),
        gid_mappings: users,
        recursive_read_only: mount.read_only && mount.recursive,
        selinux_relabel: mount.relabel,
    }
}

/// Limits in the runtime's words; without a score that of the container stays.
pub fn resources(limits: &Limits, oom_score: Option<i64>) -> v1::LinuxContainerResources {
    const PERIOD: i64 = 100_000;
    v1::LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: if limits.cpu_milli > 0 { (limits.cpu_milli * PERIOD / 1000).max(1000) } else { 0 },
        cpu_shares: limits.cpu_shares as i64,
        memory_limit_in_bytes: limits.memory_bytes,
        oom_score_adj: oom_score.unwrap_or(0),
    }
}

fn security(
    seccomp_dir: &Path,
    context: &PodSecurityContext,
    own: &SecurityContext,
    image: &Image,
    namespaces: v1::NamespaceOption,
) -> Result<v1::LinuxContainerSecurityContext, StartError> {
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    // What an image says is known to the runtime, which says the user's number, or its name.
    let asked = own.run_as_user.or(context.run_as_user);
    let number = asked.or_else(|| image.defaults.user.parse().ok());
    let name = if number.is_none() { image.defaults.user.clone() } else { String::new() };
    if own.run_as_non_root.or(context.run_as_non_root) == Some(true) {
        if number == Some(0) || (number.is_none() && name.is_empty()) {
            return Err(config_error("container has runAsNonRoot and image will run as root"));
        }
        if number.is_none() {
            return Err(config_error(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )));
        }
    }
    let group = own.run_as_group.or(context.run_as_group);
    let groups = context.supplemental_groups.iter().flatten().chain(&context.fs_group).copied().collect();
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let shown = |paths: Vec<String>| if unmasked { Vec::new() } else { paths };
    let value = |value| v1::Int64Value { value };
    let seccomp = own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref());
    let app_armor = own.app_armor_profile.as_ref().or(context.app_armor_profile.as_ref());
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        // A group without a user is refused.
        run_as_user: number.or(group.filter(|_| name.is_empty()).map(|_| 0)).map(value),
        run_as_username: name,
        run_as_group: group.map(value),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups,
        supplemental_groups_policy: if strict { 1 } else { 0 },
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: shown(masked()),
        readonly_paths: shown(READ_ONLY.map(String::from).into()),
        seccomp: Some(seccomp_profile(seccomp_dir, seccomp)),
        apparmor: app_armor.map(app_armor_profile),
        selinux_options: selinux_options(context, own).map(sandbox::selinux),
    })
}

fn seccomp_profile(folder: &Path, profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match profile.map(|p| (p.type_.as_str(), p)) {
        Some(("RuntimeDefault", _)) => of_kind(RuntimeDefault, String::new()),
        Some(("Localhost", own)) => of_kind(Localhost, seccomp_path(folder, own).display().to_string()),
        _ => of_kind(Unconfined, String::new()),
    }
}

fn app_armor_profile(profile: &AppArmorProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match profile.type_.as_str() {
        "RuntimeDefault" => of_kind(RuntimeDefault, String::new()),
        "Localhost" => of_kind(Localhost, profile.localhost_profile.clone().unwrap_or_default()),
        _ => of_kind(Unconfined, String::new()),
    }
}

fn of_kind(kind: v1::security_profile::ProfileType, reference: String) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: reference }
}
