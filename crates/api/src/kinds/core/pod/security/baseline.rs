//! What reaches the host, or gives more than containers have by default.

use std::collections::BTreeSet;

use apimachinery::ObjectExt as _;
use serde_json::Value;

use super::{Level, Names, Pod, Standard, Violation, plural, quoted, violation};

/// Capabilities that a container may add: upstream's default set without `NET_RAW`.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that a pod may set, and the version of the standard since which it may.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// The checks in the order of upstream's names for them. Those that the restricted level repeats in a stricter form
/// are left out there.
pub fn check(standard: Standard, pod: &Pod<'_>) -> Vec<Violation> {
    let baseline = standard.level == Level::Baseline;
    let found = [
        app_armor(pod),
        if baseline || !standard.since(22) { capabilities(pod) } else { None },
        host_namespaces(pod),
        if baseline { host_paths(pod) } else { None },
        host_ports(pod),
        if standard.since(34) { probe_hosts(pod) } else { None },
        privileged(pod),
        match standard.since(35) {
            true if !baseline || pod.has_own_users() => None,
            _ => proc_mount(pod),
        },
        selinux(standard, pod),
        match standard.since(19) {
            true if baseline => seccomp(pod),
            true => None,
            false => seccomp_annotations(pod),
        },
        sysctls(standard, pod),
        host_process(pod),
    ];
    found.into_iter().flatten().collect()
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let kind = |context: &Value| -> Option<String> {
        let profile = &context["appArmorProfile"];
        let kind = profile.str_at(&["type"]);
        (profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_string())
    };
    let mut setters = pod.setters(|context| kind(context).is_some());
    let contexts = std::iter::once(pod.spec).chain(pod.containers());
    let mut values: Vec<String> =
        contexts.filter_map(|c| kind(&c["securityContext"])).collect::<BTreeSet<_>>().into_iter().collect();
    let mut annotations: Vec<String> = annotations(pod)
        .filter(|(key, value)| {
            let allowed = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APPARMOR) && !allowed
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", annotations.len()));
        annotations.sort();
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    let listed = values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
    violation(reason, format!("{} must not set AppArmor profile type to {listed}", setters.join(" and ")))
}

fn annotations<'a>(pod: &Pod<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = pod.metadata["annotations"].as_object().into_iter().flatten();
    all.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let forbidden = |c: &Value| -> BTreeSet<String> {
        let added = c.strings_at(&["securityContext", "capabilities", "add"]);
        added.into_iter().filter(|name| !CAPABILITIES.contains(name)).map(String::from).collect()
    };
    let who = pod.containers_that(|c| !forbidden(c).is_empty()).text()?;
    let all: BTreeSet<String> = pod.containers().flat_map(forbidden).collect();
    let detail = format!("{who} must not include {} in securityContext.capabilities.add", quoted(&all));
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = pod.spec.array_at(&["volumes"]).iter().filter(|v| !v["hostPath"].is_null());
    violation("hostPath volumes", Names::of("volume", volumes.map(|v| v.str_at(&["name"]))).text()?)
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let ports = |c: &Value| -> BTreeSet<String> {
        let all = c.array_at(&["ports"]).iter().filter_map(|p| p["hostPort"].as_i64());
        all.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let who = pod.containers_that(|c| !ports(c).is_empty());
    let all: Vec<String> = pod.containers().flat_map(ports).collect::<BTreeSet<_>>().into_iter().collect();
    let detail = format!("{} {} {} {}", who.text()?, who.uses(), plural("hostPort", all.len()), all.join(", "));
    violation("hostPort", detail)
}

/// Hosts other than the pod itself that a kubelet would ask in a pod's name.
fn probe_hosts(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let hosts = |c: &Value| -> BTreeSet<String> {
        let handlers = HANDLERS.iter().map(|path| c.at(path));
        let all = handlers.flat_map(|h| [h.str_at(&["httpGet", "host"]), h.str_at(&["tcpSocket", "host"])]);
        all.filter(|host| !host.is_empty()).map(String::from).collect()
    };
    let names: BTreeSet<&str> =
        pod.containers().filter(|c| !hosts(c).is_empty()).map(|c| c.str_at(&["name"])).collect();
    let who = Names::of("container", names.into_iter());
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let word = plural("probe or lifecycle host", all.len());
    violation("probe or lifecycle host", format!("{} {} {word} {}", who.text()?, who.uses(), quoted(&all)))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.containers_that(|c| *c.at(&["securityContext", "privileged"]) == true).text()?;
    violation("privileged", format!("{who} must not set securityContext.privileged=true"))
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mount = |c: &Value| -> Option<String> {
        let mount = c.at(&["securityContext", "procMount"]).as_str()?;
        (mount != "Default").then(|| mount.to_string())
    };
    let who = pod.containers_that(|c| mount(c).is_some()).text()?;
    let all: BTreeSet<String> = pod.containers().filter_map(mount).collect();
    violation("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(&all)))
}

fn selinux(standard: Standard, pod: &Pod<'_>) -> Option<Violation> {
    let option = |context: &Value, field: &str| context.str_at(&["seLinuxOptions", field]).to_string();
    let bad_type = |context: &Value| {
        let kind = option(context, "type");
        let allowed = matches!(kind.as_str(), "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (kind == "container_engine_t" && standard.since(31));
        (!allowed).then_some(kind)
    };
    let has = |context: &Value, field: &str| !option(context, field).is_empty();
    let setters = pod.setters(|c| bad_type(c).is_some() || has(c, "user") || has(c, "role"));
    if setters.is_empty() {
        return None;
    }
    let contexts = || std::iter::once(pod.spec).chain(pod.containers()).map(|c| &c["securityContext"]);
    let types: BTreeSet<String> = contexts().filter_map(bad_type).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if contexts().any(|context| has(context, field)) {
            data.push(format!("{field} may not be set"));
        }
    }
    let who = setters.join(" and ");
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

/// The type of a seccomp profile that is set and isn't allowed.
pub(super) fn forbidden_seccomp(context: &Value) -> Option<String> {
    let profile = &context["seccompProfile"];
    let kind = profile.str_at(&["type"]);
    (profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_string())
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters(|context| forbidden_seccomp(context).is_some());
    if setters.is_empty() {
        return None;
    }
    let contexts = std::iter::once(pod.spec).chain(pod.containers()).map(|c| &c["securityContext"]);
    let all: BTreeSet<String> = contexts.filter_map(forbidden_seccomp).collect();
    let who = setters.join(" and ");
    violation("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&all)))
}

/// Before v1.19 profiles stood in annotations.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let containers: Vec<String> =
        pod.containers().map(|c| format!("{SECCOMP_CONTAINER}{}", c.str_at(&["name"]))).collect();
    let forbidden: BTreeSet<String> = annotations(pod)
        .filter(|(key, value)| {
            let allowed = matches!(*value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (*key == SECCOMP_POD || containers.iter().any(|c| c == key)) && !allowed
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let listed = forbidden.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {} {listed}", plural("annotation", forbidden.len())))
}

fn sysctls(standard: Standard, pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.spec.array_at(&["securityContext", "sysctls"]).iter().map(|s| s.str_at(&["name"]));
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, minor)| *known == name && standard.since(*minor));
    let forbidden: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters(|context| *context.at(&["windowsOptions", "hostProcess"]) == true);
    if setters.is_empty() {
        return None;
    }
    let who = setters.join(" and ");
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
