//! Health checks and lifecycle hooks.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::engine::{Containers, NotRun};

/// What a probe found out about a run of a container.
#[derive(Debug)]
pub struct Verdict {
    pub container: String,
    pub id: String,
    pub probe: &'static str,
    pub kind: Kind,
    pub healthy: bool,
    pub message: String,
    /// How long the container may take to end because of this probe, if the probe says so.
    pub grace: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The startup probe succeeded.
    Started,
    /// The readiness probe's result changed.
    Ready,
    /// The container has to be restarted.
    Dead,
    /// A failure below the threshold, for an event.
    Unhealthy,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Target {
    pub id: String,
    pub ip: IpAddr,
    pub container: Container,
}

/// Runs all probes of a container until the task is aborted.
pub async fn watch(containers: Arc<dyn Containers>, target: Target, started: bool, verdicts: mpsc::Sender<Verdict>) {
    if let Some(probe) = target.container.startup_probe.clone()
        && !started
    {
        let passed = repeat(&*containers, &target, &probe, "startup", &verdicts).await;
        if !passed {
            return;
        }
    }
    let liveness = async {
        if let Some(probe) = &target.container.liveness_probe {
            repeat(&*containers, &target, probe, "liveness", &verdicts).await;
        }
    };
    let readiness = async {
        if let Some(probe) = &target.container.readiness_probe {
            repeat(&*containers, &target, probe, "readiness", &verdicts).await;
        }
    };
    tokio::join!(liveness, readiness);
}

/// Probes again and again. A startup probe ends with its first success (true) or the container's death (false).
async fn repeat(
    containers: &dyn Containers,
    target: &Target,
    probe: &Probe,
    name: &'static str,
    verdicts: &mpsc::Sender<Verdict>,
) -> bool {
    let seconds = |value: Option<i32>, default: i32| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let (need_success, need_failure) = (probe.success_threshold.unwrap_or(1), probe.failure_threshold.unwrap_or(3));
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (mut successes, mut failures) = (0, 0);
    let mut ready: Option<bool> = None;
    let tell = |kind, healthy, message: String| {
        let verdict = Verdict {
            container: target.container.name.clone(),
            id: target.id.clone(),
            probe: name,
            kind,
            healthy,
            message,
            grace: probe.termination_grace_period_seconds.map(|s| Duration::from_secs(s.max(1) as u64)),
        };
        async move { verdicts.send(verdict).await.is_ok() }
    };
    loop {
        let result = tokio::time::timeout(timeout, once(containers, target, probe, timeout)).await;
        let result = result.unwrap_or_else(|_| Err(format!("timed out after {}s", timeout.as_secs()).into()));
        match result {
            // As upstream has it: what nobody could find out counts for nothing.
            Err(NotRun::Away) => {}
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                if successes >= need_success {
                    if name == "startup" {
                        tell(Kind::Started, true, String::new()).await;
                        return true;
                    }
                    if name == "readiness" && ready != Some(true) {
                        ready = Some(true);
                        tell(Kind::Ready, true, String::new()).await;
                    }
                }
            }
            Err(NotRun::Failed(message)) => {
                (successes, failures) = (0, failures + 1);
                if failures < need_failure {
                    tell(Kind::Unhealthy, false, message).await;
                } else if name == "readiness" {
                    ready = Some(false);
                    tell(Kind::Ready, false, message).await;
                } else {
                    tell(Kind::Dead, false, message).await;
                    return false;
                }
            }
        }
        // A container that isn't ready yet is looked at more often at first, so that it serves as soon as it can.
        let eager = name != "liveness" && ready.is_none() && period > Duration::from_secs(1) && failures < 3;
        tokio::time::sleep(if eager { Duration::from_millis(200) } else { period }).await;
    }
}

async fn once(containers: &dyn Containers, target: &Target, probe: &Probe, limit: Duration) -> Result<(), NotRun> {
    if let Some(exec) = &probe.exec {
        return run(containers, &target.id, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    let asked = if let Some(get) = &probe.http_get {
        http::get(target, get).await
    } else if let Some(tcp) = &probe.tcp_socket {
        let address = host(target, tcp.host.as_deref())?;
        let port = port(target, &tcp.port)?;
        let connected = TcpStream::connect((address, port)).await;
        connected.map(|_| ()).map_err(|e| format!("dial tcp {}: {e}", apimachinery::authority(address, port)))
    } else if let Some(action) = &probe.grpc {
        grpc::check(target, action).await
    } else {
        Err("the probe says nothing to do".into())
    };
    Ok(asked?)
}

/// Runs a lifecycle hook to its end.
pub async fn hook(
    containers: &dyn Containers,
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            run(containers, &target.id, command, limit).await.map_err(|error| error.to_string())
        } else if let Some(get) = &hook.http_get {
            http::get(target, get).await
        } else if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
            Ok(())
        } else {
            Ok(())
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("the hook took too long".into()))
}

async fn run(containers: &dyn Containers, id: &str, command: &[String], limit: Duration) -> Result<(), NotRun> {
    match containers.run(id, command, limit).await? {
        (0, _) => Ok(()),
        (code, said) if said.is_empty() => Err(format!("command {command:?} exited with {code}").into()),
        (_, said) => Err(said.into()),
    }
}

fn host(target: &Target, asked: Option<&str>) -> Result<IpAddr, String> {
    match asked.filter(|h| !h.is_empty()) {
        Some(host) => host.parse().map_err(|_| format!("the host {host:?} is no address")),
        None => Ok(target.ip),
    }
}

fn port(target: &Target, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|e| e.to_string()),
        IntOrString::String(name) => {
            let found = target.container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            found.and_then(|p| u16::try_from(p.container_port).ok()).ok_or_else(|| format!("there is no port {name:?}"))
        }
    }
}
