//! Cgroups of pods.

use std::io;

use k8s_openapi::api::core::v1::Pod;
use runtime::spec::Limits;

use crate::config::Config;
use crate::spec::names::cgroup;
use crate::spec::resources::pod_limits;

/// Creates the cgroup of a pod with the limits of the pod as a whole, its weight among other pods, and that of its QoS class among the classes.
///
/// # Errors
/// When the kernel refuses one of the limits.
pub fn create(config: &Config, pod: &Pod) -> io::Result<()> {
    let cgroup = cgroup(config, pod);
    runtime::cgroup::create(&cgroup)?;
    let limits = Limits { pids: config.pod_max_pids, ..pod_limits(pod) };
    runtime::cgroup::set_limits(&cgroup, &limits)?;
    let class = cgroup.rsplit_once('/').map_or("", |(class, _)| class);
    // Guaranteed pods are beside the classes, each with its own weight.
    if class.trim_matches('/') == config.cgroup_root.trim_matches('/') {
        return Ok(());
    }
    runtime::cgroup::weigh(class)
}
