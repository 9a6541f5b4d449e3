//! Container runtimes: shims of our own ([`own`]), or another runtime by the CRI ([`cri`]).
//!
//! The rooms above know these traits alone. A pod's sandbox is what its containers share; a [`ContainerRuntime`] makes and removes it,
//! and hands out [`PodContainers`], by which one pod's containers are started, watched, looked into and ended.

pub mod cgroups;
pub mod cri;
pub mod launch;
pub mod network;
pub mod own;
pub mod runtime_class;
pub mod user_namespaces;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use runtime::client::ShimError;
use runtime::image::{Credentials, Progress};
use runtime::protocol::{ContainerState, Exit};
use runtime::spec::Limits;
use runtime::{ContainerEvent, Image, ImageError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use launch::{Launch, StartError};
use network::PodNetwork;

use crate::config::Config;
use crate::state::{ContainerUser, PodDirs, Sandbox};
use crate::streaming::{Event, Sender, Wants};

/// What a runtime uses of the node beside the pod that it is asked for.
#[derive(Clone)]
pub struct NodeHandles {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// A client of the API, for RuntimeClasses.
    pub client: Client,
    /// The network that pods are connected to.
    pub network: Arc<PodNetwork>,
    /// The ranges of user ids of pods with user namespaces.
    pub user_namespaces: Arc<user_namespaces::Ranges>,
}

/// What our own engine is called.
pub const OWN_RUNTIME: &str = "timonel";

/// The engine's own name and version, as `containerRuntimeVersion` and `containerID` have them.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its name, such as `containerd`.
    pub name: String,
    /// Its own version.
    pub version: String,
}

/// What an engine can that not all can.
#[derive(Debug, Clone)]
pub struct RuntimeFeatures {
    /// The names that RuntimeClasses may have for it, the default's (empty) left out; none when it checks them itself.
    pub handlers: Option<Vec<String>>,
    /// Those that can give pods users of their own.
    pub user_namespaces: Vec<String>,
    /// Handlers with recursive read-only mounts (KEP-3857).
    pub recursive_read_only: Vec<String>,
    /// Whether it knows `supplementalGroupsPolicy` (KEP-3619).
    pub supplemental_groups_policy: bool,
}

/// Runs sandboxes and hands out their containers, upstream's container runtime interface as the kubelet sees it.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Name and version.
    fn version(&self) -> Version;

    /// What it can beside what all can.
    fn features(&self) -> RuntimeFeatures;

    /// Why no pod can run now, if none can, in words for the node's condition.
    async fn not_ready_reason(&self) -> Option<String> {
        None
    }

    /// Makes a pod's sandbox anew. `lost` is what is known of one that isn't whole any more, as after a reboot.
    ///
    /// # Errors
    /// With why it can't be made.
    async fn create_sandbox(&self, pod: &Pod, dirs: &PodDirs, lost: Option<&Sandbox>) -> io::Result<Sandbox>;

    /// Whether a sandbox that was made earlier is still whole.
    async fn is_sandbox_ready(&self, dirs: &PodDirs, sandbox: &Sandbox) -> bool;

    /// Makes ready for containers.
    ///
    /// # Errors
    /// When that fails.
    async fn prepare_containers(&self, dirs: &PodDirs, sandbox: &Sandbox) -> io::Result<Arc<dyn PodContainers>>;

    /// The containers that were begun earlier; whether any are there shows at the first request.
    fn containers(&self, dirs: &PodDirs, sandbox: Option<&Sandbox>) -> Arc<dyn PodContainers>;

    /// Removes a sandbox with its containers, also one that isn't whole. Takes as long as it takes.
    async fn remove_sandbox(&self, uid: &str, dirs: &PodDirs, sandbox: Option<&Sandbox>);

    /// Pods that the runtime knows of, by uid, though they may have no folder.
    async fn orphaned_pods(&self) -> Vec<String> {
        Vec::new()
    }

    /// A pod's network namespace, if it has one of its own.
    ///
    /// # Errors
    /// When it can't be found.
    async fn network_namespace(&self, dirs: &PodDirs, sandbox: &Sandbox) -> io::Result<PathBuf>;

    /// The cgroup of a container, in that of its pod.
    fn container_cgroup(&self, of_pod: &str, id: &str) -> String {
        format!("{of_pod}/{id}")
    }

    /// Bytes that containers wrote to their roots, by id, where the engine alone knows.
    async fn writable_layer_usage(&self) -> Option<HashMap<String, u64>> {
        None
    }
}

/// Why a command has no outcome.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    #[error("{0}")]
    Failed(String),
    /// The command couldn't be started, as when the container has no such program.
    #[error("{0}")]
    NotStarted(String),
    /// The runtime isn't there, which says nothing of the container.
    #[error("the container runtime is away")]
    Unavailable,
}

/// Why a client isn't joined to a process in a container.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A pipe, a terminal or a file for it can't be made.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Our own shim can't start the process, or went away.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// The shim sent no terminal where one was asked for.
    #[error("no terminal came")]
    NoTerminal,
    /// Another container runtime refuses, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The streams that another container runtime serves can't be joined.
    #[error("the container runtime's streams at {url} can't be joined: {source}")]
    Unreachable {
        /// Where it serves them.
        url: String,
        /// What went wrong there.
        source: io::Error,
    },
    /// It serves no stream for the outcome.
    #[error("no stream for the outcome")]
    NoOutcome,
    /// The client went away before the process ended.
    #[error("the client is gone")]
    ClientGone,
}

/// How a container is to end.
#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Of its spec, by name.
    pub signal: Option<String>,
    /// Its image, which may say another.
    pub image: String,
    /// None of it: at once.
    pub grace: Duration,
}

/// The containers of one pod.
#[async_trait]
pub trait PodContainers: Send + Sync {
    /// The containers as they are now, and a channel for what happens to them from then on.
    ///
    /// # Errors
    /// When nothing is there any more.
    async fn watch(&self) -> io::Result<(Vec<ContainerState>, mpsc::Receiver<ContainerEvent>)>;

    /// Prepares a container, and says under what id it will be known: the one that was proposed, or the engine's own.
    async fn create(&self, launch: &Launch<'_>) -> Result<String, StartError>;

    /// Starts a container that was created.
    async fn start(&self, launch: &Launch<'_>, id: &str) -> Result<(), StartError>;

    /// Who a container that was started runs as, if the runtime tells.
    async fn user(&self, _: &str) -> Option<ContainerUser> {
        None
    }

    /// Ends a container; returns when its time is over.
    async fn stop(&self, id: &str, stop: StopOptions);

    /// Removes what is left of a container.
    ///
    /// # Errors
    /// When something can't be removed.
    async fn delete(&self, id: &str) -> io::Result<()>;

    /// Gives a running container other limits. `cgroup` is its own.
    ///
    /// # Errors
    /// Those of the kernel.
    async fn update_resources(&self, id: &str, cgroup: &str, limits: &Limits) -> io::Result<()>;

    /// Runs a command in a container for its outcome: its exit code, and the beginning of what it said. The command is
    /// killed when the future is dropped or `limit` has passed.
    async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<(i32, String), ExecError>;

    /// Runs a command in a container, joined to a client; returns the status that the client gets.
    async fn exec(
        &self,
        id: &str,
        command: &[String],
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<Value, StreamError>;

    /// Joins a client to a container's own process, until either ends.
    async fn attach(
        &self,
        id: &str,
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<(), StreamError>;
}

/// The images that are here.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// The image that `name` (tag, digest or id) stands for.
    async fn find(&self, name: &str) -> Option<Image>;

    /// Fetches an image. A service without progress leaves `progress` alone.
    ///
    /// # Errors
    /// In the registry's words.
    async fn pull(
        &self,
        name: &str,
        credentials: Option<Credentials>,
        progress: &Arc<Progress>,
    ) -> Result<Image, ImageError>;

    /// All images that are present.
    async fn list(&self) -> Vec<Image>;

    /// Changes whenever an image has come, where the runtime says so.
    fn arrivals(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// Removes an image that no container uses; whether it was there.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn remove(&self, id: &str) -> Result<bool, ImageError>;

    /// The folders of an image's layers, lowest first, if they can be seen.
    fn layers(&self, image: &Image) -> Option<Vec<PathBuf>>;

    /// The disk that images are on.
    fn folder(&self) -> &Path;
}

/// The status that clients turn into an exit code.
pub fn exit_status(exit: &Exit) -> Value {
    if exit.code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
           "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
           "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}})
}

/// A signal by its name, as images and specs have it; SIGTERM where that says nothing.
pub fn signal_number(name: &str) -> i32 {
    // Those for the programs' own use (signal(7)) have names by their distance from the first or the last.
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let bare = name.trim_start_matches("SIG");
    let distance = |mark: &str| match bare.strip_prefix(mark)? {
        "" => Some(0),
        rest => rest.trim_start_matches(['+', '-']).parse::<i32>().ok(),
    };
    let real_time = distance("RTMIN").map(|n| first.saturating_add(n));
    let real_time = real_time.or_else(|| distance("RTMAX").map(|n| last.saturating_sub(n)));
    let named = || format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
    let number = real_time.or_else(named).or_else(|| bare.parse().ok());
    // Images say what they like; numbers that are none would be heard by others.
    number.filter(|number| (1..=last).contains(number)).unwrap_or(libc::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number_and_nothing_else_is_one() {
        for (name, want) in [
            ("SIGUSR1", libc::SIGUSR1),
            ("QUIT", libc::SIGQUIT),
            ("9", 9),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
            ("SIGRTMIN+2147483647", libc::SIGTERM),
            ("SIGRTMAX-2147483647", libc::SIGTERM),
            ("-9", libc::SIGTERM),
            ("0", libc::SIGTERM),
            ("SIGNOTHING", libc::SIGTERM),
        ] {
            assert_eq!(signal_number(name), want, "{name}");
        }
    }
}
