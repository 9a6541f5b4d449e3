//! Storage drivers (CSI): how they make themselves known ([`registry`]), and their volumes ([`volumes`]).
//!
//! A driver is a pod that mounts folders of `--kubelet-dir`, by upstream's names:
//! - `plugins_registry`: a socket for each driver; who appears there is asked who he is
//! - `plugins`: the drivers' own folders, and below `kubernetes.io/csi` what they stage, once for a volume
//! - `pods/UID/volumes`: what they publish, once for a pod
//!
//! A volume is written down in the pod's folder before its driver hears of it, and the record goes after the driver has let it
//! go; so whatever dies in between, nothing stays mounted.

pub mod registry;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ::csi::v1::node_client::NodeClient;
use parking_lot::Mutex;
use runtime::turns::Turns;
use tonic::transport::Channel;

use crate::Config;

pub use registry::run;
pub use volumes::{Source, in_use};

/// What a driver says it can.
#[derive(Clone, Copy)]
struct Abilities {
    stage: bool,
    expand: bool,
    /// It gives volumes to `fsGroup` itself.
    mount_group: bool,
    /// It knows the access modes of a single node (KEP-2485).
    single_node: bool,
}

#[derive(Clone)]
struct Driver {
    name: String,
    node: NodeClient<Channel>,
    abilities: Abilities,
}

/// The drivers that are here now.
#[derive(Default)]
pub struct Drivers {
    known: Mutex<BTreeMap<String, Driver>>,
    /// Calls that concern one volume are made one after the other.
    turns: Turns,
    /// What the control plane was told last of the volumes in use.
    told: tokio::sync::Mutex<Option<BTreeSet<String>>>,
}

impl Drivers {
    fn find(&self, name: &str) -> Result<Driver, String> {
        let missing = || format!("driver name {name} not found in the list of registered CSI drivers");
        self.known.lock().get(name).cloned().ok_or_else(missing)
    }

    /// Waits until nobody else is at a volume.
    pub async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.turns.of(&format!("{driver}/{handle}")).await
    }
}

impl Config {
    /// Where drivers put the sockets by which they are known.
    fn registry_dir(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry")
    }

    /// Where drivers stage their volumes and keep their own things.
    fn plugins_dir(&self) -> PathBuf {
        self.kubelet_dir.join("plugins")
    }

    /// Where a pod's volumes of drivers are.
    fn published_dir(&self, uid: &str) -> PathBuf {
        self.kubelet_dir.join("pods").join(uid)
    }
}
