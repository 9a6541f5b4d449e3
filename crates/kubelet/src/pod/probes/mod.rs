//! Health checks and lifecycle hooks.

mod grpc;
mod hook;
mod http;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::container_runtime::{ExecError, PodContainers};
use crate::environment;
pub use hook::{Hook, HookError, run_hook};

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

/// What a probe came to that found a container well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It is.
    Well,
    /// It is as far as this probe can see, which says what it didn't look at.
    Warning(String),
}

/// Why a probe didn't find a container well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeError {
    /// It isn't healthy, and why.
    Failed(String),
    /// The probe couldn't be run as it is described, which counts for nothing, and why.
    Errored(String),
    /// The container runtime couldn't be reached now, which counts for nothing.
    Unavailable,
}

impl From<ExecError> for ProbeError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Failed(why) => ProbeError::Failed(why),
            ExecError::NotStarted(why) => ProbeError::Errored(why),
            ExecError::Unavailable => ProbeError::Unavailable,
        }
    }
}

impl std::fmt::Display for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProbeError::Failed(why) | ProbeError::Errored(why) => f.write_str(why),
            ProbeError::Unavailable => write!(f, "{}", ExecError::Unavailable),
        }
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
    /// A success with something to say, for an event.
    Warning,
    /// The probe couldn't be run, for an event.
    Errored,
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
        let late = |_| Err(ProbeError::Failed(format!("timed out after {}s", timeout.as_secs())));
        let result = result.unwrap_or_else(late);
        if let Ok(Health::Warning(message)) = &result
            && counts
        {
            send(Finding::Warning, true, message.clone()).await;
        }
        match result {
            // As upstream has it: a probe that couldn't be run counts for nothing.
            Err(ProbeError::Unavailable) => {}
            Err(ProbeError::Errored(_)) if !counts => {}
            Err(ProbeError::Errored(message)) => {
                send(Finding::Errored, false, message).await;
            }
            Ok(_) => {
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
            Err(ProbeError::Failed(_)) if !counts => {}
            Err(ProbeError::Failed(message)) => {
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
) -> Result<Health, ProbeError> {
    if let Some(exec) = &probe.exec {
        let command = static_command(exec.command.as_deref().unwrap_or_default(), &target.container)?;
        run(containers, &target.id, &command, limit).await?;
    } else if let Some(get) = &probe.http_get {
        return http::probe(target, get).await;
    } else if let Some(tcp) = &probe.tcp_socket {
        let host = host(target, tcp.host.as_deref());
        let port = port(target, &tcp.port)?;
        let connected = TcpStream::connect((host.as_str(), port)).await;
        let failed = |e| format!("dial tcp {}: {e}", apimachinery::authority(&host, port));
        connected.map_err(failed).map_err(ProbeError::Failed)?;
    } else if let Some(action) = &probe.grpc {
        grpc::check(target, action).await.map_err(|error| ProbeError::Failed(error.to_string()))?;
    } else {
        return Err(ProbeError::Errored(format!("missing probe handler for {}", target.container.name)));
    }
    Ok(Health::Well)
}

/// The command of a probe, with the container's variables in place of their names as far as its spec says them itself (upstream's
/// `ExpandContainerCommandOnlyStatic`).
fn static_command(command: &[String], container: &Container) -> Result<Vec<String>, ProbeError> {
    let known = container.env.iter().flatten().map(|v| (v.name.clone(), v.value.clone().unwrap_or_default())).collect();
    environment::expand_all(command, &known).map_err(|error| ProbeError::Errored(error.to_string()))
}

async fn run(containers: &dyn PodContainers, id: &str, command: &[String], limit: Duration) -> Result<(), ExecError> {
    match containers.exec_sync(id, command, limit).await? {
        (0, _) => Ok(()),
        (code, said) if said.is_empty() => Err(ExecError::Failed(format!("command {command:?} exited with {code}"))),
        (_, said) => Err(ExecError::Failed(said)),
    }
}

/// The address or name that a probe goes to: the pod's own unless it says another, which the machine's resolver finds.
fn host(target: &Target, asked: Option<&str>) -> String {
    asked.filter(|host| !host.is_empty()).map_or_else(|| target.ip.to_string(), String::from)
}

/// Why a probe or a hook has no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The container has none of this name.
    #[error("there is no port {0} in the container")]
    Unknown(String),
    /// It is none of 1 to 65535.
    #[error("invalid port number: {0}")]
    Invalid(i32),
}

impl From<PortError> for ProbeError {
    fn from(error: PortError) -> Self {
        ProbeError::Errored(error.to_string())
    }
}

/// The number of a port: by number, by name among the container's ports, or a number that is written as a text (upstream's
/// `ResolveContainerPort`).
fn port(target: &Target, port: &IntOrString) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let found = target.container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            found.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.ok_or_else(|| PortError::Unknown(text(port)))?;
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or(PortError::Invalid(number))
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => format!("{name:?}"),
    }
}
