//! Lists the objects of a kind and watches them from there on, as client-go's Reflector does.
//!
//! Objects are handed on as JSON: this code is compiled once and not for each kind, and an object that can't be decoded is its [`Store`]'s
//! matter alone, where it would break off the lists of a typed client for ever.

use std::time::Duration;

use apimachinery::{Backoff, ExponentialBackoff};
use http::header::{ACCEPT_ENCODING, HeaderValue};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

/// Objects that a list tells at a time.
const PAGE: u32 = 500;
/// How long the server keeps a watch open, in seconds.
const WATCH_SECONDS: u32 = 290;
/// How long after that it may be silent before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// The largest event, in bytes.
const MAX_EVENT_BYTES: u64 = 64 << 20;
/// Back-off of lists and watches.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(200), Duration::from_millis(200 << 5));

/// What keeps the objects of a reflector (client-go: Store).
pub trait Store: Send {
    /// A list begins.
    fn begin(&mut self);
    /// An object of the list.
    fn listed(&mut self, object: &str);
    /// The list is complete: what wasn't listed is gone.
    fn complete(&mut self);
    /// An object was created or changed. Returns its `resourceVersion`, to which the event leads.
    fn applied(&mut self, object: &str) -> Option<String>;
    /// An object was deleted; the same.
    fn deleted(&mut self, object: &str) -> Option<String>;
}

/// Which objects a reflector asks for.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The path of the kind, as `/api/v1/pods`.
    pub path: String,
    /// A field selector; none if it is empty.
    pub fields: String,
    /// A label selector; none if it is empty.
    pub labels: String,
    /// Whether only metadata is sent (`PartialObjectMetadata`).
    pub is_metadata_only: bool,
}

impl Selection {
    /// All objects at a path.
    pub fn all(path: impl Into<String>) -> Self {
        Selection { path: path.into(), fields: String::new(), labels: String::new(), is_metadata_only: false }
    }

    /// The object of one name.
    pub fn named(path: impl Into<String>, name: &str) -> Self {
        Selection { fields: format!("metadata.name={name}"), ..Selection::all(path) }
    }

    /// The same, of which only metadata is sent.
    pub fn metadata_only(self) -> Self {
        Selection { is_metadata_only: true, ..self }
    }

    fn list(&self, request: &Request, params: &ListParams) -> Result<http::Request<Vec<u8>>, Interrupted> {
        let asked = if self.is_metadata_only { request.list_metadata(params) } else { request.list(params) };
        asked.map_err(|error| Interrupted::TooOld(error.to_string()))
    }

    fn watch(&self, request: &Request, revision: &str) -> Result<http::Request<Vec<u8>>, Interrupted> {
        let params = WatchParams::default().fields(&self.fields).labels(&self.labels).timeout(WATCH_SECONDS);
        let asked = if self.is_metadata_only {
            request.watch_metadata(&params, revision)
        } else {
            request.watch(&params, revision)
        };
        asked.map_err(|error| Interrupted::TooOld(error.to_string()))
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    /// Go writes null for an empty list.
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    r#type: EventType,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// What a bookmark says of the revision that it leads to.
#[derive(Deserialize)]
struct Versioned {
    metadata: ListMeta,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// Why a list or a watch ended.
#[derive(Debug)]
enum Interrupted {
    /// The watch goes on from the revision that it has reached.
    Resumable(String),
    /// The server doesn't know the revision any more: everything is listed anew.
    TooOld(String),
}

impl From<kube::Error> for Interrupted {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Interrupted::TooOld(error.to_string()),
            _ => Interrupted::Resumable(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Interrupted {
    fn from(error: serde_json::Error) -> Self {
        Interrupted::TooOld(format!("an answer can't be decoded: {error}"))
    }
}

/// Keeps `store` as the API says, until the process ends.
pub async fn run(client: Client, selection: Selection, mut store: Box<dyn Store>) {
    let request = Request::new(selection.path.as_str());
    let mut backoff = Backoff::new(BACKOFF);
    // Where the watch goes on; none before the list is complete.
    let mut reached: Option<String> = None;
    loop {
        let outcome = match &mut reached {
            None => match list(&client, &request, &selection, &mut *store).await {
                Ok(revision) => {
                    reached = Some(revision);
                    Ok(())
                }
                Err(interrupted) => Err(interrupted),
            },
            Some(revision) => watch(&client, &request, &selection, revision, &mut *store).await,
        };
        let why = match outcome {
            Ok(()) => {
                backoff.reset();
                continue;
            }
            Err(Interrupted::Resumable(why)) => why,
            Err(Interrupted::TooOld(why)) => {
                reached = None;
                why
            }
        };
        tracing::debug!(path = selection.path, why, "a list or watch was interrupted");
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Lists all objects, in pages; returns the revision of the list.
async fn list(
    client: &Client,
    request: &Request,
    selection: &Selection,
    store: &mut dyn Store,
) -> Result<String, Interrupted> {
    store.begin();
    let mut params = ListParams::default().fields(&selection.fields).labels(&selection.labels).limit(PAGE);
    loop {
        let asked = selection.list(request, &params)?;
        let text = client.request_text(asked).await?;
        let page: List = serde_json::from_str(&text)?;
        for item in page.items.iter().flatten() {
            store.listed(item.get());
        }
        if page.metadata.r#continue.is_empty() {
            store.complete();
            return Ok(page.metadata.resource_version);
        }
        params.continue_token = Some(page.metadata.r#continue);
    }
}

/// Hands on what changes after `revision`, which follows. Ends without an error when the server ends it, as it does after some time.
async fn watch(
    client: &Client,
    request: &Request,
    selection: &Selection,
    revision: &mut String,
    store: &mut dyn Store,
) -> Result<(), Interrupted> {
    let mut asked = selection.watch(request, revision)?;
    // A stream that is compressed event by event is more than decoders of whole bodies know.
    asked.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut events = std::pin::pin!(client.request_stream(asked).await?.compat());
    loop {
        let line = tokio::time::timeout(SILENCE, bounded::line_async(&mut events, MAX_EVENT_BYTES)).await;
        let line = line.map_err(|_| Interrupted::Resumable("nothing was heard for too long".into()))?;
        let Some(line) = line.map_err(|error| Interrupted::Resumable(error.to_string()))? else { return Ok(()) };
        let event: WatchEvent = serde_json::from_str(&line)?;
        let object = event.object.get();
        if let EventType::Error = event.r#type {
            let refusal: Refusal = serde_json::from_str(object)?;
            return Err(match refusal.code {
                410 => Interrupted::TooOld(refusal.message),
                _ => Interrupted::Resumable(refusal.message),
            });
        }
        let told = match event.r#type {
            EventType::Added | EventType::Modified => store.applied(object),
            EventType::Deleted => store.deleted(object),
            EventType::Bookmark | EventType::Error => {
                Some(serde_json::from_str::<Versioned>(object)?.metadata.resource_version)
            }
        };
        let told = told.filter(|told| !told.is_empty());
        *revision = told.ok_or_else(|| Interrupted::TooOld("an event has no resourceVersion".into()))?;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use kube::{Api, Client};
    use parking_lot::Mutex;

    use crate::{Informer, Key};

    /// Answers in turn; afterwards none at all.
    fn client(answers: &'static [&'static str], asked: Arc<Mutex<Vec<String>>>) -> Client {
        let answers = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let parameters = request.uri().query().unwrap_or("").to_string();
            let answer = answers.lock().pop_front();
            asked.lock().push(parameters);
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
    async fn it_resumes_relists_and_leaves_out_what_cannot_be_decoded() {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let answers = &[
            r#"{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a","namespace":"n","resourceVersion":"4"}},
                {"metadata":{"name":"b","namespace":"n","resourceVersion":"5"},"data":5}]}"#,
            "{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"resourceVersion\":\"6\"}}}\n\
             {\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n",
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"message\":\"too old\"}}\n",
            r#"{"metadata":{"resourceVersion":"19","continue":"more"},"items":[{"metadata":{"name":"b","namespace":"n","resourceVersion":"18"}}]}"#,
            r#"{"metadata":{"resourceVersion":"20"},"items":[{"metadata":{"name":"c","namespace":"n","resourceVersion":"19"}}]}"#,
        ];
        let maps: Informer<ConfigMap> = Informer::start(Api::all(client(answers, asked.clone())), "", "");
        maps.synced().await;
        let key = |name| Key::new("n", name);
        assert!(maps.get(&key("a")).is_some() && maps.get(&key("b")).is_none());
        maps.wait_for(&key("c"), |c| c.is_some()).await;
        maps.wait_for(&key("a"), |a| a.is_none()).await;
        let names: Vec<_> = maps.list().iter().map(|map| map.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["b", "c"]);
        let begins: Vec<_> =
            asked.lock().iter().map(|q| q.replace("&limit=500", "").replace("timeoutSeconds=290", "watch")).collect();
        let watched: Vec<bool> = begins.iter().map(|q| q.contains("watch")).collect();
        assert_eq!(watched, [false, true, true, false, false, true], "{begins:?}");
        for (at, revision) in
            [(1, "resourceVersion=5"), (2, "resourceVersion=9"), (4, "continue=more"), (5, "resourceVersion=20")]
        {
            assert!(begins[at].contains(revision), "{begins:?}");
        }
    }
}
