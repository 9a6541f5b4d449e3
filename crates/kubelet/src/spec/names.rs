//! Names that a pod has on this node: its cgroup and its host name.

use std::io;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;

use crate::config::Config;

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// The pod's cgroup, below that of its QoS class.
pub fn cgroup(config: &Config, pod: &Pod) -> String {
    let qos = match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Burstable") => "burstable/",
        Some("BestEffort") => "besteffort/",
        _ => "",
    };
    format!("/{}/{qos}pod{}", config.cgroup_root.trim_matches('/'), pod.uid().unwrap_or_default())
}

/// The pod's host name: at most 63 characters.
pub fn hostname(config: &Config, pod: &Pod) -> String {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return config.node_name.clone();
    }
    if let Some(name) = spec.hostname_override {
        return name;
    }
    let name = spec.hostname.unwrap_or_else(|| pod.name_any());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
}

/// The kernel's host name for a pod: the fully qualified one with `setHostnameAsFQDN` (KEP-1797).
///
/// # Errors
/// The fully qualified name has more than 64 bytes.
pub fn kernel_name(config: &Config, pod: &Pod) -> io::Result<String> {
    let (name, spec) = (hostname(config, pod), spec(pod));
    let wants_all = spec.set_hostname_as_fqdn == Some(true) && spec.hostname_override.is_none();
    let Some(subdomain) = spec.subdomain.filter(|_| wants_all) else { return Ok(name) };
    let whole = format!("{name}.{subdomain}.{}.svc.{}", pod.namespace().unwrap_or_default(), config.cluster_domain);
    match whole.len() {
        0..=HOST_NAME => Ok(whole),
        length => Err(io::Error::other(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {whole} is too long ({HOST_NAME} characters is the max, {length} characters requested)"
        ))),
    }
}

/// Bytes that the kernel has for a host name (uname(2)).
const HOST_NAME: usize = 64;
