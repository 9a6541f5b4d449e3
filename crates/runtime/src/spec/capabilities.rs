//! Capabilities of containers (capabilities(7)).

use super::ContainerConfig;

/// What containers may do unless told otherwise: the same set that Docker and containerd give.
pub(super) const CAPABILITIES: [&str; 14] = [
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

/// The capabilities of a container, each with its `CAP_`, of those that this process holds itself.
pub(super) fn capabilities(config: &ContainerConfig) -> Vec<String> {
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
pub(super) fn held_capabilities() -> u64 {
    let status = bounded::text("/proc/self/status", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or("ffffffffffffffff");
    u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX)
}
