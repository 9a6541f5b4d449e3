//! Recording of Events, like client-go's `tools/record`; and like its `tools/events` where upstream's component is one that writes
//! `events.k8s.io/v1`. Both are kept as the same objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::Event as ActionEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

/// Limit of the correlator's caches (client-go's `maxLruCacheEntries`).
const MAX_CACHED_EVENTS: usize = 4096;
/// Events of one object and reason with different messages before they are aggregated (`defaultAggregateMaxEvents`).
const MAX_EVENTS_BEFORE_AGGREGATION: usize = 10;
/// How long messages are aggregated with the last one (`defaultAggregateIntervalInSeconds`).
const AGGREGATION_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Token bucket of events per object: burst, and time to refill one token (`defaultSpamBurst`, `defaultSpamQPS`).
const BURST: f64 = 25.0;
const REFILL_PERIOD: SignedDuration = SignedDuration::from_mins(5);

/// The object (with the field) that an event is about, its type and its reason.
type EventKey = (String, String, String);

/// Deduplicates, aggregates and rate-limits events (client-go's `EventCorrelator`).
#[derive(Debug, Default)]
struct EventCorrelator {
    /// Name and count of the event with this key and message.
    written: HashMap<(EventKey, String), (String, i32)>,
    similar: HashMap<EventKey, (HashSet<String>, Timestamp)>,
    /// Tokens of each object's bucket, and when they were counted.
    left: HashMap<String, (f64, Timestamp)>,
}

/// What to write for an event.
#[derive(Debug, PartialEq)]
enum Decision {
    Nothing,
    /// An existing event gets this count, and this message if it stands for several.
    Again(String, i32, String),
    New(String),
}

impl EventCorrelator {
    /// Decides about an event with `message`, which would get the name `name`. A new one is added to the caches.
    fn decide(&mut self, event_key: &EventKey, message: &str, name: &str, now: Timestamp) -> Decision {
        let object = event_key.0.clone();
        let (left, then) = self.left.get(&object).copied().unwrap_or((BURST, now));
        let more = now.duration_since(then).as_secs_f64() / REFILL_PERIOD.as_secs_f64();
        let left = (left + more.max(0.0)).min(BURST);
        if left < 1.0 {
            self.left.insert(object, (left, now));
            return Decision::Nothing;
        }
        if self.left.len() >= MAX_CACHED_EVENTS {
            // A full bucket needn't be stored.
            self.left.retain(|_, (_, then)| now.duration_since(*then) < REFILL_PERIOD);
        }
        self.left.insert(object, (left - 1.0, now));
        if self.similar.len() >= MAX_CACHED_EVENTS || self.written.len() >= MAX_CACHED_EVENTS {
            self.similar.clear();
            self.written.clear();
        }
        let (texts, last) = self.similar.entry(event_key.clone()).or_insert_with(|| (HashSet::new(), now));
        if now.duration_since(*last) > AGGREGATION_WINDOW {
            texts.clear();
        }
        *last = now;
        let many = texts.len() >= MAX_EVENTS_BEFORE_AGGREGATION && !texts.contains(message);
        if !many {
            texts.insert(message.into());
        }
        let text = if many { "(combined from similar events)".to_string() } else { message.to_string() };
        let combined = if many { format!("(combined from similar events): {message}") } else { message.into() };
        match self.written.get_mut(&(event_key.clone(), text.clone())) {
            Some((name, count)) => {
                *count += 1;
                Decision::Again(name.clone(), *count, combined)
            }
            None => {
                self.written.insert((event_key.clone(), text), (name.into(), 1));
                Decision::New(combined)
            }
        }
    }

    /// An event was deleted and is written again under another name.
    fn rename(&mut self, old: &str, new: &str) {
        if let Some(entry) = self.written.values_mut().find(|(name, _)| name == old) {
            *entry = (new.into(), 1);
        }
    }
}

#[derive(Clone)]
/// Records events of a component. Clones share the correlator.
pub struct Recorder {
    client: Client,
    component: String,
    host: String,
    memory: Arc<Mutex<EventCorrelator>>,
    action: Option<Action>,
}

/// What a component did or tried, as `events.k8s.io/v1` tells it.
#[derive(Clone)]
struct Action {
    name: &'static str,
    /// What else it is about.
    related: Option<ObjectReference>,
}

impl Recorder {
    /// A recorder for a component. `host` is the node's name for components of nodes, else empty.
    pub fn new(client: Client, component: impl Into<String>, host: &str) -> Self {
        Recorder { client, component: component.into(), host: host.into(), memory: Arc::default(), action: None }
    }

    /// The same recorder, which writes `events.k8s.io/v1` about an action.
    #[must_use]
    pub fn acting(&self, name: &'static str, related: Option<ObjectReference>) -> Self {
        Recorder { action: Some(Action { name, related }), ..self.clone() }
    }

    /// Records an event of type `Normal`.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Normal", reason, message.into());
    }

    /// Records an event of type `Warning`.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Warning", reason, message.into());
    }

    /// Records an event in the background. Events are best effort: failures are only logged.
    pub fn record(&self, object: ObjectReference, kind: &'static str, reason: &str, message: String) {
        let (recorder, reason) = (self.clone(), reason.to_string());
        tasks::spawn("event", async move {
            if let Err(error) = recorder.write(object, kind, &reason, message).await {
                tracing::debug!(%error, %reason, "failed to write an Event");
            }
        });
    }

    async fn write(
        &self,
        object: ObjectReference,
        kind: &str,
        reason: &str,
        message: String,
    ) -> Result<(), kube::Error> {
        let namespace = object.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let field = object.field_path.clone().unwrap_or_default();
        let uid = object.uid.clone().or_else(|| object.name.clone()).unwrap_or_default();
        let at = apimachinery::clock::now();
        let now = Time(at);
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or("unknown"), at.as_nanosecond());
        let event_key: EventKey = (format!("{uid}/{field}"), kind.into(), reason.into());
        let decision = self.memory.lock().decide(&event_key, &message, &name, at);
        let message = match decision {
            Decision::Nothing => return Ok(()),
            Decision::New(message) => message,
            Decision::Again(present, count, message) => {
                let patched = self.repeat(&namespace, &present, count, &message, at).await;
                match patched {
                    // It expired meanwhile: write it again.
                    Err(kube::Error::Api(status)) if status.code == 404 => self.memory.lock().rename(&present, &name),
                    other => return other,
                }
                message
            }
        };
        let metadata = ObjectMeta { name: Some(name), namespace: Some(namespace.clone()), ..Default::default() };
        if let Some(action) = &self.action {
            let event = self.action_event(action, metadata, object, (kind, reason), message, at);
            let api: Api<ActionEvent> = Api::namespaced(self.client.clone(), &namespace);
            return api.create(&PostParams::default(), &event).await.map(|_| ());
        }
        let event = Event {
            metadata,
            involved_object: object,
            type_: Some(kind.into()),
            reason: Some(reason.into()),
            message: Some(message),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await.map(|_| ())
    }

    /// Tells that an event has happened again.
    async fn repeat(
        &self,
        namespace: &str,
        name: &str,
        count: i32,
        message: &str,
        at: Timestamp,
    ) -> Result<(), kube::Error> {
        if self.action.is_some() {
            // Nothing but the series may change.
            let patch = serde_json::json!({"series": {"count": count, "lastObservedTime": MicroTime(at)}});
            return self.patch::<ActionEvent>(namespace, name, &patch).await;
        }
        let patch = serde_json::json!({"count": count, "lastTimestamp": Time(at), "message": message});
        self.patch::<Event>(namespace, name, &patch).await
    }

    async fn patch<K>(&self, namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
    }

    fn action_event(
        &self,
        action: &Action,
        metadata: ObjectMeta,
        regarding: ObjectReference,
        (kind, reason): (&str, &str),
        note: String,
        at: Timestamp,
    ) -> ActionEvent {
        let instance = if self.host.is_empty() { "" } else { "-" };
        ActionEvent {
            metadata,
            event_time: Some(MicroTime(at)),
            reporting_controller: Some(self.component.clone()),
            reporting_instance: Some(format!("{}{instance}{}", self.component, self.host)),
            action: Some(action.name.into()),
            reason: Some(reason.into()),
            regarding: Some(regarding),
            related: action.related.clone(),
            note: Some(cut(note)),
            type_: Some(kind.into()),
            ..Default::default()
        }
    }
}

/// A note is bounded by the API (`NoteLengthLimit`): what is told is told as far as it goes.
fn cut(mut note: String) -> String {
    const MOST: usize = 1024;
    const CONTINUED: &str = " ...";
    if note.len() > MOST {
        let end = (0..=MOST - CONTINUED.len()).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push_str(CONTINUED);
    }
    note
}

/// The text of an error for events and conditions: for a Status of the API server, its message alone.
pub fn error_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn repetitions_count_and_similar_ones_are_told_as_one() {
        let mut memory = EventCorrelator::default();
        let event_key: EventKey = ("uid/".into(), "Warning".into(), "Failed".into());
        assert_eq!(memory.decide(&event_key, "a", "1", at(0)), Decision::New("a".into()));
        assert_eq!(memory.decide(&event_key, "a", "2", at(1)), Decision::Again("1".into(), 2, "a".into()));
        for i in 0..9 {
            assert!(matches!(memory.decide(&event_key, &format!("b{i}"), "3", at(2)), Decision::New(_)));
        }
        assert_eq!(
            memory.decide(&event_key, "c", "4", at(3)),
            Decision::New("(combined from similar events): c".into())
        );
        assert_eq!(
            memory.decide(&event_key, "d", "5", at(4)),
            Decision::Again("4".into(), 2, "(combined from similar events): d".into())
        );
        memory.rename("4", "6");
        assert_eq!(
            memory.decide(&event_key, "e", "7", at(5)),
            Decision::Again("6".into(), 2, "(combined from similar events): e".into())
        );
    }

    #[test]
    fn an_object_has_a_burst_and_then_one_in_five_minutes() {
        let mut memory = EventCorrelator::default();
        let mut written = |second: i64| {
            let event_key: EventKey = ("uid/".into(), "Normal".into(), format!("R{second}"));
            memory.decide(&event_key, "m", "n", at(second)) != Decision::Nothing
        };
        assert_eq!((0..100).filter(|second| written(*second)).count(), 25);
        assert!(written(400) && !written(401));
    }
}
