//! What follows from a container's end.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use runtime::protocol::Exit;
use tokio::time::Instant;

use super::Worker;
use crate::logs;
use crate::state::{ContainerState, Terminated};

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
        run.not_before = Some(Instant::now() + self.context.config.restart_backoff.after(run.failures));
        run.failures += 1;
        run.ready = false;
        run.started = false;
        let name = name.clone();
        let attempt = run.attempt;
        let message = self.termination_message(&name, attempt, exit.code);
        let Some(run) = self.saved.containers.get_mut(&name) else { return };
        run.phase = ContainerState::Terminated(Terminated {
            id: id.into(),
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
            started_at,
            finished_at: exit.at,
            message,
        });
        if let Some(probes) = self.probes.remove(&name) {
            probes.abort();
        }
        // Its termination needn't wait any more.
        self.ending.remove(id);
        self.save();
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
