//! Sandboxes: made with the pod's name, network, cgroup and namespaces; found again by their labels.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use ::cri::v1;
use k8s_openapi::api::core::v1::{Pod, PodSpec, SecurityContext};
use kube::ResourceExt as _;
use tonic::Status;

use super::{Cri, OWNER, POD_NAME, POD_NAMESPACE, POD_UID, io_error};
use crate::container_runtime::launch::{selinux_options, sysctls};
use crate::container_runtime::{NodeHandles, runtime_class};
use crate::spec::dns::{self, Resolver};
use crate::spec::names::{cgroup, kernel_name};
use crate::state::{PodDirs, Sandbox};

/// What a pod and its containers say of namespaces.
pub fn namespaces(spec: &PodSpec, first_user: Option<u32>) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container, Node, Pod};
    let of = |of_node: Option<bool>, else_: v1::NamespaceMode| if of_node == Some(true) { Node } else { else_ } as i32;
    let processes = if spec.share_process_namespace == Some(true) { Pod } else { Container };
    let users = first_user.map(|first| {
        let all = vec![mapping(first)];
        v1::UserNamespace { mode: Pod as i32, uids: all.clone(), gids: all }
    });
    v1::NamespaceOption {
        network: of(spec.host_network, Pod),
        pid: of(spec.host_pid, processes),
        ipc: of(spec.host_ipc, Pod),
        target_id: String::new(),
        userns_options: users,
    }
}

/// The range of the machine's users that stand for a pod's.
pub fn mapping(first: u32) -> v1::IdMapping {
    v1::IdMapping { host_id: first, container_id: 0, length: runtime::users::LENGTH }
}

/// What all of a pod is found by.
pub fn labels(pod: &Pod, owner: &str) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod.labels().clone().into_iter().collect();
    labels.extend([
        (POD_NAME.into(), pod.name_any()),
        (POD_NAMESPACE.into(), pod.namespace().unwrap_or_default()),
        (POD_UID.into(), pod.uid().unwrap_or_default()),
        (OWNER.into(), owner.into()),
    ]);
    labels
}

/// What the runtime is told of a sandbox (`PodSandboxConfig`).
///
/// # Errors
/// The pod's host name is too long for the kernel.
pub fn configuration(
    node: &NodeHandles,
    pod: &Pod,
    dirs: &PodDirs,
    owner: &str,
    first_user: Option<u32>,
) -> io::Result<v1::PodSandboxConfig> {
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.namespace().unwrap_or_default();
    let context = spec.security_context.clone().unwrap_or_default();
    let (Resolver { servers, searches, options }, _) = dns::resolver(&node.config, &spec, &namespace);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let privileged =
        all.into_iter().any(|c| c.security_context.as_ref().is_some_and(|own| own.privileged == Some(true)));
    let of_node = spec.host_network == Some(true);
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            namespace,
            attempt: 0,
        }),
        // The node's own where the pod has the node's network.
        hostname: if of_node { String::new() } else { kernel_name(&node.config, pod)? },
        log_directory: dirs.data.join("logs").display().to_string(),
        dns_config: Some(v1::DnsConfig { servers, searches, options }),
        labels: labels(pod, owner),
        annotations: pod.annotations().clone().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup(&node.config, pod),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(&spec, first_user)),
                privileged,
                selinux_options: selinux_options(&context, &SecurityContext::default()).map(selinux),
                seccomp: Some(v1::SecurityProfile::default()),
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            sysctls: sysctls(&context).into_iter().collect(),
        }),
    })
}

/// Labels in the runtime's words.
pub fn selinux(options: runtime::selinux::Options) -> v1::SeLinuxOption {
    v1::SeLinuxOption { user: options.user, role: options.role, r#type: options.kind, level: options.level }
}

impl Cri {
    pub(super) async fn run_sandbox(&self, node: &NodeHandles, pod: &Pod, dirs: &PodDirs) -> io::Result<Sandbox> {
        let spec = pod.spec.clone().unwrap_or_default();
        let uid = pod.uid().unwrap_or_default();
        let first_user = (spec.host_users == Some(false)).then(|| node.user_namespaces.allocate(&uid)).transpose()?;
        let config = configuration(node, pod, dirs, &self.owner, first_user)?;
        for folder in [dirs.data.join("logs"), dirs.run.clone()] {
            std::fs::create_dir_all(folder)?;
        }
        let runtime_handler = runtime_class::handler(&node.client, &spec).await?;
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let id = self.client().run_pod_sandbox(request).await.map_err(|s| io_error(&s))?.into_inner().pod_sandbox_id;
        let host_network = spec.host_network == Some(true);
        let ips = if host_network { node.config.node_ips.clone() } else { self.addresses(&id).await? };
        Ok(Sandbox { ips, host_network, first_user, membership: None, id: Some(id) })
    }

    async fn addresses(&self, id: &str) -> io::Result<Vec<IpAddr>> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer = self.client().pod_sandbox_status(request).await.map_err(|s| io_error(&s))?.into_inner();
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        let ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        if ips.is_empty() {
            return Err(io::Error::other("the runtime's network gave the pod no address"));
        }
        Ok(ips)
    }

    pub(super) async fn sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<v1::PodSandbox>, Status> {
        let filter = v1::PodSandboxFilter { label_selector: labels, ..v1::PodSandboxFilter::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        Ok(self.client().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// Removes all sandboxes of a pod; none is well, too.
    pub(super) async fn remove_of(&self, uid: &str) -> Result<(), Status> {
        let mut labels = self.owned();
        labels.insert(POD_UID.into(), uid.into());
        for sandbox in self.sandboxes(labels).await? {
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        self.client().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        self.client().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }
}
