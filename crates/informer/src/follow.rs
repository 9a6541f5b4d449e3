//! Changes of objects that no cache holds: a caller keeps what it needs of them.

use kube::Client;
use serde::de::DeserializeOwned;

use crate::metadata::metadata_of;
use crate::reflector::{self, Selection, Store};

/// What is heard of the objects that were selected.
#[derive(Debug, Clone)]
pub enum Event<K> {
    /// A list begins: at the start, and whenever the watch can't go on from where it was.
    ListBegins,
    /// An object of the list.
    Listed(K),
    /// The list is complete: objects that weren't listed are gone.
    ListComplete,
    /// An object was created or changed.
    Applied(K),
    /// An object was deleted; this is its last state.
    Deleted(K),
}

/// Hands what is heard of the selected objects to `handler`, until the task is aborted. Failures are retried with back-off. Objects that can't be
/// decoded are left out.
pub async fn follow<K: DeserializeOwned + 'static>(
    client: Client,
    selection: Selection,
    handler: impl FnMut(Event<K>) + Send + 'static,
) {
    let store = Following { handler: Box::new(handler) };
    reflector::run(client, selection, Box::new(store)).await;
}

/// Hands every state of one object to `handler`: none if it isn't there.
pub async fn follow_object<K: DeserializeOwned + 'static>(
    client: Client,
    selection: Selection,
    mut handler: impl FnMut(Option<K>) + Send + 'static,
) {
    let mut is_listed = false;
    follow(client, selection, move |event| match event {
        Event::ListBegins => is_listed = false,
        Event::Listed(object) => {
            is_listed = true;
            handler(Some(object));
        }
        Event::Applied(object) => handler(Some(object)),
        Event::ListComplete if is_listed => {}
        Event::ListComplete | Event::Deleted(_) => handler(None),
    })
    .await;
}

/// Watches one object until `found` finds something in a state of it.
pub async fn wait_until<K: DeserializeOwned + 'static, T: Send + 'static>(
    client: Client,
    selection: Selection,
    found: impl Fn(Option<K>) -> Option<T> + Send + 'static,
) -> T {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let watching = async {
        follow_object(client, selection, move |object| {
            if let Some(value) = found(object) {
                // The first one is enough.
                let _ = sender.try_send(value);
            }
        })
        .await;
        std::future::pending().await
    };
    tokio::select! {
        value = watching => value,
        Some(value) = receiver.recv() => value,
    }
}

struct Following<K> {
    handler: Box<dyn FnMut(Event<K>) + Send>,
}

impl<K: DeserializeOwned> Following<K> {
    /// Hands an object on, and returns its `resourceVersion`.
    fn hand_on(&mut self, object: &str, event: fn(K) -> Event<K>) -> Option<String> {
        match serde_json::from_str(object) {
            Ok(decoded) => (self.handler)(event(decoded)),
            Err(error) => {
                let kind = std::any::type_name::<K>();
                tracing::error!(kind, %error, "failed to decode an object; its change is ignored");
            }
        }
        metadata_of(object)?.resource_version
    }
}

impl<K: DeserializeOwned> Store for Following<K> {
    fn begin(&mut self) {
        (self.handler)(Event::ListBegins);
    }

    fn listed(&mut self, object: &str) {
        self.hand_on(object, Event::Listed);
    }

    fn complete(&mut self) {
        (self.handler)(Event::ListComplete);
    }

    fn applied(&mut self, object: &str) -> Option<String> {
        self.hand_on(object, Event::Applied)
    }

    fn deleted(&mut self, object: &str) -> Option<String> {
        self.hand_on(object, Event::Deleted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;

    use http::header::ACCEPT;
    use kube::client::Body;
    use parking_lot::Mutex;

    use super::*;
    use crate::Metadata;

    const ANSWERS: [&str; 4] = [
        r#"{"metadata":{"resourceVersion":"5"},"items":[]}"#,
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"6\"}}}\n\
         {\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"message\":\"too old\"}}\n",
        r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a","resourceVersion":"8"}}]}"#,
        "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"10\"}}}\n\
         {\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"11\"}}}\n",
    ];

    /// Answers in turn, and afterwards never; notes what each request accepts.
    fn client(accepted: Arc<Mutex<Vec<String>>>) -> Client {
        let answers = Mutex::new(VecDeque::from(ANSWERS));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
            accepted.lock().push(accept.to_string());
            let answer = answers.lock().pop_front();
            async move {
                match answer {
                    Some(answer) => Ok::<_, Infallible>(http::Response::new(Body::from(answer.as_bytes().to_vec()))),
                    None => std::future::pending().await,
                }
            }
        });
        Client::new(service, "n")
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_followed_by_its_metadata_through_lists_and_watches() {
        let accepted = Arc::<Mutex<Vec<String>>>::default();
        let selection = Selection::named("/api/v1/namespaces/n/secrets", "a").metadata_only();
        let states = Arc::<Mutex<Vec<Option<String>>>>::default();
        let seen = states.clone();
        let found = wait_until(client(accepted.clone()), selection, move |object: Option<Metadata>| {
            let version = object.and_then(|object| object.metadata.resource_version);
            seen.lock().push(version.clone());
            version.filter(|version| version == "11")
        });
        assert_eq!(found.await, "11");
        let versions: Vec<Option<String>> = states.lock().clone();
        let expected = [None, Some("6"), Some("8"), None, Some("11")].map(|version| version.map(String::from));
        assert_eq!(versions, expected);
        let accepted = accepted.lock();
        assert!(accepted.iter().all(|accept| accept.contains("as=PartialObjectMetadata")), "{accepted:?}");
    }
}
