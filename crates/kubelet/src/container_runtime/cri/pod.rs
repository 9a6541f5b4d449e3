//! The containers of one pod: made, watched and ended through the runtime.
//!
//! The runtime's word is what counts; the kernel says when to ask for it. Of each container's first process we hold a descriptor, which
//! shows its end, even while the runtime is away: when the runtime is back, it is asked how the container ended.

use std::io;
use std::time::Duration;

use ::cri::v1;
use apimachinery::{Backoff, ExponentialBackoff};
use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use runtime::ContainerEvent;
use runtime::process::Process;
use runtime::protocol::{ContainerState, Exit};
use runtime::spec::Limits;
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::container::{self, configuration};
use super::{Cri, RETRY_AFTER, io_error, is_unavailable, pid_in, sandbox, streams};
use crate::container_runtime::launch::{Launch, StartError};
use crate::container_runtime::{ExecError, NodeHandles, PodContainers, StopOptions, StreamError, signal_number};
use crate::state::WaitingReason;
use crate::streaming::{Event, Sender, Wants};

/// How much of a command's output is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Between looks at a container whose process has ended, until the runtime knows it too.
const POLL_BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(5), Duration::from_secs(1));

/// What the runtime says when it refuses.
fn refused(status: Status) -> StreamError {
    StreamError::Refused(status.message().into())
}

/// The containers of one pod.
pub struct CriContainers {
    cri: Cri,
    node: NodeHandles,
    sandbox: Option<String>,
    events: Mutex<Option<mpsc::Sender<ContainerEvent>>>,
}

/// A container as the runtime has it.
struct ContainerInfo {
    status: v1::ContainerStatus,
    pid: Option<i32>,
}

impl ContainerInfo {
    fn state(&self) -> v1::ContainerState {
        self.status.state()
    }

    /// How it ended, if it has.
    fn exit(&self) -> Option<Exit> {
        use v1::ContainerState::{ContainerExited, ContainerUnknown};
        matches!(self.state(), ContainerExited | ContainerUnknown).then(|| Exit {
            code: self.status.exit_code,
            // Runtimes have a shell's exit code alone.
            signal: 0,
            oom: self.status.reason == "OOMKilled",
            at: rfc3339(self.status.finished_at),
        })
    }
}

fn rfc3339(nanoseconds: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(nanoseconds)).ok().filter(|_| nanoseconds > 0);
    at.unwrap_or_else(Timestamp::now).to_string()
}

/// The exit of a container that went away with its sandbox, as upstream has it.
fn lost_exit() -> Exit {
    Exit { code: 137, signal: 0, oom: false, at: Timestamp::now().to_string() }
}

impl Cri {
    async fn inspect(&self, id: &str) -> Result<ContainerInfo, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let answer = self.client().container_status(request).await?.into_inner();
        Ok(ContainerInfo { pid: pid_in(&answer.info), status: answer.status.unwrap_or_default() })
    }

    /// How a container ends, whenever that is.
    async fn end(&self, id: &str) -> Exit {
        let mut backoff = Backoff::new(POLL_BACKOFF);
        loop {
            match self.inspect(id).await {
                Ok(info) if info.exit().is_some() => return info.exit().unwrap_or_else(lost_exit),
                Err(status) if status.code() == Code::NotFound => return lost_exit(),
                Ok(info) => {
                    if let Some(process) = info.pid.and_then(|pid| Process::find(pid).ok())
                        && self.inspect(id).await.is_ok_and(|now| now.pid == info.pid)
                    {
                        process.ended().await;
                        backoff.reset();
                    }
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    pub(super) async fn sandbox_state(&self, id: &str) -> Result<(v1::PodSandboxState, Option<i32>), Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let answer = self.client().pod_sandbox_status(request).await?.into_inner();
        let pid = pid_in(&answer.info);
        Ok((answer.status.map_or(v1::PodSandboxState::SandboxNotready, |status| status.state()), pid))
    }

    /// Waits until a sandbox is no more what it was.
    async fn sandbox_end(&self, id: &str) {
        let mut backoff = Backoff::new(POLL_BACKOFF);
        loop {
            match self.sandbox_state(id).await {
                Ok((v1::PodSandboxState::SandboxNotready, _)) => return,
                Err(status) if status.code() == Code::NotFound => return,
                Ok((_, pid)) => {
                    if let Some(process) = pid.and_then(|pid| Process::find(pid).ok()) {
                        process.ended().await;
                        backoff.reset();
                    }
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn list(&self, sandbox: &str) -> Result<Vec<ContainerInfo>, Status> {
        let filter = v1::ContainerFilter { pod_sandbox_id: sandbox.into(), ..v1::ContainerFilter::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut found = Vec::new();
        for container in self.client().list_containers(request).await?.into_inner().containers {
            match self.inspect(&container.id).await {
                Ok(info) => found.push(info),
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        Ok(found)
    }

    async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest { container_id: id.into() };
        self.client().remove_container(request).await.map(|_| ())
    }

    async fn stop_container(&self, id: &str, grace: Duration) {
        let timeout = grace.as_secs() as i64;
        let request = v1::StopContainerRequest { container_id: id.into(), timeout };
        while let Err(status) = self.client().stop_container(request.clone()).await {
            // A container that has ended, or is gone, needn't be stopped.
            if status.code() == Code::NotFound || self.inspect(id).await.is_ok_and(|info| info.exit().is_some()) {
                return;
            }
            tracing::warn!(id, error = status.message(), "failed to stop a container; retrying");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Repeats a call until the runtime is available.
async fn retry_while_unavailable<T, F: Future<Output = Result<T, Status>>>(ask: impl Fn() -> F) -> Result<T, Status> {
    let mut is_logged = false;
    loop {
        match ask().await {
            Err(status) if is_unavailable(&status) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(error = status.message(), "the container runtime is unavailable; waiting for it");
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            answer => return answer,
        }
    }
}

impl CriContainers {
    /// `sandbox` is the id of the pod's sandbox, if it has one.
    pub fn new(cri: Cri, node: NodeHandles, sandbox: Option<String>) -> Self {
        CriContainers { cri, node, sandbox, events: Mutex::default() }
    }

    /// Sends an event at a container's end, as long as there is a receiver.
    fn watch_exit(&self, id: &str) {
        let Some(events) = self.events.lock().clone() else { return };
        let (cri, id) = (self.cri.clone(), id.to_string());
        tasks::spawn("container-end", async move {
            tokio::select! {
                exit = cri.end(&id) => {
                    let _ = events.send(ContainerEvent::Exited { id: id.clone(), exit }).await;
                }
                () = events.closed() => {}
            }
        });
    }
}

#[async_trait]
impl PodContainers for CriContainers {
    async fn watch(&self) -> io::Result<(Vec<ContainerState>, mpsc::Receiver<ContainerEvent>)> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the pod has no sandbox");
        let sandbox = self.sandbox.as_deref().ok_or_else(gone)?;
        let (state, _) = retry_while_unavailable(|| self.cri.sandbox_state(sandbox)).await.map_err(|s| io_error(&s))?;
        let containers = retry_while_unavailable(|| self.cri.list(sandbox)).await.map_err(|s| io_error(&s))?;
        let (events, receiver) = mpsc::channel(16);
        *self.events.lock() = Some(events.clone());
        let whole = state == v1::PodSandboxState::SandboxReady;
        let mut states = Vec::new();
        for container in containers {
            let id = container.status.id.clone();
            let exit = container.exit();
            // One that was never started is made anew.
            if container.state() == v1::ContainerState::ContainerCreated {
                retry_while_unavailable(|| self.cri.remove_container(&id)).await.map_err(|s| io_error(&s))?;
                continue;
            }
            if exit.is_none() && whole {
                self.watch_exit(&id);
            }
            let exit = exit.or_else(|| (!whole).then(lost_exit));
            let started_at = rfc3339(container.status.started_at);
            states.push(ContainerState { id, pid: container.pid.unwrap_or(0), started_at, exit });
        }
        let (cri, sandbox) = (self.cri.clone(), sandbox.to_string());
        tasks::spawn("sandbox-end", async move {
            tokio::select! {
                () = cri.sandbox_end(&sandbox) => {
                    let _ = events.send(ContainerEvent::Gone).await;
                }
                () = events.closed() => {}
            }
        });
        Ok((states, receiver))
    }

    async fn create(&self, launch: &Launch<'_>) -> Result<String, StartError> {
        let failed = |message: String| StartError { reason: WaitingReason::CreateContainerError, message };
        let config = configuration(&self.node, &self.cri.features, launch, &self.cri.owner).await?;
        let first_user = launch.sandbox.first_user;
        let of_pod = sandbox::configuration(&self.node, launch.pod, launch.dirs, &self.cri.owner, first_user);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone().unwrap_or_default(),
            config: Some(config),
            sandbox_config: Some(of_pod.map_err(|e| failed(e.to_string()))?),
        };
        let answer = self.cri.client().create_container(request).await;
        Ok(answer.map_err(|status| failed(status.message().into()))?.into_inner().container_id)
    }

    async fn start(&self, _: &Launch<'_>, id: &str) -> Result<(), StartError> {
        let started = self.cri.client().start_container(v1::StartContainerRequest { container_id: id.into() }).await;
        started.map_err(|s| StartError { reason: WaitingReason::RunContainerError, message: s.message().into() })?;
        self.watch_exit(id);
        Ok(())
    }

    async fn stop(&self, id: &str, stop: StopOptions) {
        // Not all runtimes know of signals of a spec's own.
        let Some(signal) = stop.signal.as_deref().filter(|_| !stop.grace.is_zero()) else {
            return self.cri.stop_container(id, stop.grace).await;
        };
        if let Ok(ContainerInfo { pid: Some(pid), .. }) = self.cri.inspect(id).await
            && let Ok(process) = Process::find(pid)
            && self.cri.inspect(id).await.is_ok_and(|now| now.pid == Some(pid))
            && process.signal(signal_number(signal)).is_ok()
        {
            let _ = tokio::time::timeout(stop.grace, process.ended()).await;
            return self.cri.stop_container(id, Duration::ZERO).await;
        }
        self.cri.stop_container(id, stop.grace).await;
    }

    async fn delete(&self, id: &str) -> io::Result<()> {
        retry_while_unavailable(|| self.cri.remove_container(id)).await.map_err(|s| io_error(&s))
    }

    async fn update_resources(&self, id: &str, _: &str, limits: &Limits) -> io::Result<()> {
        let resources = v1::LinuxContainerResources {
            // None is to be said, as zero leaves things as they are.
            cpu_quota: if limits.cpu_milli > 0 { container::resources(limits, None).cpu_quota } else { -1 },
            memory_limit_in_bytes: if limits.memory_bytes > 0 { limits.memory_bytes } else { -1 },
            ..container::resources(limits, None)
        };
        let request = v1::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(resources) };
        self.cri.client().update_container_resources(request).await.map(|_| ()).map_err(|s| io_error(&s))
    }

    async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<(i32, String), ExecError> {
        let timeout = limit.as_secs().max(1) as i64;
        let request = v1::ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout };
        let answer = self.cri.client().exec_sync(request).await.map_err(|status| match status.code() {
            _ if is_unavailable(&status) => ExecError::Unavailable,
            Code::DeadlineExceeded => ExecError::Failed(format!("command {command:?} timed out after {timeout}s")),
            _ => ExecError::NotStarted(status.message().to_string()),
        })?;
        let answer = answer.into_inner();
        let said = [answer.stdout, answer.stderr].concat();
        let said = String::from_utf8_lossy(&said[..said.len().min(MAX_MESSAGE_BYTES)]).trim().to_string();
        Ok((answer.exit_code, said))
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<Value, StreamError> {
        let request = v1::ExecRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            tty: wants.tty,
            stdin: wants.stdin,
            stdout: wants.stdout,
            // A terminal has one output.
            stderr: wants.stderr && !wants.tty,
        };
        let answer = self.cri.client().exec(request).await.map_err(refused)?;
        streams::join(&answer.into_inner().url, wants, events, sender).await
    }

    async fn attach(
        &self,
        id: &str,
        wants: Wants,
        events: mpsc::Receiver<Event>,
        sender: &Sender,
    ) -> Result<(), StreamError> {
        let request = v1::AttachRequest {
            container_id: id.into(),
            stdin: wants.stdin,
            tty: wants.tty,
            stdout: wants.stdout,
            stderr: wants.stderr && !wants.tty,
        };
        let answer = self.cri.client().attach(request).await.map_err(refused)?;
        let status = streams::join(&answer.into_inner().url, wants, events, sender).await?;
        match status["status"].as_str() {
            Some("Failure") => Err(StreamError::Refused(status["message"].as_str().unwrap_or("attach failed").into())),
            _ => Ok(()),
        }
    }
}
