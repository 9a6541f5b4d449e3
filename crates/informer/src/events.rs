//! Events: what happened to an object, for people.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

/// What makes two events the same.
type Same = (String, String, String, String);

/// Repetitions that are remembered.
const REMEMBERED: usize = 2048;

#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: &'static str,
    host: String,
    seen: Arc<Mutex<HashMap<Same, (String, i32)>>>,
}

impl Recorder {
    /// `host` is the node's name for what runs on nodes, else empty.
    pub fn new(client: Client, component: &'static str, host: &str) -> Self {
        Recorder { client, component, host: host.into(), seen: Arc::default() }
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
        tokio::spawn(async move {
            if let Err(error) = recorder.write(object, kind, &reason, message).await {
                tracing::debug!(%error, %reason, "an event could not be written");
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
        let same: Same = (format!("{uid}/{field}"), kind.into(), reason.into(), message.clone());
        let now = Time(apimachinery::clock::now());
        let repeated = {
            let mut seen = self.seen.lock();
            if seen.len() > REMEMBERED {
                seen.clear();
            }
            seen.get_mut(&same).map(|(name, count)| {
                *count += 1;
                (name.clone(), *count)
            })
        };
        if let Some((name, count)) = repeated {
            let patch = serde_json::json!({"count": count, "lastTimestamp": now});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It was swept meanwhile: write it anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or("unknown"), apimachinery::clock::now().as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..Default::default() },
            involved_object: object,
            type_: Some(kind.into()),
            reason: Some(reason.into()),
            message: Some(message),
            source: Some(EventSource {
                component: Some(self.component.into()),
                host: Some(self.host.clone()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(self.component.into()),
            reporting_instance: Some(self.host.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        };
        self.seen.lock().insert(same, (name, 1));
        api.create(&PostParams::default(), &event).await.map(|_| ())
    }
}
