//! Storage drivers (CSI): how they make themselves known ([`registry`]), and their volumes ([`volumes`]).
//!
//! A driver is a pod that mounts folders of `--kubelet-dir`, by upstream's names:
//! - `plugins_registry`: a socket for each driver, by which it is registered
//! - `plugins`: the drivers' own folders, and below `kubernetes.io/csi` what they stage, once for a volume
//! - `pods/UID/volumes`: what they publish, once for a pod
//!
//! A volume is written down in the pod's folder before its driver hears of it, and the record goes after the driver has let it
//! go; so whatever dies in between, nothing stays mounted.

mod expansion;
mod records;
pub mod registry;
mod source;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::csi::v1::node_client::NodeClient;
use informer::{Informers, Recorder};
use kube::Client;
use parking_lot::Mutex;
use runtime::keyed_mutex::KeyedMutex;
use tonic::transport::Channel;

use super::VolumeError;
use crate::config::Config;

pub use records::in_use;
pub use registry::create_csi_node;
pub use source::Source;

/// What a driver says it can.
#[derive(Clone, Copy)]
struct Capabilities {
    stage: bool,
    expand: bool,
    /// It gives volumes to `fsGroup` itself.
    mount_group: bool,
    /// It knows the access modes of a single node (KEP-2485).
    single_node: bool,
}

#[derive(Clone)]
struct Driver {
    node: NodeClient<Channel>,
    capabilities: Capabilities,
}

/// The drivers that are here now.
#[derive(Default)]
pub struct Drivers {
    known: Mutex<BTreeMap<String, Driver>>,
    /// Calls that concern one volume are made one after the other.
    keyed_mutex: KeyedMutex,
    /// The volumes in use as they were reported last.
    reported_in_use: tokio::sync::Mutex<Option<BTreeSet<String>>>,
}

impl Drivers {
    fn find(&self, name: &str) -> Result<Driver, VolumeError> {
        self.known.lock().get(name).cloned().ok_or_else(|| VolumeError::DriverNotFound(name.into()))
    }

    /// Waits until no other call concerns a volume.
    async fn lock(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.keyed_mutex.lock(&format!("{driver}/{handle}")).await
    }
}

/// The CSI drivers of this node and what is asked of them.
pub struct Csi {
    config: Arc<Config>,
    client: Client,
    informers: Informers,
    events: Recorder,
    drivers: Drivers,
}

impl Csi {
    /// Without drivers at first; they come as plugins of the node.
    pub fn new(config: Arc<Config>, client: Client, informers: Informers, events: Recorder) -> Self {
        Csi { config, client, informers, events, drivers: Drivers::default() }
    }
}
