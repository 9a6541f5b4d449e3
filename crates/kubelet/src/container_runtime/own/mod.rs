//! Shims of our own: namespaces as files, root file systems on overlays, one shim for each pod.

mod cdi;
mod config;
mod output;
mod streams;

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nix::mount::{MsFlags, mount};
use runtime::image::{Credentials, Progress};
use runtime::protocol::ContainerState;
use runtime::spec::Limits;
use runtime::{ContainerEvent, Image, ImageError, ImageStore, ShimClient, cgroup, rootfs};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    ContainerRuntime, ExecError, ImageService, NodeHandles, OWN_RUNTIME, PodContainers, RuntimeFeatures, StopOptions,
    StreamError, Version, exit_status, signal_number,
};
use crate::config::Config;
use crate::container_runtime::launch::{Launch, StartError};
use crate::container_runtime::network::cni_pod;
use crate::spec::names::kernel_name;
use crate::state::{ContainerUser, PodDirs, Sandbox};
use crate::streaming::{Event, Sender, Wants};

pub(crate) use streams::exec_process;

/// How long a container may take to end that was killed, before more is done.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// What RuntimeClasses may name: this program's own way of running containers, and the name that most have for the same.
const HANDLERS: [&str; 2] = ["timonel", "runc"];

/// The runtime of our own: one shim for each pod.
pub struct Shims {
    /// The images.
    pub images: Arc<ImageStore>,
    /// What it uses of the node.
    pub node: NodeHandles,
}

/// The containers of one pod.
struct Shim {
    node: NodeHandles,
    shim: ShimClient,
    dirs: PodDirs,
    images: Arc<ImageStore>,
}

#[async_trait]
impl ContainerRuntime for Shims {
    fn version(&self) -> Version {
        Version { name: OWN_RUNTIME.into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn features(&self) -> RuntimeFeatures {
        let all = || std::iter::once("").chain(HANDLERS).map(String::from).collect::<Vec<_>>();
        RuntimeFeatures {
            handlers: Some(HANDLERS.map(String::from).into()),
            user_namespaces: all(),
            recursive_read_only: all(),
            supplemental_groups_policy: true,
        }
    }

    async fn create_sandbox(&self, pod: &Pod, dirs: &PodDirs, lost: Option<&Sandbox>) -> io::Result<Sandbox> {
        let spec = pod.spec.clone().unwrap_or_default();
        let host_network = spec.host_network == Some(true);
        let (uid, namespaces) = (pod.uid().unwrap_or_default(), dirs.namespaces());
        if let Some(lost) = lost {
            // After a reboot: what the pod had in the network is free for others.
            self.node.network.disconnect(&uid, &namespaces.net, Some(lost)).await;
        }
        let (name, made) = (kernel_name(&self.node.config, pod)?, namespaces.clone());
        let first_user =
            (spec.host_users == Some(false)).then(|| self.node.user_namespaces.allocate(&uid)).transpose()?;
        let make = move || match first_user {
            Some(first) => made.create_for_users(&name, first),
            None => made.create(&name, host_network),
        };
        tokio::task::spawn_blocking(make).await.map_err(io::Error::other)??;
        restrict_access(&self.node.config, dirs, first_user)?;
        let shm = dirs.shm();
        std::fs::create_dir_all(&shm)?;
        if !rootfs::is_mounted(&shm) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))?;
        }
        let (ips, membership) = if host_network {
            (self.node.config.node_ips.clone(), None)
        } else {
            self.node.network.connect(&cni_pod(pod), &namespaces.net).await.map_err(io::Error::other)?
        };
        Ok(Sandbox { ips, host_network, first_user, membership, id: None })
    }

    async fn is_sandbox_ready(&self, dirs: &PodDirs, _: &Sandbox) -> bool {
        dirs.namespaces().exist()
    }

    async fn prepare_containers(&self, dirs: &PodDirs, _: &Sandbox) -> io::Result<Arc<dyn PodContainers>> {
        std::fs::create_dir_all(&dirs.run)?;
        let shim = ShimClient::start(&dirs.run).await.map_err(io::Error::other)?;
        Ok(Arc::new(Shim { node: self.node.clone(), shim, dirs: dirs.clone(), images: self.images.clone() }))
    }

    fn containers(&self, dirs: &PodDirs, _: Option<&Sandbox>) -> Arc<dyn PodContainers> {
        let shim = ShimClient::at(&dirs.run);
        Arc::new(Shim { node: self.node.clone(), shim, dirs: dirs.clone(), images: self.images.clone() })
    }

    async fn remove_sandbox(&self, uid: &str, dirs: &PodDirs, sandbox: Option<&Sandbox>) {
        end_shim(dirs).await;
        self.node.network.disconnect(uid, &dirs.namespaces().net, sandbox).await;
    }

    async fn network_namespace(&self, dirs: &PodDirs, _: &Sandbox) -> io::Result<PathBuf> {
        Ok(dirs.namespaces().net)
    }
}

/// Closes a pod's folder to all but root, and the root of the pod if that is another: there it finds the roots of its containers.
fn restrict_access(config: &Config, dirs: &PodDirs, first_user: Option<u32>) -> io::Result<()> {
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let Some(first) = first_user else { return mode(&dirs.run, 0o700) };
    // What others go past is closed, also where an older agent hasn't done so.
    let pods = config.run_dir.join("pods");
    for pod in std::fs::read_dir(&pods)?.flatten() {
        if pod.metadata()?.mode() & 0o7 != 0 {
            mode(&pod.path(), 0o700)?;
        }
    }
    std::os::unix::fs::chown(&dirs.run, None, Some(first))?;
    mode(&dirs.run, 0o710)?;
    mode(&pods, 0o711)?;
    mode(&config.run_dir, 0o711)
}

#[async_trait]
impl PodContainers for Shim {
    async fn watch(&self) -> io::Result<(Vec<ContainerState>, mpsc::Receiver<ContainerEvent>)> {
        self.shim.watch().await.map_err(io::Error::other)
    }

    async fn create(&self, launch: &Launch<'_>) -> Result<String, StartError> {
        Ok(launch.id.into())
    }

    async fn start(&self, launch: &Launch<'_>, _: &str) -> Result<(), StartError> {
        self.launch(launch).await
    }

    async fn user(&self, id: &str) -> Option<ContainerUser> {
        let file = self.dirs.container(id).join("process.json");
        let process: Value = serde_json::from_slice(&bounded::bytes(file, bounded::MAX_OWN_FILE_BYTES).ok()?).ok()?;
        container_user(&process["user"])
    }

    async fn stop(&self, id: &str, stop: StopOptions) {
        if !stop.grace.is_zero() {
            let of_image = || ImageStore::find(&self.images, &stop.image).map(|image| image.defaults.stop_signal);
            let signal = stop.signal.clone().or_else(of_image).map_or(libc::SIGTERM, |name| signal_number(&name));
            let _ = self.shim.kill(id, signal).await;
            tokio::time::sleep(stop.grace).await;
        }
        let _ = self.shim.kill(id, libc::SIGKILL).await;
        self.await_exit(id).await;
    }

    async fn delete(&self, id: &str) -> io::Result<()> {
        let deleted = self.shim.delete(id).await.map_err(io::Error::other);
        let folders = [self.dirs.container(id), self.dirs.writable(id)];
        tokio::task::spawn_blocking(move || {
            rootfs::unmount_below(&[&folders[0], &folders[1]])?;
            for folder in folders {
                let _ = runtime::remove_tree(&folder);
            }
            deleted
        })
        .await?
    }

    async fn update_resources(&self, _: &str, cgroup: &str, limits: &Limits) -> io::Result<()> {
        cgroup::set_limits(cgroup, limits)
    }

    async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<(i32, String), ExecError> {
        let process = self.process(id, command, false).map_err(|e| ExecError::NotStarted(e.to_string()))?;
        let running = tokio::time::timeout(limit, streams::run(&self.shim, id, process.path())).await;
        let late = |_| ExecError::Failed(format!("command {command:?} timed out after {}s", limit.as_secs()));
        running.map_err(late)?.map_err(|error| ExecError::NotStarted(error.to_string()))
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<Value, StreamError> {
        let process = self.process(id, command, wants.tty)?;
        let exit = if wants.tty {
            streams::exec_terminal(&self.shim, id, process.path(), events, sender).await
        } else {
            streams::exec_pipes(&self.shim, id, process.path(), wants, events, sender).await
        };
        exit.map(|exit| exit_status(&exit))
    }

    async fn attach(
        &self,
        id: &str,
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<(), StreamError> {
        streams::run_attach(&self.shim, id, wants, events, sender).await
    }
}

/// Who an OCI process runs as, in the words of a container's status.
fn container_user(user: &Value) -> Option<ContainerUser> {
    let gid = user["gid"].as_i64()?;
    let mut supplemental_groups = vec![gid];
    for group in user["additionalGids"].as_array().into_iter().flatten().filter_map(Value::as_i64) {
        if !supplemental_groups.contains(&group) {
            supplemental_groups.push(group);
        }
    }
    Some(ContainerUser { uid: user["uid"].as_i64()?, gid, supplemental_groups })
}

/// Ends a pod's shim, whether it wants to or not. What is left of containers is their cgroups' matter.
async fn end_shim(dirs: &PodDirs) {
    let shim = ShimClient::at(&dirs.run);
    if let Err(error) = shim.quit().await {
        tracing::warn!(shim = %dirs.run.display(), %error, "a shim didn't exit in time; killing it");
        let ending = tokio::task::spawn_blocking(move || shim.end()).await;
        if let Err(error) = ending.map_err(io::Error::other).and_then(|ended| ended) {
            tracing::warn!(shim = %dirs.run.display(), %error, "failed to kill a shim");
        }
    }
}

impl Shim {
    /// Waits until a container that was killed has ended, and makes it end without its shim if that isn't able to.
    async fn await_exit(&self, id: &str) {
        if tokio::time::timeout(KILL_TIMEOUT, self.ended(id)).await.is_ok() {
            return;
        }
        tracing::warn!(id, "a container didn't exit after SIGKILL; killing its whole cgroup");
        let bundle = self.dirs.container(id);
        let killing = tokio::task::spawn_blocking(move || match cgroup_in(&bundle) {
            Some(group) => cgroup::kill_all(&group),
            None => tracing::warn!(bundle = %bundle.display(), "an OCI bundle names no cgroup"),
        });
        let _ = killing.await;
        // What runs elsewhere in the pod goes on as long as its shim is of use.
        if !self.shim.answers().await {
            tracing::warn!(id, "a shim doesn't answer; killing it");
            let shim = self.shim.clone();
            let _ = tokio::task::spawn_blocking(move || shim.end()).await;
        }
    }

    /// Returns once a container has ended, or the shim is gone.
    async fn ended(&self, id: &str) {
        let Ok((states, mut events)) = self.shim.watch().await else { return };
        if !states.iter().any(|state| state.id == id && state.exit.is_none()) {
            return;
        }
        while let Some(event) = events.recv().await {
            match event {
                ContainerEvent::Exited { id: ended, .. } if ended != id => {}
                _ => return,
            }
        }
    }

    fn process(&self, id: &str, command: &[String], tty: bool) -> io::Result<tempfile::NamedTempFile> {
        streams::exec_process(&self.dirs.container(id).join("process.json"), command, tty)
    }
}

/// The cgroup that a container's bundle names (runtime-spec, `cgroupsPath`).
fn cgroup_in(bundle: &Path) -> Option<String> {
    let config: Value =
        serde_json::from_slice(&bounded::bytes(bundle.join("config.json"), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()?;
    config["linux"]["cgroupsPath"].as_str().filter(|path| !path.is_empty()).map(String::from)
}

#[async_trait]
impl ImageService for Arc<ImageStore> {
    async fn find(&self, name: &str) -> Option<Image> {
        ImageStore::find(self, name)
    }

    async fn pull(
        &self,
        name: &str,
        credentials: Option<Credentials>,
        progress: &Arc<Progress>,
    ) -> Result<Image, ImageError> {
        ImageStore::pull(self, name, credentials, progress).await
    }

    async fn list(&self) -> Vec<Image> {
        ImageStore::list(self)
    }

    async fn remove(&self, id: &str) -> Result<bool, ImageError> {
        let (images, id) = (self.clone(), id.to_string());
        let removed = tokio::task::spawn_blocking(move || ImageStore::remove(&images, &id)).await;
        removed.map_err(|e| ImageError::Store(e.to_string()))?
    }

    fn arrivals(&self) -> Option<tokio::sync::watch::Receiver<()>> {
        Some(ImageStore::arrivals(self))
    }

    fn layers(&self, image: &Image) -> Option<Vec<PathBuf>> {
        Some(self.layer_paths(image))
    }

    fn folder(&self) -> &Path {
        ImageStore::folder(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_process_is_is_told() {
        let user = serde_json::json!({"uid": 1000, "gid": 3000, "additionalGids": [4000, 3000, 4000, 50000]});
        let told = serde_json::to_value(container_user(&user)).unwrap();
        assert_eq!(told, serde_json::json!({"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000, 50000]}));
        assert_eq!(container_user(&Value::Null), None);
    }
}
