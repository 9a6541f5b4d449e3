//! From what a container should be to an OCI bundle (`config.json`, runtime-spec 1.2).

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup;
use crate::devices::{self, Rule};
use crate::late_mounts;
use crate::namespaces::Namespaces;
pub use crate::resources::{Limits, Mount};
use crate::rootfs::{make_inside, resolve_inside};
use crate::selinux::{self, Labels};
use crate::users::Users;

/// A device of the machine that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the machine.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    pub read_only: bool,
}

impl Device {
    /// As the bundle has it: the device, and the rule that lets it be used.
    fn entries(&self) -> io::Result<(Value, Rule)> {
        let no_device = || io::Error::other(format!("{} is no device", self.source.display()));
        let device = device_node(&self.target, &std::fs::metadata(&self.source)?).ok_or_else(no_device)?;
        let number = |key: &str| device[key].as_u64().and_then(|n| u32::try_from(n).ok());
        let rule = Rule {
            kind: if device["type"] == "b" { devices::Type::Block } else { devices::Type::Char },
            major: number("major"),
            minor: number("minor"),
            access: devices::READ | devices::MAKE | if self.read_only { 0 } else { devices::WRITE },
        };
        Ok((device, rule))
    }
}

/// A device as the bundle has it, if it is one.
fn device_node(path: &Path, meta: &std::fs::Metadata) -> Option<Value> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let kind = match meta.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        _ => return None,
    };
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    Some(json!({"path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid()}))
}

/// Everything about a container that isn't in its image.
#[derive(Debug, Clone, Default)]
pub struct ContainerConfig {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub extra_gids: Vec<u32>,
    pub tty: bool,
    pub read_only_root: bool,
    pub privileged: bool,
    /// It sees all of `/proc` and `/sys`.
    pub unmasked: bool,
    pub no_new_privileges: bool,
    /// Under the default seccomp profile.
    pub confined: bool,
    /// Under a seccomp profile of its own: the text.
    pub profile: Option<String>,
    /// The AppArmor profile that it runs under, by name.
    pub app_armor: Option<String>,
    /// Its labels, for SELinux.
    pub labels: Option<Labels>,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub sysctls: Vec<(String, String)>,
    pub limits: Limits,
    pub oom_score_adj: i64,
    pub host_pid: bool,
    /// A process namespace to join, instead of one of its own.
    pub process_namespace: Option<PathBuf>,
    /// Of a pod that has users of its own.
    pub users: Option<Users>,
    pub host_ipc: bool,
    pub host_network: bool,
    /// Below each hierarchy's root.
    pub cgroup: String,
}

/// What containers may do unless told otherwise: the same set that Docker and containerd give.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// In the kernel's order: the place is the bit (capabilities(7)).
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

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

/// The name of a capability as the kernel has it, without its `CAP_`, however it is written; also of all together.
fn plain(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map_or(upper.clone(), String::from)
}

const ALL: &str = "ALL";

/// Whether a container can be given or denied something of that name.
pub fn is_capability(name: &str) -> bool {
    let plain = plain(name);
    plain == ALL || ALL_CAPABILITIES.contains(&plain.as_str())
}

/// What the shim needs for a container's seccomp profile: its capabilities, if it has a profile.
pub fn confinement(config: &ContainerConfig) -> Option<Vec<String>> {
    (config.confined && !config.privileged).then(|| capabilities(config))
}

/// The capabilities of a container, each with its `CAP_`, of those that this process holds itself.
fn capabilities(config: &ContainerConfig) -> Vec<String> {
    let [added, dropped] = [&config.add_capabilities, &config.drop_capabilities]
        .map(|names| names.iter().map(|name| plain(name)).collect::<Vec<_>>());
    let all = |names: &[String]| names.iter().any(|name| name == ALL);
    // As containerd does it: all are given, then all are taken, and then each that is named by itself.
    let mut set: Vec<String> = if config.privileged || (all(&added) && !all(&dropped)) {
        ALL_CAPABILITIES.map(String::from).into()
    } else if all(&dropped) {
        Vec::new()
    } else {
        CAPABILITIES.map(String::from).into()
    };
    if !config.privileged {
        for name in added {
            if !set.contains(&name) {
                set.push(name);
            }
        }
        set.retain(|name| !dropped.contains(name));
    }
    let held = held_capabilities();
    set.retain(|c| ALL_CAPABILITIES.iter().position(|a| a == c).is_some_and(|bit| held & (1 << bit) != 0));
    set.into_iter().map(|c| format!("CAP_{c}")).collect()
}

/// The bounding set of this process (proc(5), CapBnd).
fn held_capabilities() -> u64 {
    let status = bounded::text("/proc/self/status", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or("ffffffffffffffff");
    u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX)
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

/// The machine's devices, which privileged containers find in their own `/dev`.
fn host_devices(folder: &Path, found: &mut Vec<Value>) {
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        devices_in(&folder, found, &mut open);
    }
}

/// The devices of one folder, and the folders in it.
fn devices_in(folder: &Path, found: &mut Vec<Value>, folders: &mut Vec<PathBuf>) {
    // What each container has anyway, and what is of one namespace alone.
    const OWN: [&str; 14] = [
        "null", "zero", "full", "tty", "random", "urandom", "console", "ptmx", "pts", "shm", "mqueue", "fd", "core",
        "log",
    ];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if name.to_str().is_none_or(|name| OWN.contains(&name)) {
            continue;
        }
        if meta.is_dir() {
            folders.push(path);
        } else {
            found.extend(device_node(&path, &meta));
        }
    }
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
        let options = ["rbind", mount.propagation, mode];
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

/// Writes the bundle of a container into `bundle`, whose `rootfs` is mounted already, and makes what the mounts need.
///
/// # Errors
/// Those of the file system.
pub fn write_bundle(bundle: &Path, config: &ContainerConfig, namespaces: &Namespaces, shm: &Path) -> io::Result<()> {
    let rootfs = bundle.join("rootfs");
    let make = |path: &Path, folder: bool| {
        let Some(users) = &config.users else { return make_inside(&rootfs, path, folder).map(|_| ()) };
        let is_new = !resolve_inside(&rootfs, path)?.exists();
        let made = make_inside(&rootfs, path, folder)?;
        if is_new { users.own(&made) } else { Ok(()) }
    };
    for mount in &config.mounts {
        make(&mount.target, mount.source.is_dir())?;
    }
    if !config.cwd.is_empty() {
        make(Path::new(&config.cwd), true)?;
    }
    let translated;
    let config = match &config.users {
        None => config,
        Some(users) => {
            translated = ContainerConfig { mounts: translate(&config.mounts, users, bundle)?, ..config.clone() };
            &translated
        }
    };
    let shared = config.mounts.iter().any(|m| m.propagation == "rshared");
    let slave = config.mounts.iter().any(|m| m.propagation == "rslave");
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
            "rootfsPropagation": if shared { "shared" } else if slave { "slave" } else { "private" },
        },
    });
    if config.privileged {
        host_devices(Path::new("/dev"), &mut nodes);
    } else if !config.unmasked {
        spec["linux"]["maskedPaths"] = json!(masked());
        spec["linux"]["readonlyPaths"] = json!(READ_ONLY);
    }
    if let Some(labels) = &config.labels {
        if !config.host_ipc {
            selinux::relabel(shm, &labels.file)?;
        }
        for mount in config.mounts.iter().filter(|mount| mount.relabel) {
            selinux::relabel(&mount.source, &labels.file)?;
        }
    }
    spec["linux"]["devices"] = nodes.into();
    if let Some(hooks) = late_mounts::hooks(&config.mounts, &rootfs) {
        spec["hooks"] = hooks;
    }
    for (key, value) in &config.sysctls {
        spec["linux"]["sysctl"][key] = value.as_str().into();
    }
    std::fs::write(bundle.join("config.json"), spec.to_string())?;
    if cgroup::is_unified() && !config.privileged { cgroup::restrict(&config.cgroup, &rules) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped() {
        let names = |add: &[&str], drop: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|c| (*c).to_string()).collect();
            capabilities(&ContainerConfig {
                add_capabilities: own(add),
                drop_capabilities: own(drop),
                ..Default::default()
            })
        };
        assert!(names(&[], &[]).contains(&"CAP_CHOWN".to_string()));
        assert!(!names(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_string()));
        assert_eq!(names(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(names(&["cap_net_admin"], &["all"]), ["CAP_NET_ADMIN"]);
        assert!(names(&[], &["all"]).is_empty() && names(&["ALL"], &["ALL"]).is_empty());
        assert!(!names(&["All"], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_string()));
        assert!(names(&["all"], &[]).len() > CAPABILITIES.len());
        assert!(!names(&["CHOWN"], &["chown"]).contains(&"CAP_CHOWN".to_string()));
        assert!(["ALL", "all", "CAP_SYS_ADMIN", "sys_admin"].into_iter().all(is_capability));
        assert!(!["", "CAP_", "CAP_CAP_CHOWN", "SYS_ADMINS"].into_iter().any(is_capability));
        assert!(!names(&[], &[]).contains(&"CAP_SYS_ADMIN".to_string()));
    }

    #[test]
    fn mounts_are_sorted_so_that_none_is_covered() {
        let mount = |target: &str| Mount {
            source: "/".into(),
            target: target.into(),
            read_only: false,
            recursive: false,
            propagation: "rprivate",
            relabel: false,
        };
        let config = ContainerConfig { mounts: vec![mount("/a/b"), mount("/a")], ..Default::default() };
        let list = mounts(&config, Path::new("/shm"));
        let position = |t: &str| list.iter().position(|m| m["destination"] == t).unwrap();
        assert!(position("/a") < position("/a/b"));
    }
}
