//! The pod network of one node: a veth pair and addresses for each pod, an interface with the gateway addresses, and routes to the pods of
//! other nodes, direct where nodes share a segment, by VXLAN where they don't.
//!
//! Pods have host routes (/32, /128) and reach everything, each other included, through the node: every packet of a pod passes the node's IP
//! layer, where services are translated and policies evaluated. No link is shared by two pods.
//!
//! Invariant: all of this can be recreated from the pods' state on disk and the Node objects; this crate persists nothing.
//! It is tested in network namespaces.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod address_pool;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod cni;
pub mod conntrack;
mod error;
pub mod keepalive;
mod link;
mod local;
pub mod nft;
mod node_address;
mod overlay;
pub mod plugin;
mod sysctl;
pub mod unsent;
mod veth;

pub use address_pool::{AddressPool, AddressPoolError};
pub use error::NetworkError;
pub use link::{Bridge, ROUTE_PROTOCOL, RemovedLinks, gateway};
pub use local::{LocalPod, LocalPods};
pub use node_address::default_addresses;
pub use overlay::{Overlay, is_neighbour};
pub use sysctl::{enable_forwarding, set_route_localnet};
pub use veth::VETH_PREFIX;

#[cfg(test)]
mod testing {
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use nix::sched::{CloneFlags, unshare};

    /// Runs a test on a thread with a network of its own.
    pub fn in_a_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
        let run = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        };
        std::thread::spawn(run).join().unwrap();
    }

    /// Runs a shell's line here; whether it went well.
    pub fn sh(line: &str) -> bool {
        Command::new("sh").args(["-c", line]).stdout(Stdio::null()).status().unwrap().success()
    }

    /// A network namespace, there as long as this is.
    pub struct Namespace(Child);

    impl Namespace {
        pub fn new() -> Self {
            let held = "echo; exec sleep 600";
            let mut child =
                Command::new("unshare").args(["-n", "sh", "-c", held]).stdout(Stdio::piped()).spawn().unwrap();
            // Once it speaks it is inside.
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
            Namespace(child)
        }

        pub fn file(&self) -> PathBuf {
            format!("/proc/{}/ns/net", self.0.id()).into()
        }

        pub fn sh(&self, line: &str) -> bool {
            sh(&format!("exec nsenter --net={} sh -c '{line}'", self.file().display()))
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
