//! From what a container should be to an OCI bundle (`config.json`, runtime-spec 1.2).

mod capabilities;
mod device_nodes;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup;
use crate::devices::{self, Rule};
use crate::late_mounts;
use crate::namespaces::Namespaces;
pub use crate::resources::{Hook, Limits, Mount};
use crate::rootfs::{make_inside, resolve_inside};
use crate::selinux::{self, Labels};
use crate::users::Users;
pub use capabilities::is_capability;
use capabilities::{capabilities, held_capabilities};
pub use device_nodes::Device;
use device_nodes::host_devices;

/// Everything about a container that isn't in its image.
#[derive(Debug, Clone, Default)]
pub struct ContainerConfig {
    /// The command with its arguments.
    pub args: Vec<String>,
    /// Variables and their values.
    pub env: Vec<(String, String)>,
    /// The working folder; empty for the root.
    pub cwd: String,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Further groups.
    pub extra_gids: Vec<u32>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Its root file system can't be written to.
    pub read_only_root: bool,
    /// It has all capabilities and devices, and no profile.
    pub privileged: bool,
    /// It sees all of `/proc` and `/sys`.
    pub unmasked: bool,
    /// `allowPrivilegeEscalation: false`
    pub no_new_privileges: bool,
    /// Under the default seccomp profile.
    pub confined: bool,
    /// Under a seccomp profile of its own: the text.
    pub profile: Option<String>,
    /// The AppArmor profile that it runs under, by name.
    pub app_armor: Option<String>,
    /// Its labels, for SELinux.
    pub labels: Option<Labels>,
    /// Capabilities beside the default ones, as they are written in the spec.
    pub add_capabilities: Vec<String>,
    /// Capabilities that it doesn't get.
    pub drop_capabilities: Vec<String>,
    /// Its volumes and files.
    pub mounts: Vec<Mount>,
    /// Devices beside the common ones.
    pub devices: Vec<Device>,
    /// Programs that are run at points of its life.
    pub hooks: Vec<Hook>,
    /// Settings of the kernel, of its namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Limits of its cgroup.
    pub limits: Limits,
    /// Which process the kernel kills first for want of memory (proc(5)).
    pub oom_score_adj: i64,
    /// It sees the machine's processes.
    pub host_pid: bool,
    /// A process namespace to join, instead of one of its own.
    pub process_namespace: Option<PathBuf>,
    /// Of a pod that has users of its own.
    pub users: Option<Users>,
    /// It is in the machine's IPC namespace.
    pub host_ipc: bool,
    /// It is in the machine's network.
    pub host_network: bool,
    /// Below each hierarchy's root.
    pub cgroup: String,
}

/// What of `/proc` and `/sys` ordinary containers don't see, and what they see but may not change.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that ordinary containers can't write to.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The paths that ordinary containers don't see, as containerd's default is: also how often each processor was slowed down, by which
/// a container could tell what others do.
pub fn masked() -> Vec<String> {
    let processors = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let throttles = processors.map(|processor| processor.path().join("thermal_throttle")).filter(|path| path.exists());
    let throttles = throttles.map(|path| path.display().to_string());
    let mut paths: Vec<String> = MASKED.map(String::from).into_iter().chain(throttles).collect();
    paths.sort();
    paths
}

/// What the shim needs for a container's seccomp profile: its capabilities, if it has a profile.
pub fn confinement(config: &ContainerConfig) -> Option<Vec<String>> {
    (config.confined && !config.privileged).then(|| capabilities(config))
}

/// The `process` object, for the container's own process and for exec.
pub fn process(config: &ContainerConfig, args: &[String], tty: bool) -> Value {
    let env: Vec<String> = config.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let capabilities = capabilities(config);
    // A user other than root gets capabilities only in the bounding set, as upstream's runtimes do it.
    let effective: &[String] = if config.uid == 0 { &capabilities } else { &[] };
    let mut process = json!({
        "terminal": tty,
        "user": {"uid": config.uid, "gid": config.gid, "additionalGids": config.extra_gids, "umask": 18},
        "args": args,
        "env": env,
        "cwd": if config.cwd.is_empty() { "/" } else { &config.cwd },
        "capabilities": {"bounding": capabilities, "effective": effective, "permitted": effective,
                         "inheritable": [], "ambient": []},
        // The kernel takes a filter of those who hold no CAP_SYS_ADMIN only so.
        "noNewPrivileges": config.no_new_privileges || confinement(config).is_some() || config.profile.is_some(),
    });
    let score = config.oom_score_adj.max(own_oom_score());
    process["oomScoreAdj"] = score.into();
    if let Some(profile) = &config.app_armor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    if let Some(labels) = &config.labels {
        process["selinuxLabel"] = labels.process.as_str().into();
    }
    process
}

/// Lowering the score below our own needs CAP_SYS_RESOURCE, which we may not have.
fn own_oom_score() -> i64 {
    const SYS_RESOURCE: usize = 24;
    if held_capabilities() & (1 << SYS_RESOURCE) != 0 {
        return -1000;
    }
    bounded::text("/proc/self/oom_score_adj", bounded::MAX_KERNEL_FILE_BYTES)
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

fn resources(config: &ContainerConfig, rules: &[Rule]) -> Value {
    let limits = &config.limits;
    let mut resources = json!({});
    // The library knows nothing of those of v2, see below.
    if !cgroup::is_unified() {
        // Nothing first; the library has no such default.
        let first = json!({"allow": config.privileged, "access": "rwm"});
        resources["devices"] = std::iter::once(first).chain(rules.iter().map(Rule::in_bundle)).collect();
    }
    if limits.cpu_shares > 0 {
        resources["cpu"]["shares"] = limits.cpu_shares.into();
    }
    if limits.cpu_milli > 0 {
        resources["cpu"]["period"] = 100_000.into();
        resources["cpu"]["quota"] = (limits.cpu_milli * 100).max(1000).into();
    }
    if limits.memory_bytes > 0 {
        resources["memory"]["limit"] = limits.memory_bytes.into();
    }
    if limits.pids > 0 {
        resources["pids"]["limit"] = limits.pids.into();
    }
    resources
}

fn namespaces_json(config: &ContainerConfig, namespaces: &Namespaces) -> Value {
    let mut list = vec![json!({"type": "mount"})];
    if let Some(users) = &config.users {
        list.push(json!({"type": "user", "path": users.namespace}));
    }
    match &config.process_namespace {
        Some(path) => list.push(json!({"type": "pid", "path": path})),
        None if config.host_pid => {}
        None => list.push(json!({"type": "pid"})),
    }
    if !config.host_ipc {
        list.push(json!({"type": "ipc", "path": namespaces.ipc}));
    }
    if !config.host_network {
        list.push(json!({"type": "network", "path": namespaces.net}));
    }
    list.push(json!({"type": "uts", "path": namespaces.uts}));
    if cgroup::is_unified() && !config.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    json!(list)
}

fn mounts(config: &ContainerConfig, shm: &Path) -> Vec<Value> {
    let plain = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let sys_mode = if config.privileged { "rw" } else { "ro" };
    let mut list = vec![
        plain("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        plain("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        plain(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        plain("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        plain("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]),
        json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rw"]}),
    ];
    if config.host_ipc {
        list.retain(|m| m["destination"] != "/dev/mqueue");
    }
    if cgroup::is_unified() {
        list.push(plain("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }
    if let Some(labels) = &config.labels {
        // The kernel's others take no label, or are the same for everybody (cgroup).
        let context = format!("context={}", labels.file);
        for mount in list.iter_mut().filter(|m| m["type"] == "tmpfs" || m["type"] == "devpts") {
            if let Some(options) = mount["options"].as_array_mut() {
                options.push(context.as_str().into());
            }
        }
    }
    // Shorter paths first, so that a mount doesn't cover one below it.
    let mut own: Vec<Mount> = config.mounts.iter().filter(|m| !late_mounts::is_late(m)).cloned().collect();
    own.sort_by_key(|m| m.target.components().count());
    for mount in own {
        let mode = match (mount.read_only, mount.recursive) {
            (true, true) => "rro",
            (true, false) => "ro",
            _ => "rw",
        };
        let options: Vec<&str> =
            ["rbind", mount.propagation, mode].into_iter().chain(mount.options.iter().map(String::as_str)).collect();
        list.push(json!({"destination": mount.target, "type": "bind", "source": mount.source, "options": options}));
    }
    list
}

/// The same mounts for a pod with users of its own: of copies that show it what is its users'. What they may not is part of the copy,
/// as the pod's root couldn't say it without knowing what the machine says of the mount already.
fn translate(mounts: &[Mount], users: &Users, bundle: &Path) -> io::Result<Vec<Mount>> {
    let shown = mounts.iter().enumerate().map(|(i, mount)| {
        let source = bundle.join("mounts").join(i.to_string());
        users.mount(&mount.source, &source, mount.read_only, mount.recursive)?;
        Ok(Mount { source, read_only: false, recursive: false, ..mount.clone() })
    });
    shown.collect()
}

/// Makes the files and folders in the root that mounts and the working folder need.
fn make_mount_points(rootfs: &Path, config: &ContainerConfig) -> io::Result<()> {
    let make = |path: &Path, folder: bool| {
        let Some(users) = &config.users else { return make_inside(rootfs, path, folder).map(|_| ()) };
        let is_new = !resolve_inside(rootfs, path)?.exists();
        let made = make_inside(rootfs, path, folder)?;
        if is_new { users.own(&made) } else { Ok(()) }
    };
    for mount in &config.mounts {
        make(&mount.target, mount.source.is_dir())?;
    }
    if !config.cwd.is_empty() {
        make(Path::new(&config.cwd), true)?;
    }
    Ok(())
}

/// How mounts spread between the container and the machine, as its volumes' `mountPropagation` asks.
fn propagation(mounts: &[Mount]) -> &'static str {
    let has = |propagation: &str| mounts.iter().any(|m| m.propagation == propagation);
    if has("rshared") {
        "shared"
    } else if has("rslave") {
        "slave"
    } else {
        "private"
    }
}

/// Labels what a container may use, where it has labels for SELinux.
fn label(config: &ContainerConfig, shm: &Path) -> io::Result<()> {
    let Some(labels) = &config.labels else { return Ok(()) };
    if !config.host_ipc {
        selinux::relabel(shm, &labels.file)?;
    }
    for mount in config.mounts.iter().filter(|mount| mount.relabel) {
        selinux::relabel(&mount.source, &labels.file)?;
    }
    Ok(())
}

/// Writes the bundle of a container into `bundle`, whose `rootfs` is mounted already, and makes what the mounts need.
///
/// # Errors
/// Those of the file system.
pub fn write_bundle(bundle: &Path, config: &ContainerConfig, namespaces: &Namespaces, shm: &Path) -> io::Result<()> {
    let rootfs = bundle.join("rootfs");
    make_mount_points(&rootfs, config)?;
    let translated;
    let config = match &config.users {
        None => config,
        Some(users) => {
            translated = ContainerConfig { mounts: translate(&config.mounts, users, bundle)?, ..config.clone() };
            &translated
        }
    };
    let given = config.devices.iter().map(Device::entries).collect::<io::Result<Vec<_>>>()?;
    let (mut nodes, given): (Vec<Value>, Vec<Rule>) = given.into_iter().unzip();
    let rules = if config.privileged { Vec::new() } else { [&devices::COMMON[..], &given].concat() };
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process(config, &config.args, config.tty),
        "root": {"path": rootfs, "readonly": config.read_only_root},
        "mounts": mounts(config, shm),
        "linux": {
            "cgroupsPath": config.cgroup,
            "namespaces": namespaces_json(config, namespaces),
            "resources": resources(config, &rules),
            "rootfsPropagation": propagation(&config.mounts),
        },
    });
    if config.privileged {
        host_devices(Path::new("/dev"), &mut nodes);
    } else if !config.unmasked {
        spec["linux"]["maskedPaths"] = json!(masked());
        spec["linux"]["readonlyPaths"] = json!(READ_ONLY);
    }
    label(config, shm)?;
    spec["linux"]["devices"] = nodes.into();
    for hook in late_mounts::hooks(&config.mounts, &rootfs).iter().chain(&config.hooks) {
        match &mut spec["hooks"][hook.point] {
            Value::Array(present) => present.push(hook.in_bundle()),
            none => *none = json!([hook.in_bundle()]),
        }
    }
    for (key, value) in &config.sysctls {
        spec["linux"]["sysctl"][key] = value.as_str().into();
    }
    std::fs::write(bundle.join("config.json"), spec.to_string())?;
    if cgroup::is_unified() && !config.privileged { cgroup::restrict(&config.cgroup, &rules) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
