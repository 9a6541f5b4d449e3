//! The latest changes of one resource, with which watches resume.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Event;

/// How long a change is kept in any case, so that a watch resumes after a short break (upstream's watch cache: `DefaultEventFreshDuration`).
pub const FRESH: Duration = Duration::from_secs(75);

/// How many changes are kept, and how many bytes of objects they may hold on to.
#[derive(Clone, Copy)]
struct Limit {
    events: usize,
    bytes: usize,
}

/// Even fresh ones.
const MAX: Limit = Limit { events: 4096, bytes: 8 << 20 };
/// Of those that aren't fresh any more: clients that lost their connection have come back.
const OLD: Limit = Limit { events: 1024, bytes: 512 << 10 };

/// The latest changes of a resource.
#[derive(Default)]
pub struct History {
    events: VecDeque<(Instant, Arc<Event>)>,
    /// Bytes that `events` holds on to.
    weight: usize,
    /// Changes up to this revision may be missing.
    forgotten: u64,
}

impl History {
    /// The revision up to which changes may be missing.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// All changes up to `revision` are missing.
    pub fn begin_after(&mut self, revision: u64) {
        self.forgotten = revision;
    }

    /// The changes after `revision`, in order.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|(_, event)| event.entry.revision <= revision);
        self.events.range(start..).map(|(_, event)| event)
    }

    /// Takes a change in, which came at `now`.
    pub fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.weight += event.weight();
        self.events.push_back((now, event));
        self.trim(now);
    }

    /// Forgets what is too old, or too much. The last change is always kept.
    pub fn trim(&mut self, now: Instant) {
        while self.events.len() > 1 {
            let Some((at, oldest)) = self.events.front() else { return };
            let limit = if now.duration_since(*at) >= FRESH { OLD } else { MAX };
            if self.events.len() <= limit.events && self.weight <= limit.bytes {
                break;
            }
            self.forgotten = oldest.entry.revision;
            self.weight -= oldest.weight();
            self.events.pop_front();
        }
        if self.events.capacity() > 4 * self.events.len().max(64) {
            self.events.shrink_to_fit();
        }
    }
}
