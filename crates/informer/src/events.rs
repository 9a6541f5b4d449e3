//! Events: what happened to an object, for people.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

/// Objects and events that are remembered.
const MAX_CACHED_EVENTS: usize = 4096;
/// Events of one object and reason with different texts, until they are told as one.
const MAX_SIMILAR_EVENTS: usize = 10;
/// How long texts count as similar to the last one.
const SIMILAR_FOR: SignedDuration = SignedDuration::from_mins(10);
/// Events that one object may have at once, and how long it takes until it may have one more. These numbers are upstream's
/// (client-go, `tools/record`).
const BURST: f64 = 25.0;
const ONE_MORE: SignedDuration = SignedDuration::from_mins(5);

/// An object (with the field) that an event is about, and its kind and reason.
type About = (String, String, String);

/// What is remembered of the past, so that much of the same doesn't make many events.
#[derive(Debug, Default)]
struct Memory {
    /// The event's name and how often it happened, by what it says.
    written: HashMap<(About, String), (String, i32)>,
    similar: HashMap<About, (HashSet<String>, Timestamp)>,
    /// What is left of each object's burst.
    left: HashMap<String, (f64, Timestamp)>,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
enum Decision {
    Nothing,
    /// An event that is there happened so often.
    Again(String, i32),
    New(String),
}

impl Memory {
    /// Decides about an event that says `message` now, and would be called `name`. What is decided to be new is remembered.
    fn decide(&mut self, about: &About, message: &str, name: &str, now: Timestamp) -> Decision {
        let object = about.0.clone();
        let (left, then) = self.left.get(&object).copied().unwrap_or((BURST, now));
        let more = now.duration_since(then).as_secs_f64() / ONE_MORE.as_secs_f64();
        let left = (left + more.max(0.0)).min(BURST);
        if left < 1.0 {
            self.left.insert(object, (left, now));
            return Decision::Nothing;
        }
        if self.left.len() >= MAX_CACHED_EVENTS {
            // Those that have all of their burst again are as if they were new.
            self.left.retain(|_, (_, then)| now.duration_since(*then) < ONE_MORE);
        }
        self.left.insert(object, (left - 1.0, now));
        if self.similar.len() >= MAX_CACHED_EVENTS || self.written.len() >= MAX_CACHED_EVENTS {
            self.similar.clear();
            self.written.clear();
        }
        let (texts, last) = self.similar.entry(about.clone()).or_insert_with(|| (HashSet::new(), now));
        if now.duration_since(*last) > SIMILAR_FOR {
            texts.clear();
        }
        *last = now;
        let many = texts.len() >= MAX_SIMILAR_EVENTS && !texts.contains(message);
        if !many {
            texts.insert(message.into());
        }
        let text = if many { "(combined from similar events)".to_string() } else { message.to_string() };
        match self.written.get_mut(&(about.clone(), text.clone())) {
            Some((name, count)) => {
                *count += 1;
                Decision::Again(name.clone(), *count)
            }
            None => {
                self.written.insert((about.clone(), text), (name.into(), 1));
                let combined = if many { format!("(combined from similar events): {message}") } else { message.into() };
                Decision::New(combined)
            }
        }
    }

    /// An event is gone, and is written anew.
    fn renew(&mut self, old: &str, new: &str) {
        if let Some(entry) = self.written.values_mut().find(|(name, _)| name == old) {
            *entry = (new.into(), 1);
        }
    }
}

#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: String,
    host: String,
    memory: Arc<Mutex<Memory>>,
}

impl Recorder {
    /// `host` is the node's name for what runs on nodes, else empty.
    pub fn new(client: Client, component: impl Into<String>, host: &str) -> Self {
        Recorder { client, component: component.into(), host: host.into(), memory: Arc::default() }
    }

    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Normal", reason, message.into());
    }

    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Warning", reason, message.into());
    }

    /// Writes an event in the background. Events are best effort: a failure is no reason to hold anything up.
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
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let field = object.field_path.clone().unwrap_or_default();
        let uid = object.uid.clone().or_else(|| object.name.clone()).unwrap_or_default();
        let at = apimachinery::clock::now();
        let now = Time(at);
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or("unknown"), at.as_nanosecond());
        let about: About = (format!("{uid}/{field}"), kind.into(), reason.into());
        let decision = self.memory.lock().decide(&about, &message, &name, at);
        let message = match decision {
            Decision::Nothing => return Ok(()),
            Decision::New(message) => message,
            Decision::Again(present, count) => {
                let patch = serde_json::json!({"count": count, "lastTimestamp": now});
                match api.patch(&present, &PatchParams::default(), &Patch::Merge(patch)).await {
                    // It was swept meanwhile: write it anew.
                    Err(kube::Error::Api(status)) if status.code == 404 => self.memory.lock().renew(&present, &name),
                    other => return other.map(|_| ()),
                }
                message
            }
        };
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.clone()), ..Default::default() },
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
        api.create(&PostParams::default(), &event).await.map(|_| ())
    }
}

/// What an error says to people: of an answer of the API, its message alone.
pub fn told(error: &kube::Error) -> String {
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
        let mut memory = Memory::default();
        let about: About = ("uid/".into(), "Warning".into(), "Failed".into());
        assert_eq!(memory.decide(&about, "a", "1", at(0)), Decision::New("a".into()));
        assert_eq!(memory.decide(&about, "a", "2", at(1)), Decision::Again("1".into(), 2));
        for i in 0..9 {
            assert!(matches!(memory.decide(&about, &format!("b{i}"), "3", at(2)), Decision::New(_)));
        }
        assert_eq!(memory.decide(&about, "c", "4", at(3)), Decision::New("(combined from similar events): c".into()));
        assert_eq!(memory.decide(&about, "d", "5", at(4)), Decision::Again("4".into(), 2));
        memory.renew("4", "6");
        assert_eq!(memory.decide(&about, "e", "7", at(5)), Decision::Again("6".into(), 2));
    }

    #[test]
    fn an_object_has_a_burst_and_then_one_in_five_minutes() {
        let mut memory = Memory::default();
        let mut written = |second: i64| {
            let about: About = ("uid/".into(), "Normal".into(), format!("R{second}"));
            memory.decide(&about, "m", "n", at(second)) != Decision::Nothing
        };
        assert_eq!((0..100).filter(|second| written(*second)).count(), 25);
        assert!(written(400) && !written(401));
    }
}
