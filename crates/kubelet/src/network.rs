//! How pods get to the network: by the node's own bridge, or by plugins that somebody brought.

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use network::cni::{self, Cni, Membership};
use network::{Addresses, Bridge};
use runtime::files;
use tokio::sync::mpsc;

use crate::sandbox::Sandbox;

/// The network of a node's pods.
pub enum PodNetwork {
    Own { bridge: Bridge, addresses: Addresses },
    Plugins(Cni),
}

/// The name of a pod's bridge port: short, and the same for the same pod.
fn port_name(uid: &str) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
    format!("{}{hex}", PodNetwork::PORTS)
}

impl PodNetwork {
    /// How the names of bridge ports begin.
    pub const PORTS: &str = "tp";

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
            tracing::warn!(folder = %cni.folder().display(), %error, "the folder of network configurations can't be made");
        }
        Some(files::watch(cni.folder(), files::Kind::Files))
    }

    /// Connects a pod's network namespace.
    ///
    /// # Errors
    /// In words for people.
    pub async fn connect(&self, pod: &cni::Pod, namespace: &Path) -> Result<(Vec<IpAddr>, Option<Membership>), String> {
        match self {
            PodNetwork::Own { bridge, addresses } => {
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

    /// Takes a pod's sandbox out of the network, also one that isn't whole.
    pub async fn disconnect(&self, uid: &str, namespace: &Path, sandbox: Option<&Sandbox>) {
        let membership = sandbox.and_then(|s| s.membership.as_ref());
        match (self, membership) {
            (PodNetwork::Own { bridge, addresses }, None) => {
                if let Err(error) = bridge.detach(&port_name(uid)).await {
                    tracing::warn!(%error, "a pod's interface can't be removed");
                }
                if let Some(sandbox) = sandbox.filter(|s| !s.host_network) {
                    addresses.release(&sandbox.ips);
                }
            }
            (PodNetwork::Plugins(cni), Some(membership)) => {
                let pod = cni::Pod { uid: uid.into(), ..cni::Pod::default() };
                if let Err(error) = cni.delete(&pod, namespace, membership).await {
                    tracing::warn!(%error, uid, "a pod can't be taken out of its network");
                }
            }
            // Of a pod that came to its network in the other way, its namespace takes the rest along.
            _ => {}
        }
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
