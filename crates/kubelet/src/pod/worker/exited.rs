//! What follows from a container's end.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::protocol::Exit;
use tokio::time::Instant;

use super::Worker;
use crate::events::ContainerEvents as _;
use crate::pod::status;
use crate::state::{ContainerState, Terminated};
use crate::{logs, spec};

/// A run that was longer than this wipes earlier failures out.
const BACKOFF_RESET_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// The most of a container's termination message that is kept, and of all of a pod's together, in bytes, as upstream does.
const MAX_TERMINATION_MESSAGE_BYTES: usize = 4 << 10;
const MAX_TERMINATION_MESSAGES_BYTES: usize = 12 << 10;

impl Worker {
    pub(super) async fn container_exited(&mut self, id: &str, exit: Exit) {
        let Some((name, run)) = self.saved.containers.iter_mut().find(|(_, r)| r.id == id) else { return };
        let ContainerState::Running { started_at } = &run.phase else { return };
        let started_at = started_at.clone();
        let long = match (started_at.parse::<Timestamp>(), exit.at.parse::<Timestamp>()) {
            (Ok(start), Ok(end)) => end.duration_since(start) > BACKOFF_RESET_AFTER,
            _ => false,
        };
        run.failures = if long { 0 } else { run.failures };
        let wait = self.context.config.restart_backoff.after(run.failures);
        run.not_before = Some(Instant::now() + wait);
        run.failures += 1;
        run.ready = false;
        run.started = false;
        let name = name.clone();
        let (attempt, is_restart_due) = (run.attempt, run.is_restart_due);
        let message = self.termination_message(&name, attempt, exit.code);
        let Some(run) = self.saved.containers.get_mut(&name) else { return };
        let ended = Terminated {
            id: id.into(),
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
            started_at,
            finished_at: exit.at,
            message,
            is_restart_due,
        };
        run.phase = ContainerState::Terminated(ended.clone());
        if !wait.is_zero() && self.is_started_again(&name, &ended) {
            let why = format!("Back-off restarting failed container {name} in pod {}({})", self.key(), self.uid);
            self.context.events.container(&self.pod, &name, "Warning", "BackOff", why);
        }
        if let Some(probes) = self.probes.remove(&name) {
            probes.abort();
        }
        // Its termination needn't wait any more.
        self.ending.remove(id);
        self.save();
    }

    /// Whether a container that has ended is started again, as far as its pod goes on.
    fn is_started_again(&self, name: &str, ended: &Terminated) -> bool {
        let ends = self.pod.metadata.deletion_timestamp.is_some() || status::is_over(&self.pod, &self.saved);
        let spec = self.pod.spec.as_ref();
        let is_init = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
        let container = spec.and_then(|s| spec::started(s).find(|c| c.name == name));
        !ends && container.is_some_and(|container| status::restarts(&self.pod, container, is_init, ended))
    }

    /// What a container left in its file, or in its log if it failed without leaving anything.
    pub(super) fn termination_message(&self, name: &str, attempt: i32, code: i32) -> String {
        let count = self.pod.spec.as_ref().map_or(0, |spec| {
            spec.containers.len()
                + spec.init_containers.iter().flatten().count()
                + spec.ephemeral_containers.iter().flatten().count()
        });
        let limit = MAX_TERMINATION_MESSAGE_BYTES.min(MAX_TERMINATION_MESSAGES_BYTES / count.max(1));
        let file = self.dirs.termination_message(name, attempt);
        let message = logs::end_of_file(&file, limit).unwrap_or_default();
        let policy = self.container(name).and_then(|c| c.termination_message_policy);
        if message.is_empty() && code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            return logs::last_words(&self.dirs.log(name, attempt), limit).unwrap_or_default();
        }
        message
    }
}
