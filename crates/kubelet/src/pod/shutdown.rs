//! What happens to pods when the machine goes down: their containers end as their pods ask, the critical ones last (KEP-2000).
//! Unlike upstream's, the pods stay what they are, as after a power cut: they go on when the machine is up again.

use std::collections::HashSet;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use super::admission::CRITICAL;
use super::manager::PodManager;

/// A phase of the shutdown: whether critical pods terminate, and when the phase is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownPhase {
    critical: bool,
    until: Instant,
}

impl ShutdownPhase {
    fn time_left(self, pod: &Pod, now: Instant) -> Option<Duration> {
        let own = clock::seconds(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30));
        let left = self.until.saturating_duration_since(now);
        (self.critical || !is_critical(pod)).then(|| left.min(own))
    }
}

/// The machine's going down, as the parts of the agent see it.
pub struct Shutdown {
    phase: watch::Sender<Option<ShutdownPhase>>,
    /// Pods whose containers have ended, by uid.
    at_rest: watch::Sender<HashSet<String>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { phase: watch::Sender::new(None), at_rest: watch::Sender::default() }
    }
}

fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|priority| priority >= CRITICAL)
}

impl Shutdown {
    /// Tells whether the shutdown has begun, and of each of its phases.
    pub fn phases(&self) -> watch::Receiver<Option<ShutdownPhase>> {
        self.phase.subscribe()
    }

    /// How long a pod may still take to end, once it has to.
    pub fn time_left(&self, pod: &Pod) -> Option<Duration> {
        (*self.phase.borrow())?.time_left(pod, Instant::now())
    }

    /// A pod's containers have ended.
    pub fn rests(&self, uid: &str) {
        self.at_rest.send_modify(|all| {
            all.insert(uid.into());
        });
    }
}

/// Whether the machine goes down, and not only this program. The service manager is asked; without one it is taken for a stop of this program.
pub async fn machine_goes_down() -> bool {
    let mut command = Command::new("systemctl");
    let asked = bounded::output(command.arg("is-system-running"), b"", 4096);
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        _ => false,
    }
}

impl PodManager {
    /// Ends all pods' containers, and returns when they have ended or their time is over.
    pub async fn shut_down(&self) {
        let grace = self.context.config.shutdown_grace;
        let (begin, pods) = (Instant::now(), self.pods());
        tracing::info!(pods = pods.len(), "graceful node shutdown: terminating pods");
        let whole = clock::deadline(begin, grace.total);
        for (critical, until) in
            [(false, clock::deadline(begin, grace.total.saturating_sub(grace.critical_pods))), (true, whole)]
        {
            let shutdown = &self.context.shutdown;
            shutdown.phase.send_replace(Some(ShutdownPhase { critical, until }));
            let due: Vec<_> = pods.iter().filter(|pod| is_critical(pod) == critical).filter_map(|p| p.uid()).collect();
            for uid in &due {
                if let Some(worker) = self.context.workers.get(uid) {
                    worker.send_modify(|_| ());
                }
            }
            let mut at_rest = shutdown.at_rest.subscribe();
            let all = at_rest.wait_for(|resting| {
                due.iter().all(|uid| resting.contains(uid) || self.context.workers.get(uid).is_none())
            });
            // The last ones have their status written.
            let _ = tokio::time::timeout_at(clock::deadline(until, Duration::from_secs(1)), all).await;
        }
        tracing::info!(seconds = begin.elapsed().as_secs_f32(), "graceful node shutdown: pods have terminated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn critical_pods_are_ended_last_and_none_takes_longer_than_there_is() {
        let pod = |priority: i32, grace: i64| -> Pod {
            serde_json::from_value(json!({"spec": {"priority": priority, "terminationGracePeriodSeconds": grace,
                "containers": []}}))
            .unwrap()
        };
        let (plain, patient, critical) = (pod(0, 5), pod(1000, 60), pod(2_000_001_000, 60));
        let now = Instant::now();
        let phase = |critical| ShutdownPhase { critical, until: now + Duration::from_secs(20) };
        let seconds = |phase: ShutdownPhase, pod: &Pod, after: u64| {
            phase.time_left(pod, now + Duration::from_secs(after)).map(|left| left.as_secs())
        };
        assert_eq!(seconds(phase(false), &plain, 0), Some(5));
        assert_eq!(seconds(phase(false), &patient, 0), Some(20));
        assert_eq!(seconds(phase(false), &critical, 0), None);
        assert_eq!(seconds(phase(true), &plain, 25), Some(0));
        assert_eq!(seconds(phase(true), &critical, 5), Some(15));
        assert_eq!(Shutdown::default().time_left(&plain), None);
    }
}
