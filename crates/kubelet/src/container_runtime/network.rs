//! The network of pods: the node's own bridge, or CNI plugins.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use network::cni::{self, Attachment, Cni, CniError};
use network::nft::{self, Protocol};
use network::{AddressPool, AddressPoolError, Bridge, LocalPod, NetworkError};
use runtime::files;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::state::{self, PodDirs, Sandbox};

/// The network of a node's pods.
pub enum PodNetwork {
    /// Our own: a bridge, and routes between nodes.
    Own {
        /// Connects pods.
        bridge: Bridge,
        /// The addresses that are free.
        addresses: AddressPool,
        /// The node's ranges of pod addresses, for those who follow them.
        ranges: watch::Sender<Vec<IpNet>>,
    },
    /// CNI plugins.
    Plugins(Cni),
}

/// Why a pod isn't connected, or the node's ranges aren't changed.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// There is no free address.
    #[error(transparent)]
    Addresses(#[from] AddressPoolError),
    /// The kernel refuses an interface, a route or an address.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A CNI plugin fails.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// A CNI plugin succeeds without an address.
    #[error("network {0:?} gave the pod no address")]
    NoAddress(String),
}

/// The name of a pod's interface on the node: short, and the same for the same pod.
pub fn port_name(uid: &str) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
    format!("{}{hex}", ::network::VETH_PREFIX)
}

impl PodNetwork {
    /// Why pods can't get an address now, if they can't.
    pub fn problem(&self) -> Option<String> {
        match self {
            PodNetwork::Own { .. } => None,
            PodNetwork::Plugins(cni) => cni.configuration().err().map(|error| error.to_string()),
        }
    }

    /// Tells when that may have changed; never, where it can't.
    pub fn changes(&self) -> Option<mpsc::Receiver<()>> {
        let PodNetwork::Plugins(cni) = self else { return None };
        if let Err(error) = std::fs::create_dir_all(cni.folder()) {
            tracing::warn!(folder = %cni.folder().display(), %error, "failed to create the folder of CNI configurations");
        }
        Some(files::watch(cni.folder(), files::Kind::Files))
    }

    /// Connects a pod's network namespace.
    ///
    /// # Errors
    /// When there is no address, or the kernel or a plugin refuses.
    pub async fn connect(
        &self,
        pod: &cni::Pod,
        namespace: &Path,
    ) -> Result<(Vec<IpAddr>, Option<Attachment>), PodNetworkError> {
        match self {
            PodNetwork::Own { bridge, addresses, .. } => {
                let own = addresses.allocate()?;
                let port = port_name(&pod.uid);
                if let Err(error) = bridge.attach(namespace, &port, &own).await {
                    addresses.release(&own);
                    return Err(error.into());
                }
                Ok((own, None))
            }
            PodNetwork::Plugins(cni) => {
                let membership = cni.add(pod, namespace).await?;
                let ips = cni::addresses(&membership.result);
                if ips.is_empty() {
                    let _ = cni.delete(pod, namespace, &membership).await;
                    return Err(PodNetworkError::NoAddress(membership.configuration.name));
                }
                Ok((ips, Some(membership)))
            }
        }
    }

    /// Pods get addresses of these ranges from now on, as the control plane gave the node others. Returns whether it did.
    ///
    /// # Errors
    /// When the kernel refuses the new gateways.
    pub async fn change_ranges(&self, new: &[IpNet]) -> Result<bool, PodNetworkError> {
        let PodNetwork::Own { bridge, addresses, ranges } = self else { return Ok(false) };
        // First the gateways: a pod that comes now needs them.
        bridge.change_ranges(new).await?;
        let changed = addresses.set_ranges(new);
        ranges.send_if_modified(|known| {
            let is_new = known != new;
            *known = new.to_vec();
            is_new
        });
        Ok(changed)
    }

    /// Whether a pod's addresses may be another node's by now.
    pub fn has_lost(&self, sandbox: &Sandbox) -> bool {
        match self {
            PodNetwork::Own { addresses, .. } => {
                !sandbox.host_network && sandbox.membership.is_none() && !addresses.contains_all(&sandbox.ips)
            }
            PodNetwork::Plugins(_) => false,
        }
    }

    /// Makes what pods have from an earlier agent what this one would give them.
    pub async fn renew(&self, config: &Config) {
        let PodNetwork::Own { bridge, .. } = self else { return };
        for (uid, sandbox) in state::sandboxes(config).filter(|(_, s)| !s.host_network && s.membership.is_none()) {
            let namespace = PodDirs::of(config, &uid).namespaces().net;
            if let Err(error) = bridge.reattach(&namespace, &port_name(&uid), &sandbox.ips).await {
                // After a restart of the machine there is nothing to renew.
                tracing::debug!(%error, uid, "failed to repair the network of a pod");
            }
        }
    }

    /// Takes a pod's sandbox out of the network, also one that isn't whole.
    pub async fn disconnect(&self, uid: &str, namespace: &Path, sandbox: Option<&Sandbox>) {
        let membership = sandbox.and_then(|s| s.membership.as_ref());
        match (self, membership) {
            (PodNetwork::Own { bridge, addresses, .. }, None) => {
                if let Err(error) = bridge.detach(&port_name(uid)).await {
                    tracing::warn!(%error, "failed to remove the network interface of a pod");
                }
                if let Some(sandbox) = sandbox.filter(|s| !s.host_network) {
                    addresses.release(&sandbox.ips);
                }
            }
            (PodNetwork::Plugins(cni), Some(membership)) => {
                let pod = cni::Pod { uid: uid.into(), ..cni::Pod::default() };
                if let Err(error) = cni.delete(&pod, namespace, membership).await {
                    tracing::warn!(%error, uid, "failed to tear down the network of a pod; retrying");
                }
            }
            // Of a pod that came to its network in the other way, its namespace takes the rest along.
            _ => {}
        }
    }
}

/// A pod with its addresses, for network policies and DNS, which must know it before the API does.
pub fn local_pod(pod: &Pod, addresses: &[IpAddr]) -> LocalPod {
    let spec = pod.spec.as_ref();
    let sidecars = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.into_iter().flat_map(|s| &s.containers).chain(sidecars);
    let ports = containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| Some((p.name.clone()?, Protocol::of(p.protocol.as_deref())?, nft::port(p.container_port)?)));
    LocalPod {
        uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        labels: pod.labels().clone(),
        ports: ports.collect(),
        addresses: addresses.to_vec(),
    }
}

/// A pod, as CNI plugins get it.
pub fn cni_pod(pod: &Pod) -> cni::Pod {
    let bound = |way: &str| {
        let text = pod.annotations().get(&format!("kubernetes.io/{way}-bandwidth"))?;
        u64::try_from(text.parse::<apimachinery::Quantity>().ok()?.value()).ok()
    };
    cni::Pod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        bandwidth: (bound("ingress"), bound("egress")),
    }
}
