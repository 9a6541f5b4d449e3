//! Work queues of the objects of an informer.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

use crate::cache::{Informer, Keyed};
use crate::events::Recorder;
use crate::quarantine::version_of;
use crate::queue::{Key, Queue};

impl Queue {
    /// A queue of the objects of `objects`. Panics are recorded as events about the object, and a change of it ends its quarantine.
    pub fn of<K: Keyed>(objects: &Informer<K>, events: Recorder) -> Self {
        let on_panic = move |key: &Key, reason: &'static str, text: &str| {
            let object = ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                namespace: Some(key.namespace.clone()).filter(|n| !n.is_empty()),
                name: Some(key.name.clone()),
                ..ObjectReference::default()
            };
            events.record(object, "Warning", reason, text.into());
        };
        let objects = objects.clone();
        let version = move |key: &Key| version_of(objects.get(key).as_deref().map(Resource::meta));
        Queue::with_observer(Arc::new(on_panic), Arc::new(version))
    }
}
