//! The audit log (`audit.k8s.io/v1`): who asked for what, when, and what came of it, as lines of JSON.
//!
//! A policy says how much is told of which requests. Without a policy nothing of this runs.

mod log;
mod policy;

use std::sync::Arc;

use apimachinery::bounded::Limits;
use apimachinery::{ObjectExt as _, clock, yaml};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

pub use log::{Log, LogError};
pub use policy::{Policy, PolicyError};

use crate::auth::User;
use crate::request::{self, Query, ResourcePath};
use crate::response::{self, Body};
use policy::Level;

/// The largest body of a request that is read here, in bytes; more than any that is accepted.
const MAX_BODY_BYTES: usize = 4 << 20;

/// What is told of requests, and where.
pub struct Audit {
    pub policy: Policy,
    pub log: Log,
}

tokio::task_local! {
    /// What those who decide about the request on this task want to be told of it.
    static NOTES: Arc<Notes>;
}

#[derive(Debug, Default)]
pub struct Notes(Mutex<Map<String, Value>>);

/// Adds an annotation to what is told of the present request, if it is told of at all. `value` is only made then; the
/// first one for a key stays.
pub fn annotate(key: &str, value: impl FnOnce() -> String) {
    let _ = NOTES.try_with(|notes| {
        notes.0.lock().entry(key).or_insert_with(|| value().into());
    });
}

/// A request that is being told of.
pub struct Record {
    notes: Arc<Notes>,
    audit: Arc<Audit>,
    level: Level,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
    long_running: bool,
    event: Value,
}

impl Audit {
    /// Begins to tell of a request, if the policy wants it. Reads the body if that is to be told.
    pub async fn begin(self: &Arc<Self>, user: &User, request: Request<Body>) -> (Option<Record>, Request<Body>) {
        let path = request::resource_path(request.uri().path());
        let query = Query::parse(request.uri());
        let verb = match &path {
            Some(path) => request::verb(request.method(), path, &query).unwrap_or("").to_string(),
            None => request.method().as_str().to_ascii_lowercase(),
        };
        let rule = self.policy.decide(user, &verb, path.as_ref(), request.uri().path());
        if rule.level == Level::None {
            return (None, request);
        }
        let event = describe(user, &verb, path.as_ref(), &request, rule.level);
        let streams = path
            .as_ref()
            .is_some_and(|p| matches!(p.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy"));
        let mut record = Record {
            notes: Arc::default(),
            audit: self.clone(),
            level: rule.level,
            omit_stages: rule.omit_stages,
            omit_managed_fields: rule.omit_managed_fields,
            long_running: verb == "watch" || streams,
            event,
        };
        record.tell("RequestReceived");
        let has_body = matches!(verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        if record.level < Level::Request || !has_body || streams {
            return (Some(record), request);
        }
        let (parts, body) = request.into_parts();
        let bytes = whole(body, MAX_BODY_BYTES).await;
        if let Some(told) = bytes.as_ref().and_then(|bytes| object(&parts.headers, bytes)) {
            record.event["requestObject"] = record.trimmed(told);
        }
        // A body that can't be read is refused by whoever reads it next.
        let body = response::full(bytes.unwrap_or_else(|| Bytes::from_static(b"\0")));
        (Some(record), Request::from_parts(parts, body))
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

/// All of a body; `None` if it is cut off or has more than `most` bytes.
async fn whole(mut body: Body, most: usize) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > most {
            return None;
        }
    }
    Some(bytes.freeze())
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
    /// Works on the request, and collects what is noted meanwhile.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        NOTES.scope(self.notes.clone(), work).await
    }

    fn trimmed(&self, mut object: Value) -> Value {
        if self.omit_managed_fields && object["metadata"].is_object() {
            object.meta_mut().remove("managedFields");
        }
        object
    }

    fn tell(&mut self, stage: &str) {
        if self.omit_stages.iter().any(|s| s == stage) {
            return;
        }
        self.event["stage"] = stage.into();
        self.event["stageTimestamp"] = clock::now_micro().into();
        self.audit.log.write(&self.event);
    }

    /// Tells how the request ended, and hands the answer on.
    pub async fn end(mut self, answer: Response<Body>) -> Response<Body> {
        let code = answer.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        let decision = if code == 403 { "forbid" } else { "allow" };
        let mut annotations = std::mem::take(&mut *self.notes.0.lock());
        annotations.insert("authorization.k8s.io/decision".into(), decision.into());
        self.event["annotations"] = annotations.into();
        let (mut parts, mut body) = answer.into_parts();
        if let Ok(id) = HeaderValue::from_str(self.event.str_at(&["auditID"])) {
            parts.headers.insert("audit-id", id);
        }
        if self.long_running && code < 400 {
            self.tell("ResponseStarted");
            // The end of a stream is when its body is dropped.
            let ending = Ending(Some(self));
            let body = body.map_frame(move |frame| {
                let _held = &ending;
                frame
            });
            return Response::from_parts(parts, response::boxed(body));
        }
        if self.level >= Level::RequestResponse || code >= 400 {
            let bytes = whole(body, usize::MAX).await.unwrap_or_default();
            self.told(&parts.headers, code, &bytes);
            body = response::full(bytes);
        }
        self.tell("ResponseComplete");
        Response::from_parts(parts, body)
    }

    fn told(&mut self, headers: &HeaderMap, code: u16, bytes: &[u8]) {
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

/// Tells of the end of a stream.
struct Ending(Option<Record>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(mut record) = self.0.take() {
            record.tell("ResponseComplete");
        }
    }
}
