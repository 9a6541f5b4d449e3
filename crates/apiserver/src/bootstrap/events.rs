//! Events don't live long (upstream's `--event-ttl`).

use std::sync::Weak;
use std::time::Duration;

use api::kinds;
use apimachinery::ObjectExt as _;
use jiff::{SignedDuration, Timestamp};
use store::Write;

use crate::ApiServer;
use crate::registry::{Filter, store_key};

/// Events older than this are removed.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
const SWEEP_PERIOD: Duration = Duration::from_secs(120);

/// Removes old events for as long as the server lives. They vanish without admission, as keys with a lease do upstream.
pub async fn expire(server: Weak<ApiServer>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        let Some(server) = server.upgrade() else { return };
        let oldest = apimachinery::clock::now() - EVENT_TTL;
        for entry in server.cache.of(kinds::EVENTS).list(&Filter::default()).0 {
            let event = entry.parse();
            let times = [
                event.str_at(&["series", "lastObservedTime"]),
                event.str_at(&["lastTimestamp"]),
                event.str_at(&["eventTime"]),
                event.meta("creationTimestamp"),
            ];
            let last = times.iter().filter_map(|t| t.parse::<Timestamp>().ok()).max();
            if last.is_some_and(|t| t < oldest) {
                let key = store_key(kinds::EVENTS, &entry.key).into();
                let _ = server.store.write(Write::Delete { key, expected: entry.revision }).await;
            }
        }
    }
}
