//! From a container's spec to the runtime's configuration, and its start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SecurityContext, Volume, VolumeDevice};
use kube::ResourceExt as _;
use runtime::protocol::Start;
use runtime::spec::{ContainerConfig, Device, Limits, Mount};
use runtime::{Image, ShimClient, rootfs};

use crate::sandbox::{Places, Sandbox, cgroup, etc};
use crate::{Agent, env};

/// Why a container can't be started: the reason and message of its waiting state.
#[derive(Debug, Clone)]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

fn config_error(message: impl Into<String>) -> StartError {
    StartError { reason: "CreateContainerConfigError", message: message.into() }
}

/// User and groups that a container runs as.
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// A line of `/etc/passwd` or `/etc/group` by name or number: its fields.
fn account(rootfs: &Path, file: &str, wanted: &str) -> Option<Vec<String>> {
    let path = rootfs::resolve_inside(rootfs, Path::new(file)).ok()?;
    let text = std::fs::read_to_string(path).ok()?;
    let fields = |line: &str| line.split(':').map(String::from).collect::<Vec<_>>();
    text.lines().map(fields).find(|f| f.first().is_some_and(|n| n == wanted) || f.get(2).is_some_and(|n| n == wanted))
}

fn identity(
    rootfs: &Path,
    image_user: &str,
    pod: &PodSecurityContext,
    own: &SecurityContext,
) -> Result<Identity, StartError> {
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let number = |file: &str, name: &str| -> Result<(u32, Option<u32>), StartError> {
        let entry = account(rootfs, file, name);
        let third = entry.as_ref().and_then(|f| f.get(2)).and_then(|n| n.parse().ok());
        let fourth = entry.as_ref().and_then(|f| f.get(3)).and_then(|n| n.parse().ok());
        match name.parse().ok().or(third) {
            Some(id) => Ok((id, fourth)),
            None => Err(StartError {
                reason: "CreateContainerError",
                message: format!("unable to find user {name}: no matching entries in passwd file"),
            }),
        }
    };
    let asked_user = own.run_as_user.or(pod.run_as_user).map(|u| u.to_string());
    let user = asked_user.as_deref().unwrap_or(if user.is_empty() { "0" } else { user });
    let (uid, primary) = number("/etc/passwd", user)?;
    let gid = match own.run_as_group.or(pod.run_as_group) {
        Some(gid) => gid as u32,
        None if !group.is_empty() && asked_user.is_none() => number("/etc/group", group)?.0,
        None => primary.unwrap_or(0),
    };
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) && uid == 0 {
        return Err(config_error("container has runAsNonRoot and image will run as root"));
    }
    let mut groups: Vec<u32> = pod.supplemental_groups.iter().flatten().map(|g| *g as u32).collect();
    if pod.supplemental_groups_policy.as_deref() != Some("Strict") {
        groups.extend(memberships(rootfs, uid));
    }
    groups.extend(pod.fs_group.map(|g| g as u32));
    Ok(Identity { uid, gid, groups })
}

/// The groups that an image's own files put a user in.
fn memberships(rootfs: &Path, uid: u32) -> Vec<u32> {
    let Some(name) = account(rootfs, "/etc/passwd", &uid.to_string()).and_then(|f| f.into_iter().next()) else {
        return Vec::new();
    };
    let Ok(path) = rootfs::resolve_inside(rootfs, Path::new("/etc/group")) else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member.trim() == name);
        fields.get(2)?.parse().ok().filter(|_| is_member)
    };
    text.lines().filter_map(group).collect()
}

/// A pod's ephemeral containers as plain ones; what makes them special isn't among a container's fields.
pub fn ephemeral(pod: &Pod) -> Vec<Container> {
    let all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    all.filter_map(|c| serde_json::from_value(serde_json::to_value(c).ok()?).ok()).collect()
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

/// The weight of a request, in thousandths of a core.
fn shares(milli: i64) -> u64 {
    ((milli * 1024 / 1000) as u64).max(2)
}

/// What a container may use of the machine.
pub fn limits(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let milli = |map: &Option<BTreeMap<String, _>>, name: &str| -> i64 {
        let quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            map.as_ref().and_then(|m| m.get(name));
        quantity.and_then(|q| q.0.parse::<apimachinery::Quantity>().ok()).map_or(0, apimachinery::Quantity::milli)
    };
    let request = milli(&resources.requests, "cpu");
    Limits {
        cpu_shares: shares(request),
        cpu_milli: milli(&resources.limits, "cpu"),
        memory_bytes: milli(&resources.limits, "memory") / 1000,
        pids: 0,
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
    Limits {
        cpu_shares: shares(request),
        cpu_milli: limit("cpu").milli(),
        memory_bytes: limit("memory").value(),
        pids: 0,
    }
}

/// The score that upstream gives by QoS class.
fn oom_score(pod: &Pod, container: &Container) -> i64 {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("BestEffort") => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let asked = requests.and_then(|r| r.get("memory")).and_then(|q| q.0.parse::<apimachinery::Quantity>().ok());
            let total = crate::node::NodeFacts::gather(Path::new("/")).memory_kib as i64 * 1024;
            let asked = asked.map_or(0, apimachinery::Quantity::value);
            (1000 - 1000 * asked / total.max(1)).clamp(3, 999)
        }
    }
}

/// The seccomp profile of a container: whether it is the default one, and the text of its own.
fn confined(
    folder: &Path,
    pod: &PodSecurityContext,
    own: &SecurityContext,
) -> Result<(bool, Option<String>), StartError> {
    let Some(profile) = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()) else { return Ok((false, None)) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok((true, None)),
        "Localhost" => {
            let path = folder.join(profile.localhost_profile.as_deref().unwrap_or(""));
            let failed = |why: String| StartError {
                reason: "CreateContainerError",
                message: format!("cannot load seccomp profile {:?}: {why}", path.display().to_string()),
            };
            let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
            runtime::seccomp_profile(&text).map_err(failed)?;
            Ok((false, Some(text)))
        }
        _ => Ok((false, None)),
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
    pub id: &'a str,
    pub attempt: i32,
    /// Of another container, for one that looks at it.
    pub process_namespace: Option<PathBuf>,
}

impl Agent {
    /// Prepares a container's file system and starts it.
    ///
    /// # Errors
    /// With what its waiting state should say.
    pub async fn launch(&self, launch: Launch<'_>, shim: &ShimClient) -> Result<(), StartError> {
        let create_error = |e: std::io::Error| StartError { reason: "CreateContainerError", message: e.to_string() };
        let Launch { pod, container, image, places, id, .. } = launch;
        let bundle = places.container(id);
        let layers = self.images.layer_paths(image);
        let root = bundle.join("rootfs");
        rootfs::mount_overlay(&layers, &places.writable(id), &root, launch.sandbox.users(places).as_ref())
            .map_err(create_error)?;
        let config = self.container_config(&launch, &root).await?;
        runtime::spec::write_bundle(&bundle, &config, &places.namespaces(), &places.shm()).map_err(create_error)?;
        // For exec, which uses the same user, groups, capabilities and variables.
        let process = runtime::spec::process(&config, &[], false);
        std::fs::write(bundle.join("process.json"), process.to_string()).map_err(create_error)?;
        runtime::cgroup::create(&cgroup(&self.config, pod)).map_err(create_error)?;
        let profile = bundle.join("seccomp.json");
        if let Some(text) = &config.profile {
            std::fs::write(&profile, text).map_err(create_error)?;
        }
        let start = Start {
            id: id.into(),
            bundle: bundle.display().to_string(),
            root: places.run.join("oci").display().to_string(),
            log: places.log(&container.name, launch.attempt).display().to_string(),
            tty: config.tty,
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            cgroup: config.cgroup.clone(),
            confined: runtime::spec::confinement(&config),
            profile: config.profile.is_some().then(|| profile.display().to_string()),
            owner: config.users.as_ref().map_or(0, |users| users.first) + config.uid,
            users: config.users.clone(),
        };
        std::fs::create_dir_all(&start.root).map_err(create_error)?;
        match shim.start_container(start).await {
            Ok(_) => Ok(()),
            Err(error) => {
                rootfs::unmount_below(&[&bundle]);
                Err(StartError { reason: "RunContainerError", message: error.to_string() })
            }
        }
    }

    /// Makes the cgroup of a pod, with what it may use and weighs as a whole among other pods and its QoS class among the classes.
    pub fn bound_pod(&self, pod: &Pod) -> std::io::Result<()> {
        let cgroup = cgroup(&self.config, pod);
        runtime::cgroup::create(&cgroup)?;
        runtime::cgroup::set_limits(&cgroup, &pod_limits(pod))?;
        let class = cgroup.rsplit_once('/').map_or("", |(class, _)| class);
        // Guaranteed pods are beside the classes, each with its own weight.
        if class.trim_matches('/') == self.config.cgroup_root.trim_matches('/') {
            return Ok(());
        }
        runtime::cgroup::weigh(class)
    }

    async fn container_config(&self, launch: &Launch<'_>, root: &Path) -> Result<ContainerConfig, StartError> {
        let Launch { pod, container, image, sandbox, places, .. } = launch;
        let spec = pod.spec.clone().unwrap_or_default();
        let pod_context = spec.security_context.clone().unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let variables = self
            .environment(pod, container, &image.defaults.env, &sandbox.ips, launch.volumes)
            .await
            .map_err(config_error)?;
        let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
            list.as_ref().filter(|l| !l.is_empty()).map(|l| l.iter().map(|s| env::expand(s, &variables)).collect())
        };
        // A command in the spec also puts the image's arguments aside.
        let args = match (expanded(&container.command), expanded(&container.args)) {
            (Some(command), args) => [command, args.unwrap_or_default()].concat(),
            (None, Some(args)) => [image.defaults.entrypoint.clone(), args].concat(),
            (None, None) => [image.defaults.entrypoint.clone(), image.defaults.cmd.clone()].concat(),
        };
        let user = identity(root, &image.defaults.user, &pod_context, &own)?;
        let capabilities = own.capabilities.clone().unwrap_or_default();
        let cwd = container
            .working_dir
            .clone()
            .filter(|d| !d.is_empty())
            .unwrap_or_else(|| image.defaults.working_dir.clone());
        let privileged = own.privileged.unwrap_or(false);
        let folder = self.config.data_dir.join("seccomp");
        // Upstream's runtimes leave privileged containers alone, too.
        let (confined, profile) = if privileged { (false, None) } else { confined(&folder, &pod_context, &own)? };
        let sysctls = pod_context.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect();
        Ok(ContainerConfig {
            args,
            cwd,
            uid: user.uid,
            gid: user.gid,
            extra_gids: user.groups,
            tty: container.tty.unwrap_or(false),
            read_only_root: own.read_only_root_filesystem.unwrap_or(false),
            privileged,
            confined,
            profile,
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            mounts: self.mounts(launch, places, &variables)?,
            devices: devices(launch)?,
            sysctls,
            limits: limits(container),
            oom_score_adj: oom_score(pod, container),
            host_pid: spec.host_pid.unwrap_or(false),
            process_namespace: launch.process_namespace.clone(),
            users: sandbox.users(places),
            host_ipc: spec.host_ipc.unwrap_or(false),
            host_network: sandbox.host_network,
            cgroup: format!("{}/{}", cgroup(&self.config, pod), launch.id),
            env: variables.into_iter().collect(),
        })
    }

    fn mounts(
        &self,
        launch: &Launch<'_>,
        places: &Places,
        variables: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, StartError> {
        let container = launch.container;
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
                (_, Some(expression)) if !expression.is_empty() => env::expand(expression, variables),
                (Some(path), _) => path.clone(),
                _ => String::new(),
            };
            if is_device(volume) {
                let name = &wanted.name;
                return Err(config_error(format!(
                    "volume {name} has volumeMode Block, but is specified in volumeMounts"
                )));
            }
            let source = if sub.is_empty() {
                volume.clone()
            } else {
                let target =
                    rootfs::resolve_inside(volume, Path::new(&sub)).map_err(|e| config_error(e.to_string()))?;
                if !target.exists() {
                    rootfs::make_inside(volume, Path::new(&sub), true).map_err(|e| {
                        config_error(format!("failed to prepare subPath for volumeMount {:?}: {e}", wanted.name))
                    })?;
                }
                target
            };
            let propagation = match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "rprivate",
            };
            let read_only = wanted.read_only.unwrap_or(false) || is_read_only(&spec, &wanted.name);
            let recursive = matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
            let target = wanted.mount_path.clone().into();
            mounts.push(Mount { source, target, read_only, recursive, propagation });
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
        });
        mounts.extend(extra);
        Ok(mounts)
    }
}

/// Whether containers may not write to a volume whatever their mounts say.
fn is_read_only(spec: &PodSpec, name: &str) -> bool {
    let claim = |v: &Volume| v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
    spec.volumes.iter().flatten().any(|v| v.name == name && (v.image.is_some() || claim(v)))
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// The block volumes of a container (`volumeDevices`, KEP-351).
fn devices(launch: &Launch<'_>) -> Result<Vec<Device>, StartError> {
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
