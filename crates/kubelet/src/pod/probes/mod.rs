//! Health checks and lifecycle hooks.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::container_runtime::{ExecError, PodContainers};

/// What a probe found out about a run of a container.
#[derive(Debug)]
pub struct ProbeResult {
    /// The container's name.
    pub container: String,
    /// The container's id.
    pub id: String,
    /// `startup`, `liveness` or `readiness`.
    pub probe: &'static str,
    /// What follows.
    pub finding: Finding,
    /// Whether the probe succeeded.
    pub healthy: bool,
    /// Why it failed.
    pub message: String,
    /// How long the container may take to end because of this probe, if the probe says so.
    pub grace: Option<Duration>,
}

impl ProbeResult {
    fn of(
        target: &Target,
        probe: &Probe,
        name: &'static str,
        finding: Finding,
        healthy: bool,
        message: String,
    ) -> Self {
        let grace = probe.termination_grace_period_seconds.map(|s| clock::seconds(s.max(1)));
        let (container, id) = (target.container.name.clone(), target.id.clone());
        ProbeResult { container, id, probe: name, finding, healthy, message, grace }
    }
}

/// What follows from a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The startup probe succeeded.
    Started,
    /// The readiness probe's result changed.
    Ready,
    /// The container has to be restarted.
    Failed,
    /// A failure below the threshold, for an event.
    Unhealthy,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Target {
    /// The container's id.
    pub id: String,
    /// The pod's address.
    pub ip: IpAddr,
    /// The container.
    pub container: Container,
    /// When it was started.
    pub started: Instant,
}

/// Runs all probes of a container until the task is aborted.
pub async fn watch(
    containers: Arc<dyn PodContainers>,
    target: Target,
    started: bool,
    results: mpsc::Sender<ProbeResult>,
) {
    if let Some(probe) = target.container.startup_probe.clone()
        && !started
    {
        let passed = run_probe(&*containers, &target, &probe, "startup", &results).await;
        if !passed {
            return;
        }
    }
    let liveness = async {
        if let Some(probe) = &target.container.liveness_probe {
            run_probe(&*containers, &target, probe, "liveness", &results).await;
        }
    };
    tokio::join!(liveness, readiness(&*containers, &target, &results));
}

/// Runs the readiness probe of a container alone.
pub async fn watch_readiness(containers: Arc<dyn PodContainers>, target: Target, results: mpsc::Sender<ProbeResult>) {
    readiness(&*containers, &target, &results).await;
}

async fn readiness(containers: &dyn PodContainers, target: &Target, results: &mpsc::Sender<ProbeResult>) {
    if let Some(probe) = &target.container.readiness_probe {
        run_probe(containers, target, probe, "readiness", results).await;
    }
}

/// When a probe looks. What counts against a container are the looks that its probe asks for, one each period; a container that isn't
/// ready yet is looked at between them in its first period, so that it serves as soon as it can.
#[derive(Debug)]
struct Schedule {
    period: Duration,
    /// The next look that counts.
    tick: Instant,
    /// Until when there are early looks, and the wait for the next.
    early: Option<(Instant, Duration)>,
}

/// Between the first looks.
const EARLY_PROBE_PERIOD: Duration = Duration::from_millis(200);

impl Schedule {
    fn new(now: Instant, period: Duration, eager: bool) -> Self {
        let tick = clock::deadline(now, period);
        Schedule { period, tick, early: eager.then_some((tick, EARLY_PROBE_PERIOD)) }
    }

    /// When the next look is, and whether it counts.
    fn next(&mut self, now: Instant, still_eager: bool) -> (Instant, bool) {
        if let Some((until, wait)) = self.early.filter(|_| still_eager) {
            let at = clock::deadline(now, wait);
            self.early = Some((until, wait.saturating_mul(2)));
            if at < until {
                return (at, false);
            }
        }
        self.early = None;
        let at = self.tick.max(now);
        self.tick = clock::deadline(at, self.period);
        (at, true)
    }
}

/// A probe's numbers, with upstream's defaults and bounds.
struct Settings {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    need_success: i32,
    need_failure: i32,
}

impl Settings {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32| clock::seconds(i64::from(value.unwrap_or(default)));
        Settings {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            need_success: probe.success_threshold.unwrap_or(1),
            need_failure: probe.failure_threshold.unwrap_or(3),
        }
    }
}

/// Probes again and again. A startup probe ends with its first success (true) or the container's death (false).
async fn run_probe(
    containers: &dyn PodContainers,
    target: &Target,
    probe: &Probe,
    name: &'static str,
    results: &mpsc::Sender<ProbeResult>,
) -> bool {
    let Settings { delay, period, timeout, need_success, need_failure } = Settings::of(probe);
    // Its delay is counted from the container's start, whatever else was waited for meanwhile.
    tokio::time::sleep_until(clock::deadline(target.started, delay)).await;
    // Several successes that are needed are a period apart.
    let mut schedule = Schedule::new(Instant::now(), period, name != "liveness" && need_success <= 1);
    let (mut successes, mut failures, mut counts) = (0_i32, 0_i32, true);
    let mut ready: Option<bool> = None;
    let send = |finding, healthy, message: String| {
        let result = ProbeResult::of(target, probe, name, finding, healthy, message);
        async move { results.send(result).await.is_ok() }
    };
    loop {
        let result = tokio::time::timeout(timeout, probe_once(containers, target, probe, timeout)).await;
        let result = result.unwrap_or_else(|_| Err(format!("timed out after {}s", timeout.as_secs()).into()));
        match result {
            // As upstream has it: a probe that couldn't be run counts for nothing.
            Err(ExecError::Unavailable) => {}
            Ok(()) => {
                (successes, failures) = (successes.saturating_add(1), 0);
                if successes >= need_success {
                    if name == "startup" {
                        send(Finding::Started, true, String::new()).await;
                        return true;
                    }
                    if name == "readiness" && ready != Some(true) {
                        ready = Some(true);
                        send(Finding::Ready, true, String::new()).await;
                    }
                }
            }
            Err(ExecError::Failed(_)) if !counts => {}
            Err(ExecError::Failed(message)) => {
                (successes, failures) = (0, failures.saturating_add(1));
                if failures < need_failure {
                    send(Finding::Unhealthy, false, message).await;
                } else if name == "readiness" {
                    ready = Some(false);
                    send(Finding::Ready, false, message).await;
                } else {
                    send(Finding::Failed, false, message).await;
                    return false;
                }
            }
        }
        let (at, counted) = schedule.next(Instant::now(), ready != Some(true));
        counts = counted;
        tokio::time::sleep_until(at).await;
    }
}

async fn probe_once(
    containers: &dyn PodContainers,
    target: &Target,
    probe: &Probe,
    limit: Duration,
) -> Result<(), ExecError> {
    if let Some(exec) = &probe.exec {
        return run(containers, &target.id, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    let asked = if let Some(get) = &probe.http_get {
        http::get(target, get).await
    } else if let Some(tcp) = &probe.tcp_socket {
        let host = host(target, tcp.host.as_deref());
        let port = port(target, &tcp.port)?;
        let connected = TcpStream::connect((host.as_str(), port)).await;
        connected.map(|_| ()).map_err(|e| format!("dial tcp {}: {e}", apimachinery::authority(&host, port)))
    } else if let Some(action) = &probe.grpc {
        grpc::check(target, action).await
    } else {
        Err("the probe says nothing to do".into())
    };
    Ok(asked?)
}

/// Runs a lifecycle hook to its end.
pub async fn run_hook(
    containers: &dyn PodContainers,
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
            tokio::time::sleep(clock::seconds(sleep.seconds)).await;
            Ok(())
        } else {
            Ok(())
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err("the hook took too long".into()))
}

async fn run(containers: &dyn PodContainers, id: &str, command: &[String], limit: Duration) -> Result<(), ExecError> {
    match containers.exec_sync(id, command, limit).await? {
        (0, _) => Ok(()),
        (code, said) if said.is_empty() => Err(format!("command {command:?} exited with {code}").into()),
        (_, said) => Err(said.into()),
    }
}

/// The address or name that a probe goes to: the pod's own unless it says another, which the machine's resolver finds.
fn host(target: &Target, asked: Option<&str>) -> String {
    asked.filter(|host| !host.is_empty()).map_or_else(|| target.ip.to_string(), String::from)
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
