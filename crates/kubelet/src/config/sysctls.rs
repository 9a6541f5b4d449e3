//! Kernel parameters that pods may set (`--allowed-unsafe-sysctls`). Pure.

use std::str::FromStr;

/// Parameters that every pod may set: they are of the pod's own namespaces, and harm no other pod (upstream's `SafeSysctlAllowlist`).
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The namespace of a parameter; none for those of the machine as a whole. A pattern's part before its `*` is looked at alike.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|of| name.starts_with(of));
    match name {
        _ if ipc => Some("ipc"),
        _ if name.starts_with("net.") => Some("net"),
        _ => None,
    }
}

/// The name of a parameter with dots between its parts: a slash may stand for one, and then dots are of a part, as names of interfaces have them.
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.into(),
    }
}

/// Parameters that pods of this node may set beside the safe ones: names, and patterns with a `*` at their end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedSysctls(Vec<String>);

/// A name or pattern that can't be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sysctl {0:?} is not known to be namespaced: only those of a pod's own can be allowed, as kernel.msg*, kernel.sem, fs.mqueue.* and net.*"
)]
pub struct NotNamespaced(String);

impl FromStr for AllowedSysctls {
    type Err = NotNamespaced;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(dotted);
        let checked = names.map(|name| {
            let known = namespace(name.strip_suffix('*').unwrap_or(&name)).is_some();
            if known && !name.trim_end_matches('*').contains('*') { Ok(name) } else { Err(NotNamespaced(name)) }
        });
        checked.collect::<Result<_, _>>().map(AllowedSysctls)
    }
}

impl AllowedSysctls {
    /// Why a pod may not set a parameter, in upstream's words. A pod that shares a namespace with the machine sets none of that.
    pub fn refusal(&self, name: &str, host_network: bool, host_ipc: bool) -> Option<String> {
        let name = dotted(name);
        let is_of = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *pattern == name,
        };
        let allowed = SAFE.contains(&name.as_str()) || self.0.iter().any(is_of);
        match namespace(&name).filter(|_| allowed) {
            None => Some(format!("{name:?} not allowlisted")),
            Some(of @ "net") if host_network => Some(format!("{name:?} not allowed with host {of} enabled")),
            Some(of @ "ipc") if host_ipc => Some(format!("{name:?} not allowed with host {of} enabled")),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_machine_are_nobodys_to_set() {
        let none = AllowedSysctls::default();
        let some: AllowedSysctls = "kernel.msg*, net.core.somaxconn,kernel.sem".parse().unwrap();
        for (name, by_default, if_allowed) in [
            ("net.ipv4.tcp_rmem", true, true),
            ("net/ipv4/tcp_rmem", true, true),
            ("kernel.shm_rmid_forced", true, true),
            ("kernel.msgmax", false, true),
            ("net.core.somaxconn", false, true),
            ("net/core/somaxconn", false, true),
            ("net.core.somaxconn.x", false, false),
            ("kernel.core_pattern", false, false),
            ("kernel/core_pattern", false, false),
            ("vm.swappiness", false, false),
            ("kernel.sem", false, true),
        ] {
            let is_taken = |allowed: &AllowedSysctls| allowed.refusal(name, false, false).is_none();
            assert_eq!((is_taken(&none), is_taken(&some)), (by_default, if_allowed), "{name}");
        }
        let told = none.refusal("kernel.msgmax", false, false);
        assert_eq!(told.as_deref(), Some("\"kernel.msgmax\" not allowlisted"));
        let told = some.refusal("kernel.msgmax", true, true);
        assert_eq!(told.as_deref(), Some("\"kernel.msgmax\" not allowed with host ipc enabled"));
        let told = none.refusal("net.ipv4.tcp_rmem", true, false);
        assert_eq!(told.as_deref(), Some("\"net.ipv4.tcp_rmem\" not allowed with host net enabled"));
    }

    #[test]
    fn only_what_is_a_pods_own_can_be_allowed() {
        for bad in ["kernel.core_pattern", "vm.*", "*", "kernel.*", "net.*.x*", "kernel.msg*,kernel.panic"] {
            assert!(bad.parse::<AllowedSysctls>().is_err(), "{bad}");
        }
        assert_eq!("".parse::<AllowedSysctls>(), Ok(AllowedSysctls::default()));
    }
}
