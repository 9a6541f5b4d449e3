//! How pods get to the network: by the node's own bridge, or by plugins that somebody brought.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use network::cni::{self, Cni, Membership};
use network::nft::{self, Protocol};
use network::{Addresses, Bridge, LocalPod};
use runtime::files;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::state::{self, Places, Sandbox};

/// The network of a node's pods.
pub enum PodNetwork {
    Own { bridge: Bridge, addresses: Addresses, ranges: watch::Sender<Vec<IpNet>> },
    Plugins(Cni),
}

/// The name of a pod's interface on the node: short, and the same for the same pod.
pub fn port_name(uid: &str) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
    format!("{}{hex}", ::network::PORTS)
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
    /// In words for people.
    pub async fn connect(&self, pod: &cni::Pod, namespace: &Path) -> Result<(Vec<IpAddr>, Option<Membership>), String> {
        match self {
            PodNetwork::Own { bridge, addresses, .. } => {
                let own = addresses.allocate().map_err(|e| e.to_string())?;
                let port = port_name(&pod.uid);
                if let Err(error) = bridge.attach(namespace, &port, &own).await {
                    addresses.release(&own);
                    return Err(error.to_string());
                }
                Ok((own, None))
            }
            PodNetwork::Plugins(cni) => {
                let membership = cni.add(pod, namespace).await.map_err(|e| e.to_string())?;
                let ips = cni::addresses(&membership.result);
                if ips.is_empty() {
                    let _ = cni.delete(pod, namespace, &membership).await;
                    return Err(format!("network {:?} gave the pod no address", membership.configuration.name));
                }
                Ok((ips, Some(membership)))
            }
        }
    }

    /// Pods get addresses of these ranges from now on, as the control plane gave the node others. Returns whether it did.
    ///
    /// # Errors
    /// In words for people.
    pub async fn change_ranges(&self, new: &[IpNet]) -> Result<bool, String> {
        let PodNetwork::Own { bridge, addresses, ranges } = self else { return Ok(false) };
        // First the gateways: a pod that comes now needs them.
        bridge.change_ranges(new).await.map_err(|e| e.to_string())?;
        let changed = addresses.change(new);
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
                !sandbox.host_network && sandbox.membership.is_none() && !addresses.are_ours(&sandbox.ips)
            }
            PodNetwork::Plugins(_) => false,
        }
    }

    /// Makes what pods have from an earlier agent what this one would give them.
    pub async fn renew(&self, config: &Config) {
        let PodNetwork::Own { bridge, .. } = self else { return };
        for (uid, sandbox) in state::sandboxes(config).filter(|(_, s)| !s.host_network && s.membership.is_none()) {
            let namespace = Places::of(config, &uid).namespaces().net;
            if let Err(error) = bridge.renew(&namespace, &port_name(&uid), &sandbox.ips).await {
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

/// A pod with its addresses, as those are told of it who must know before the API does.
pub fn local(pod: &Pod, addresses: &[IpAddr]) -> LocalPod {
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

/// A pod, as networks are told of it.
pub fn told(pod: &Pod) -> cni::Pod {
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
