//! The audit log (`audit.k8s.io/v1`): user, request, time and result, as lines of JSON.
//!
//! A policy says how much is recorded of which requests. Without a policy nothing of this runs.

mod log;
mod policy;

use std::sync::Arc;

use apimachinery::{ObjectExt as _, clock, yaml};
use bounded::Limits;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

pub use log::{Log, LogError};
pub use policy::{Policy, PolicyError};

use crate::authentication::User;
use crate::request::{RequestInfo, ResourcePath};
use crate::response::{self, Body};
use policy::Level;

/// The largest body that is recorded, in bytes; larger than any that is accepted.
const MAX_BODY_BYTES: usize = 4 << 20;

/// The policy, and the log to which events are written.
pub struct Audit {
    /// How much is recorded of which request.
    pub policy: Policy,
    /// Where events go.
    pub log: Log,
}

tokio::task_local! {
    /// Annotations of the request that this task serves.
    static NOTES: Arc<Notes>;
}

/// Annotations of one audit event.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Map<String, Value>>);

/// Adds an annotation to the audit event of the present request, if there is one. `value` is only made then; the
/// first one for a key stays.
pub fn annotate(key: &str, value: impl FnOnce() -> String) {
    let _ = NOTES.try_with(|notes| {
        notes.0.lock().entry(key).or_insert_with(|| value().into());
    });
}

/// The audit event of a request that is being served.
pub struct Record {
    notes: Arc<Notes>,
    audit: Arc<Audit>,
    level: Level,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
    long_running: bool,
    event: Value,
    /// The request's headers and body, if the body is recorded.
    body: Option<(HeaderMap, BodySoFar)>,
}

/// What was read of a request's body so far. A request that is refused before has none.
#[derive(Clone, Default)]
struct BodySoFar(Arc<Mutex<BytesMut>>);

impl BodySoFar {
    /// A body of which what is read is kept here, if it isn't too large.
    fn watch(&self, body: Body) -> Body {
        let kept = self.clone();
        response::boxed(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                let mut all = kept.0.lock();
                let room = MAX_BODY_BYTES.saturating_sub(all.len());
                // A body that is cut off is no object, and isn't recorded.
                all.extend_from_slice(&data[..data.len().min(room)]);
            }
            frame
        }))
    }
}

impl Audit {
    /// Begins the event of a request, if the policy wants one.
    pub fn begin(
        self: &Arc<Self>,
        user: &User,
        request_info: &RequestInfo,
        request: Request<Body>,
    ) -> (Option<Record>, Request<Body>) {
        let path = request_info.resource.as_ref().map(|resource| &resource.path);
        let verb = request_info.verb.unwrap_or("");
        let rule = self.policy.decide(user, verb, path, request.uri().path());
        if rule.level == Level::None {
            return (None, request);
        }
        let event = describe(user, verb, path, &request, rule.level);
        let streams =
            path.is_some_and(|p| matches!(p.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy"));
        let mut record = Record {
            notes: Arc::default(),
            audit: self.clone(),
            level: rule.level,
            omit_stages: rule.omit_stages,
            omit_managed_fields: rule.omit_managed_fields,
            long_running: verb == "watch" || streams,
            event,
            body: None,
        };
        record.write("RequestReceived");
        let has_body = matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        if record.level < Level::Request || !has_body || streams {
            return (Some(record), request);
        }
        let passed = BodySoFar::default();
        record.body = Some((request.headers().clone(), passed.clone()));
        (Some(record), request.map(|body| passed.watch(body)))
    }
}

fn describe<B>(user: &User, verb: &str, path: Option<&ResourcePath>, request: &Request<B>, level: Level) -> Value {
    let now = clock::now_micro();
    let uri = request.uri().path_and_query().map_or("", |p| p.as_str());
    let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.as_str(),
        "auditID": uuid::Uuid::new_v4().to_string(), "stage": "", "requestURI": uri, "verb": verb, "user": user.info(),
        "requestReceivedTimestamp": now, "stageTimestamp": now});
    if let Some(address) = request.extensions().get::<std::net::IpAddr>() {
        event["sourceIPs"] = json!([address.to_string()]);
    }
    if let Some(agent) = request.headers().get(header::USER_AGENT).and_then(|a| a.to_str().ok()) {
        event["userAgent"] = agent.into();
    }
    if let Some(path) = path {
        let mut reference = json!({"resource": path.plural, "apiVersion": path.version});
        for (field, value) in [
            ("apiGroup", &path.group),
            ("namespace", &path.namespace),
            ("name", &path.name),
            ("subresource", &path.subresource),
        ] {
            if !value.is_empty() {
                reference[field] = value.as_str().into();
            }
        }
        event["objectRef"] = reference;
    }
    event
}

/// The beginning of an answer, of [`MAX_BODY_BYTES`] bytes and a part more at most, and the answer as it was: a backend may have made it, and it may
/// have no end.
async fn beginning(mut body: Body) -> (Bytes, Body) {
    let (mut bytes, mut frames) = (BytesMut::new(), Vec::new());
    while bytes.len() <= MAX_BODY_BYTES
        && let Some(frame) = body.frame().await
    {
        if let Ok(Some(data)) = frame.as_ref().map(Frame::data_ref) {
            bytes.extend_from_slice(data);
        }
        let is_broken = frame.is_err();
        frames.push(frame);
        if is_broken {
            break;
        }
    }
    let begun = futures::stream::iter(frames);
    (bytes.freeze(), response::boxed(StreamBody::new(begun.chain(BodyStream::new(body)))))
}

/// A body as an object, if it is one.
fn object(headers: &HeaderMap, bytes: &[u8]) -> Option<Value> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if bytes.is_empty() {
        return None;
    }
    match media.split(';').next().unwrap_or("") {
        api::protobuf::MEDIA_TYPE => api::protobuf::decode(bytes).ok(),
        media if media.contains("yaml") => yaml::first(bytes, Limits::REQUEST).ok().map(|document| document.value),
        _ => api::decode::json(bytes).ok().map(|(value, _)| value),
    }
}

impl Record {
    /// Serves the request, and collects its annotations.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        NOTES.scope(self.notes.clone(), work).await
    }

    fn trimmed(&self, mut object: Value) -> Value {
        if self.omit_managed_fields && object["metadata"].is_object() {
            object.meta_mut().remove("managedFields");
        }
        object
    }

    fn write(&mut self, stage: &str) {
        if self.omit_stages.iter().any(|s| s == stage) {
            return;
        }
        self.event["stage"] = stage.into();
        self.event["stageTimestamp"] = clock::now_micro().into();
        self.audit.log.write(&self.event);
    }

    /// Writes how the request ended, and returns the answer.
    pub async fn end(mut self, answer: Response<Body>) -> Response<Body> {
        let code = answer.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        let decision = if code == 403 { "forbid" } else { "allow" };
        let mut annotations = std::mem::take(&mut *self.notes.0.lock());
        annotations.insert("authorization.k8s.io/decision".into(), decision.into());
        self.event["annotations"] = annotations.into();
        if let Some((headers, passed)) = self.body.take() {
            let bytes = std::mem::take(&mut *passed.0.lock());
            if let Some(sent) = object(&headers, &bytes) {
                self.event["requestObject"] = self.trimmed(sent);
            }
        }
        let (mut parts, mut body) = answer.into_parts();
        if let Ok(id) = HeaderValue::from_str(self.event.str_at(&["auditID"])) {
            parts.headers.insert("audit-id", id);
        }
        if self.long_running && code < 400 {
            self.write("ResponseStarted");
            // The end of a stream is when its body is dropped.
            let ending = Ending(Some(self));
            let body = body.map_frame(move |frame| {
                let _held = &ending;
                frame
            });
            return Response::from_parts(parts, response::boxed(body));
        }
        if self.level >= Level::RequestResponse || code >= 400 {
            let (bytes, again) = beginning(body).await;
            self.record_answer(&parts.headers, code, &bytes);
            body = again;
        }
        self.write("ResponseComplete");
        Response::from_parts(parts, body)
    }

    fn record_answer(&mut self, headers: &HeaderMap, code: u16, bytes: &[u8]) {
        let Some(answer) = object(headers, bytes) else { return };
        if answer["kind"] == "Status" && code >= 400 {
            for field in ["status", "reason", "message"] {
                self.event["responseStatus"][field] = answer[field].clone();
            }
        }
        if self.level >= Level::RequestResponse {
            self.event["responseObject"] = self.trimmed(answer);
        }
    }
}

/// Writes the end of a stream.
struct Ending(Option<Record>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(mut record) = self.0.take() {
            record.write("ResponseComplete");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_without_an_end_is_read_no_further_than_it_is_told() {
        let part = Bytes::from(vec![b'x'; 1 << 20]);
        let endless = futures::stream::repeat_with(move || Ok::<_, response::BoxError>(Frame::data(part.clone())));
        let (begun, mut again) = beginning(response::boxed(StreamBody::new(endless))).await;
        assert!(begun.len() > MAX_BODY_BYTES && begun.len() <= MAX_BODY_BYTES + (1 << 20));
        // The client gets all of it.
        for _ in 0..20 {
            assert_eq!(again.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1 << 20);
        }
        let (begun, again) = beginning(response::full("short")).await;
        assert_eq!((begun, again.collect().await.unwrap().to_bytes()), ("short".into(), Bytes::from("short")));
    }

    #[tokio::test]
    async fn of_a_body_no_more_is_kept_than_is_told() {
        let passed = BodySoFar::default();
        let large = response::full(vec![b'x'; MAX_BODY_BYTES + 10]);
        assert_eq!(passed.watch(large).collect().await.unwrap().to_bytes().len(), MAX_BODY_BYTES + 10);
        assert_eq!(passed.0.lock().len(), MAX_BODY_BYTES);
    }
}
