//! Another container runtime, by the Container Runtime Interface: containerd, CRI-O.
//!
//! - [`sandbox`]: what a pod's containers share
//! - [`container`]: from a container's spec to the runtime's words
//! - [`pod`]: the containers of one pod, and how they end
//! - [`streams`]: exec and attach, through the runtime's own server for them
//! - [`network`]: how the runtime connects pods to our network
//! - [`images`], [`logs`]
//!
//! Cgroups, volumes, `/etc/hosts` and log files are ours as with our own shims. Ends of containers are heard of by the kernel (pidfd),
//! so nothing is polled, though not every runtime sends events.

mod container;
mod images;
mod logs;
mod network;
mod pod;
mod sandbox;
mod streams;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::cri::v1;
use ::cri::v1::runtime_service_client::RuntimeServiceClient;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{ContainerRuntime, NodeHandles, PodContainers, RuntimeFeatures, Version};
use crate::state::{PodDirs, Sandbox};

pub use images::CriImages;
pub use logs::rotate;
pub use network::{restored as restored_addresses, serve as serve_network};

/// How long a runtime that may just be starting is waited for.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Labels by which everybody finds a pod's sandbox and containers, upstream's names.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The data folder of the agent whose sandboxes and containers these are: one runtime may serve several.
const OWNER: &str = "timonel.io/data-dir";

/// Why a runtime can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The endpoint is malformed, or can't be connected to.
    #[error("--container-runtime-endpoint: {0}")]
    Endpoint(#[from] ::cri::EndpointError),
    /// It doesn't answer.
    #[error("the container runtime at {endpoint} doesn't answer: {}; is it running, and is its CRI plugin on?", status.message())]
    Silent {
        /// The endpoint as it was given.
        endpoint: String,
        /// What the call ended with.
        status: Status,
    },
    /// It makes cgroups by systemd.
    #[error("the container runtime {runtime} makes cgroups by systemd, which this agent doesn't: {remedy}")]
    Systemd {
        /// The runtime's name.
        runtime: String,
        /// What to set in its configuration.
        remedy: &'static str,
    },
}

/// The words for a call that failed.
fn io_error(status: &Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, status.message().to_string())
}

/// Whether the runtime wasn't there to answer, so that the call is worth repeating.
fn is_unavailable(status: &Status) -> bool {
    // A connection that ends in the middle of an answer is reported as unknown or cancelled.
    let broken = std::error::Error::source(status).is_some_and(|e| e.is::<tonic::transport::Error>());
    status.code() == Code::Unavailable || broken
}

/// A connection to a runtime; clones share it.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    version: Version,
    features: RuntimeFeatures,
    plugins: PluginFolders,
    /// See [`OWNER`].
    owner: String,
}

/// Where a runtime looks for its network's configuration and plugins.
#[derive(Debug, Clone)]
pub struct PluginFolders {
    /// Of CNI configurations.
    pub configurations: PathBuf,
    /// Of CNI plugins.
    pub programs: PathBuf,
}

impl Cri {
    /// Connects to a runtime, and finds out what it can. `data_dir` is the agent's.
    ///
    /// # Errors
    /// When the runtime doesn't answer within half a minute, or its API can't be used.
    pub async fn connect(endpoint: &str, data_dir: &Path) -> Result<(Self, CriImages), RuntimeError> {
        let (mut runtime, image_service) = ::cri::connect(&::cri::socket(endpoint)?)?;
        let begun = tokio::time::Instant::now();
        let version = loop {
            match runtime.version(v1::VersionRequest { version: "v1".into() }).await {
                Ok(answer) => break answer.into_inner(),
                Err(status) if is_unavailable(&status) && begun.elapsed() < START_TIMEOUT => {
                    tracing::info!(endpoint, "waiting for the container runtime: {}", status.message());
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(status) => return Err(RuntimeError::Silent { endpoint: endpoint.into(), status }),
            }
        };
        let silent = |status| RuntimeError::Silent { endpoint: endpoint.into(), status };
        let status = runtime.status(v1::StatusRequest { verbose: true }).await.map_err(silent)?.into_inner();
        let told: Value = status.info.get("config").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        if by_systemd(&mut runtime, &told).await {
            let remedy = match version.runtime_name.as_str() {
                "cri-o" => "set cgroup_manager = \"cgroupfs\" and conmon_cgroup = \"pod\" in its configuration",
                _ => "set SystemdCgroup = false among the runtime's options in its configuration",
            };
            return Err(RuntimeError::Systemd { runtime: version.runtime_name, remedy });
        }
        let text = |value: &Value, default: &str| PathBuf::from(value.as_str().unwrap_or(default));
        let plugins = PluginFolders {
            configurations: text(&told["cni"]["confDir"], "/etc/cni/net.d"),
            programs: text(&told["cni"]["binDir"], "/opt/cni/bin"),
        };
        let images = CriImages::open(image_service, told["sandboxImage"].as_str().unwrap_or("")).await;
        let cri = Cri {
            runtime,
            version: Version { name: version.runtime_name, version: version.runtime_version },
            features: features(&status),
            plugins,
            owner: data_dir.display().to_string(),
        };
        Ok((cri, images))
    }

    /// Removes the CNI configuration of our network.
    pub fn leave(&self) {
        network::uninstall(&self.plugins);
    }

    fn plugins(&self) -> &PluginFolders {
        &self.plugins
    }

    /// A client to call with: calls want one that is theirs.
    fn client(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// What all sandboxes and containers of this agent are found by.
    fn owned(&self) -> HashMap<String, String> {
        HashMap::from([(OWNER.to_string(), self.owner.clone())])
    }

    /// Removes all sandboxes of this agent, with their containers.
    ///
    /// # Errors
    /// When the runtime can't.
    pub async fn remove_all(&self) -> io::Result<()> {
        for sandbox in self.sandboxes(self.owned()).await.map_err(|s| io_error(&s))? {
            self.remove_sandbox(&sandbox.id).await.map_err(|s| io_error(&s))?;
        }
        Ok(())
    }
}

/// Whether the runtime makes cgroups by systemd: newer ones say so in a call of their own, containerd in its configuration.
async fn by_systemd(runtime: &mut RuntimeServiceClient<Channel>, told: &Value) -> bool {
    if let Ok(answer) = runtime.runtime_config(v1::RuntimeConfigRequest {}).await
        && let Some(linux) = answer.into_inner().linux
    {
        return linux.cgroup_driver() == v1::CgroupDriver::Systemd;
    }
    let name = told["containerd"]["defaultRuntimeName"].as_str().unwrap_or("runc");
    told["containerd"]["runtimes"][name]["options"]["SystemdCgroup"] == true
}

fn features(status: &v1::StatusResponse) -> RuntimeFeatures {
    let with = |has: fn(&v1::RuntimeHandlerFeatures) -> bool| {
        let able = status.runtime_handlers.iter().filter(|h| h.features.as_ref().is_some_and(has));
        able.map(|handler| handler.name.clone()).collect::<Vec<_>>()
    };
    let named = status.runtime_handlers.iter().map(|h| h.name.clone()).filter(|name| !name.is_empty());
    RuntimeFeatures {
        // Those that don't say which they have refuse sandboxes with others.
        handlers: (!status.runtime_handlers.is_empty()).then(|| named.collect()),
        user_namespaces: with(|features| features.user_namespaces),
        recursive_read_only: with(|features| features.recursive_read_only_mounts),
        supplemental_groups_policy: status.features.as_ref().is_some_and(|f| f.supplemental_groups_policy),
    }
}

/// Another container runtime, as this node uses it.
pub struct CriRuntime {
    /// The connection to it.
    pub cri: Cri,
    /// What it uses of the node.
    pub node: NodeHandles,
}

#[async_trait]
impl ContainerRuntime for CriRuntime {
    fn version(&self) -> Version {
        self.cri.version.clone()
    }

    fn features(&self) -> RuntimeFeatures {
        self.cri.features.clone()
    }

    async fn not_ready_reason(&self) -> Option<String> {
        let status = match self.cri.client().status(v1::StatusRequest { verbose: false }).await {
            Ok(answer) => answer.into_inner().status.unwrap_or_default(),
            Err(status) => return Some(format!("container runtime is down: {}", status.message())),
        };
        let problem = status.conditions.iter().find(|c| !c.status && c.r#type.ends_with("Ready"))?;
        let what = if problem.r#type == "NetworkReady" { "container runtime network" } else { "container runtime" };
        Some(format!(
            "{what} not ready: {}=false reason:{} message:{}",
            problem.r#type, problem.reason, problem.message
        ))
    }

    async fn create_sandbox(&self, pod: &Pod, dirs: &PodDirs, _: Option<&Sandbox>) -> io::Result<Sandbox> {
        // What is left of an earlier one has its name, and perhaps its address.
        self.cri.remove_of(&pod.uid().unwrap_or_default()).await.map_err(|s| io_error(&s))?;
        self.cri.run_sandbox(&self.node, pod, dirs).await
    }

    async fn is_sandbox_ready(&self, _: &PodDirs, sandbox: &Sandbox) -> bool {
        let Some(id) = &sandbox.id else { return false };
        match self.cri.sandbox_state(id).await {
            Ok((state, _)) => state == v1::PodSandboxState::SandboxReady,
            // Of a runtime that is away nothing is known yet.
            Err(status) => status.code() != Code::NotFound,
        }
    }

    async fn prepare_containers(&self, dirs: &PodDirs, sandbox: &Sandbox) -> io::Result<Arc<dyn PodContainers>> {
        Ok(self.containers(dirs, Some(sandbox)))
    }

    fn containers(&self, _: &PodDirs, sandbox: Option<&Sandbox>) -> Arc<dyn PodContainers> {
        Arc::new(pod::CriContainers::new(self.cri.clone(), self.node.clone(), sandbox.and_then(|s| s.id.clone())))
    }

    async fn remove_sandbox(&self, uid: &str, _: &PodDirs, _: Option<&Sandbox>) {
        while let Err(status) = self.cri.remove_of(uid).await {
            tracing::warn!(uid, error = status.message(), "failed to remove a pod sandbox; retrying");
            tokio::time::sleep(RETRY_AFTER).await;
        }
        // Where the plugin was called while the agent wasn't there.
        network::forget(&self.node, uid).await;
    }

    async fn orphaned_pods(&self) -> Vec<String> {
        let sandboxes = self.cri.sandboxes(self.cri.owned()).await.unwrap_or_default();
        sandboxes.into_iter().filter_map(|sandbox| Some(sandbox.metadata?.uid)).collect()
    }

    async fn network_namespace(&self, _: &PodDirs, sandbox: &Sandbox) -> io::Result<PathBuf> {
        let (_, pid) = self.cri.sandbox_state(sandbox.id.as_deref().unwrap_or("")).await.map_err(|s| io_error(&s))?;
        let pid = pid.ok_or_else(|| io::Error::other("the runtime doesn't tell its process"))?;
        Ok(format!("/proc/{pid}/ns/net").into())
    }

    fn container_cgroup(&self, of_pod: &str, id: &str) -> String {
        match self.cri.version.name.as_str() {
            "cri-o" => format!("{of_pod}/crio-{id}"),
            _ => format!("{of_pod}/{id}"),
        }
    }

    async fn writable_layer_usage(&self) -> Option<HashMap<String, u64>> {
        let filter =
            v1::ContainerStatsFilter { label_selector: self.cri.owned(), ..v1::ContainerStatsFilter::default() };
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        let answer = self.cri.client().list_container_stats(request).await.ok()?.into_inner();
        let of = |stats: v1::ContainerStats| Some((stats.attributes?.id, stats.writable_layer?.used_bytes?.value));
        Some(answer.stats.into_iter().filter_map(of).collect())
    }
}

/// The first process of a sandbox or container, from the verbose part of its status.
pub fn pid_in(info: &HashMap<String, String>) -> Option<i32> {
    let told: Value = serde_json::from_str(info.get("info")?).ok()?;
    told["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
}
