//! What is kept of pods on this node's disk: their folders ([`PodDirs`]), their sandboxes, and the state of their containers ([`PodCheckpoint`]),
//! by which a restarted kubelet finds them again.

mod saved;

use std::net::IpAddr;
use std::path::PathBuf;

use network::cni::Attachment;
use runtime::Users;
use runtime::namespaces::Namespaces;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::machine::disk_usage;

pub use saved::{
    ContainerRecord, ContainerState, ContainerUser, PodCheckpoint, Terminated, Waiting, WaitingReason, load,
    load_manifest, save, save_manifest,
};

/// The folders and files of a pod on this node.
#[derive(Debug, Clone)]
pub struct PodDirs {
    /// Survives a reboot: state, logs, volumes.
    pub data: PathBuf,
    /// Ends with the machine: namespaces, sockets.
    pub run: PathBuf,
}

impl PodDirs {
    /// The folders of the pod with that uid.
    pub fn of(config: &Config, uid: &str) -> Self {
        PodDirs { data: config.pods_dir().join(uid), run: config.run_dir.join("pods").join(uid) }
    }
    /// The files at which the pod's namespaces are pinned.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::in_folder(&self.run.join("ns"))
    }
    /// Bytes on disk: logs, volumes of its own, and what containers wrote.
    pub fn disk_usage(&self) -> u64 {
        disk_usage(&self.data)
    }
    /// Where the pod's `/dev/shm` is mounted.
    pub fn shm(&self) -> PathBuf {
        self.run.join("shm")
    }
    /// The log of one run of a container.
    pub fn log(&self, container: &str, attempt: i32) -> PathBuf {
        self.data.join("logs").join(container).join(format!("{attempt}.log"))
    }
    /// The OCI bundle of a container and the place of its root: of no use after a reboot.
    pub fn container(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }
    /// A volume that is a folder on the node's disk and ends with the pod.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }
    /// Where the parts of volumes (`subPath`) of a container are mounted.
    pub fn parts(&self, container: &str) -> PathBuf {
        self.run.join("parts").join(container)
    }
    /// A file that the kubelet writes into the pod's `/etc`.
    pub fn etc(&self, file: &str) -> PathBuf {
        self.data.join("etc").join(file)
    }
    /// The host's side of a container's `terminationMessagePath`.
    pub fn termination_message(&self, container: &str, attempt: i32) -> PathBuf {
        self.data.join("messages").join(container).join(attempt.to_string())
    }
    /// What a container writes to its root.
    pub fn writable(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }
}

/// What is kept of a sandbox across restarts of the agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's addresses, that of the cluster's own family first.
    #[serde(default, alias = "ip", deserialize_with = "one_or_many")]
    pub ips: Vec<IpAddr>,
    /// Whether the pod has the node's network.
    pub host_network: bool,
    /// The first host uid of the pod's user namespace, if it has one.
    #[serde(default)]
    pub first_user: Option<u32>,
    /// What CNI plugins returned, where they made the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Attachment>,
    /// What the runtime calls it, where that isn't ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Sandbox {
    /// The pod's users, if they are its own.
    pub fn users(&self, dirs: &PodDirs) -> Option<Users> {
        self.first_user.map(|first| Users { namespace: dirs.namespaces().user, first })
    }
}

/// Agents before IPv6 wrote one address, or none.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Written::deserialize(from)? {
        Written::Many(ips) => ips,
        Written::One(ip) => ip.into_iter().collect(),
    })
}

/// The folders of pods that this node's disk has.
pub fn pod_folders(config: &Config) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(config.pods_dir()).into_iter().flatten().flatten()
}

/// The sandboxes that pods had before this process started, by uid.
pub fn sandboxes(config: &Config) -> impl Iterator<Item = (String, Sandbox)> {
    pod_folders(config).filter_map(|f| Some((f.file_name().to_string_lossy().into_owned(), load(&f.path())?.sandbox?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_agents_wrote_is_read() {
        let read = |text: &str| serde_json::from_str::<Sandbox>(text).unwrap().ips;
        let one: IpAddr = "10.42.0.2".parse().unwrap();
        assert_eq!(read(r#"{"ip": "10.42.0.2", "host_network": false}"#), [one]);
        assert!(read(r#"{"ip": null, "host_network": false}"#).is_empty());
        let two = Sandbox { ips: vec![one, "fd42::2".parse().unwrap()], ..Sandbox::default() };
        assert_eq!(read(&serde_json::to_string(&two).unwrap()), two.ips);
    }
}
