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

/// Whose time has come, and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    critical: bool,
    until: Instant,
}

impl Turn {
    fn time_left(self, pod: &Pod, now: Instant) -> Option<Duration> {
        let own = clock::seconds(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30));
        let left = self.until.saturating_duration_since(now);
        (self.critical || !is_critical(pod)).then(|| left.min(own))
    }
}

/// The machine's going down, as the parts of the agent see it.
pub struct Shutdown {
    turn: watch::Sender<Option<Turn>>,
    /// Pods whose containers have ended, by uid.
    at_rest: watch::Sender<HashSet<String>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { turn: watch::Sender::new(None), at_rest: watch::Sender::default() }
    }
}

fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|priority| priority >= CRITICAL)
}

impl Shutdown {
    pub fn begun(&self) -> watch::Receiver<Option<Turn>> {
        self.turn.subscribe()
    }

    /// How long a pod may still take to end, once it has to.
    pub fn time_left(&self, pod: &Pod) -> Option<Duration> {
        (*self.turn.borrow())?.time_left(pod, Instant::now())
    }

    pub fn rests(&self, uid: &str) {
        self.at_rest.send_modify(|all| {
            all.insert(uid.into());
        });
    }
}

/// Whether the machine goes down, and not only this program. The service manager is asked; without one nobody knows.
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
            shutdown.turn.send_replace(Some(Turn { critical, until }));
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
            // What is to be told of the last ones is told.
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
        let turn = |critical| Turn { critical, until: now + Duration::from_secs(20) };
        let seconds = |turn: Turn, pod: &Pod, after: u64| {
            turn.time_left(pod, now + Duration::from_secs(after)).map(|left| left.as_secs())
        };
        assert_eq!(seconds(turn(false), &plain, 0), Some(5));
        assert_eq!(seconds(turn(false), &patient, 0), Some(20));
        assert_eq!(seconds(turn(false), &critical, 0), None);
        assert_eq!(seconds(turn(true), &plain, 25), Some(0));
        assert_eq!(seconds(turn(true), &critical, 5), Some(15));
        assert_eq!(Shutdown::default().time_left(&plain), None);
    }
}
