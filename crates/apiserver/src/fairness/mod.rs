//! API priority and fairness (KEP-1040): which requests are served at once, which wait, and which are refused.
//!
//! A flow schema sorts a request into a priority level and a flow of it. Each level has a number of seats of its own and
//! queues for requests that find none free; the next flow is chosen so that each gets its share. So neither a greedy
//! client nor a broken controller keeps others from being served.
//!
//! Watches hold a seat until they begin to stream; exec, logs and other streams hold none.

mod defaults;
mod queues;
mod schemas;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Kind, kinds};
use apimachinery::Status;
use http::{HeaderValue, Response};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::oneshot;

pub use defaults::{levels as default_levels, schemas as default_schemas};
pub use schemas::RequestDigest;

use crate::ApiServer;
use crate::authentication::User;
use crate::registry::Filter;
use crate::response::Body;
use queues::{Arrival, Levels};
use schemas::Schemas;

/// Seats of the whole server: upstream's 400 for reads and 200 for writes.
pub const SEATS: usize = 600;
/// How long a request may wait for its turn: a quarter of what it may take in all, as upstream.
const MAX_QUEUE_WAIT: Duration = Duration::from_secs(15);
/// Bytes of objects of a list for one seat, those that count of a list that is streamed, and the most seats that a list takes.
const BYTES_PER_SEAT: usize = 100_000;
const MAX_LIST_BYTES: usize = 1_000_000;
const MAX_SEATS_PER_REQUEST: usize = 10;

/// The kind of flow schemas.
pub const SCHEMAS: &Kind = kinds::FLOW_SCHEMAS;
/// The kind of priority levels.
pub const LEVELS: &Kind = kinds::PRIORITY_LEVEL_CONFIGURATIONS;

/// Flow schemas, and the seats and queues of priority levels.
pub struct Fairness {
    schemas: RwLock<Arc<Schemas>>,
    state: Mutex<State>,
    /// Flows are hashed with a key of this process, so that no client can aim at another's queues.
    hasher: RandomState,
    begun: Instant,
}

#[derive(Default)]
struct State {
    levels: Levels,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    next: u64,
    refused: HashMap<(String, String, &'static str), u64>,
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness {
            schemas: RwLock::default(),
            state: Mutex::default(),
            hasher: RandomState::new(),
            begun: Instant::now(),
        }
    }
}

/// A request's seats, until it is dropped.
pub struct Turn {
    server: Arc<ApiServer>,
    /// `None` for exempt requests.
    ticket: Option<u64>,
    schema_uid: String,
    level_uid: String,
}

impl Turn {
    /// Sets the headers that name the schema and level of the request.
    pub fn mark(&self, answer: &mut Response<Body>) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                answer.headers_mut().insert(name, value);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let fairness = &self.server.fairness;
        let now = fairness.begun.elapsed().as_secs_f64();
        let mut state = fairness.state.lock();
        state.waiting.remove(&ticket);
        for started in state.levels.end(ticket, now) {
            if let Some(waiter) = state.waiting.remove(&started) {
                // A request that stopped waiting gives its seats back when it is dropped.
                let _ = waiter.send(());
            }
        }
    }
}

/// Waits for a request's turn.
///
/// # Errors
/// 429 when its level has no room, or its turn did not come in time.
pub async fn turn(server: &Arc<ApiServer>, user: &User, digest: &RequestDigest<'_>) -> Result<Turn, Status> {
    let fairness = &server.fairness;
    let schemas = fairness.current(server);
    let flow = schemas.sort(user, digest);
    let mut turn = Turn {
        server: server.clone(),
        ticket: None,
        schema_uid: flow.schema.uid.clone(),
        level_uid: flow.schema.level_uid.clone(),
    };
    let Some(level) = flow.schema.level else { return Ok(turn) };
    let seats = width(server, digest);
    let hash = fairness.hasher.hash_one((&flow.schema.name, flow.distinguisher));
    let now = fairness.begun.elapsed().as_secs_f64();
    let reject = |reason: &'static str| {
        let key = (flow.schema.level_name.clone(), flow.schema.name.clone(), reason);
        *fairness.state.lock().refused.entry(key).or_default() += 1;
        tracing::debug!(
            schema = flow.schema.name,
            level = flow.schema.level_name,
            reason,
            "priority and fairness rejected a request"
        );
        Status::too_many_requests("too many requests, please try again later", 1)
    };
    let (arrival, called) = {
        let mut state = fairness.state.lock();
        state.next += 1;
        let ticket = state.next;
        let arrival = state.levels.arrive(level, hash, seats, ticket, now);
        let (call, called) = oneshot::channel();
        if arrival != Arrival::Refused {
            turn.ticket = Some(ticket);
        }
        if arrival == Arrival::Waits {
            state.waiting.insert(ticket, call);
        }
        (arrival, called)
    };
    match arrival {
        Arrival::Started => Ok(turn),
        Arrival::Refused => Err(reject("queue-full")),
        Arrival::Waits => match tokio::time::timeout(MAX_QUEUE_WAIT, called).await {
            Ok(Ok(())) => Ok(turn),
            _ => Err(reject("time-out")),
        },
    }
}

/// How many seats a request takes: a list by the bytes of the objects that are in memory for it at once (upstream's `SizeBasedListCostEstimate`).
fn width(server: &ApiServer, digest: &RequestDigest<'_>) -> usize {
    if digest.verb != "list" {
        return 1;
    }
    let Some(kind) = server.catalog.find(digest.group, digest.version, digest.resource) else { return 1 };
    let (present, bytes) = server.cache.resource(kind).map_or((0, 0), |resource| resource.size());
    let objects = digest.limit.map_or(present, |limit| present.min(limit));
    let average = bytes.checked_div(present).unwrap_or(0);
    let at_once = objects.saturating_mul(average).min(MAX_LIST_BYTES);
    at_once.div_ceil(BYTES_PER_SEAT).clamp(1, MAX_SEATS_PER_REQUEST)
}

impl Fairness {
    /// The flow schemas, read again when they or the levels changed.
    fn current(&self, server: &ApiServer) -> Arc<Schemas> {
        let compiled_from = [SCHEMAS, LEVELS].map(|kind| server.cache.of(kind).changed());
        {
            let schemas = self.schemas.read();
            if schemas.compiled_from == compiled_from {
                return schemas.clone();
            }
        }
        let all = |kind: &'static Kind| -> Vec<Value> {
            server.cache.of(kind).list(&Filter::default()).0.iter().map(|e| e.parse()).collect()
        };
        let mut state = self.state.lock();
        let schemas = Arc::new(Schemas::read(&all(SCHEMAS), &all(LEVELS), compiled_from, &mut state.levels));
        *self.schemas.write() = schemas.clone();
        schemas
    }

    /// Prometheus text, under upstream's names.
    pub fn metrics(&self, out: &mut String) {
        let state = self.state.lock();
        let mut family = |name: &str, kind: &str, help: &str, values: Vec<(String, u64)>| {
            let _ =
                writeln!(out, "# HELP apiserver_flowcontrol_{name} {help}\n# TYPE apiserver_flowcontrol_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {value}");
            }
        };
        let per_level = |of: fn(&queues::Load) -> usize| {
            let loads = state.levels.loads();
            loads.map(|load| (format!("priority_level={:?}", load.name), of(&load) as u64)).collect::<Vec<_>>()
        };
        let executing = per_level(|load| load.running);
        family("current_executing_seats", "gauge", "Seats of the requests that are served", executing);
        family(
            "current_inqueue_requests",
            "gauge",
            "Requests that wait for their turn",
            per_level(|load| load.waiting),
        );
        family("nominal_limit_seats", "gauge", "Seats of each priority level", per_level(|load| load.nominal));
        let refused = state.refused.iter().map(|((level, schema, reason), count)| {
            (format!("flow_schema={schema:?},priority_level={level:?},reason={reason:?}"), *count)
        });
        family("rejected_requests_total", "counter", "Requests that were rejected", refused.collect());
    }
}
