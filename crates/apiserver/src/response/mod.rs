//! Bodies and answers.

pub mod negotiation;

use api::protobuf;
use apimachinery::Status;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::{Value, json};

/// Why a body breaks off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request or an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Any body as ours.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    boxed(Full::new(bytes.into()))
}

/// A body that is sent piece by piece as `stream` yields.
pub fn streaming(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt as _;
    boxed(StreamBody::new(stream.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)))))
}

/// An answer that holds on to something until its body is sent or dropped.
pub fn held_until_sent(answer: Response<Body>, held: impl Send + 'static) -> Response<Body> {
    answer.map(|body| {
        boxed(body.map_frame(move |frame| {
            let _ = &held;
            frame
        }))
    })
}

/// An answer of a media type.
pub fn with_type(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON that is written already.
pub fn json_bytes(code: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    with_type(code, "application/json", full(bytes))
}

/// A value as JSON.
pub fn json(code: u16, value: &Value) -> Response<Body> {
    json_bytes(code, crate::json::to_vec(value))
}

/// JSON that is sent as it comes: a watch.
pub fn json_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    with_type(200, "application/json", streaming(stream))
}

/// A message with its envelope.
pub fn protobuf(code: u16, bytes: Vec<u8>) -> Response<Body> {
    with_type(code, protobuf::MEDIA_TYPE, full(bytes))
}

/// A watch in protobuf.
pub fn protobuf_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    with_type(200, "application/vnd.kubernetes.protobuf;stream=watch", streaming(stream))
}

/// Plain text.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    with_type(code, "text/plain; charset=utf-8", full(text))
}

/// The Status of success that a Binding or an Eviction is answered with.
pub fn created() -> Response<Body> {
    json(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// The answer that a Status is. Errors of the server's own are logged.
pub fn refuse(status: &Status) -> Response<Body> {
    if status.code >= 500 {
        tracing::warn!(code = status.code, message = %status.message, "a request failed with a server error");
    }
    error(status)
}

/// A Status as an answer, with `Retry-After` where clients are to wait.
pub fn error(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_json());
    if status.code == 429 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Most characters of all warnings of an answer, and of one of them if there are more (upstream's figures).
const MAX_WARNINGS: usize = 4096;
const MAX_WARNING: usize = 256;

/// Adds a `Warning` header (RFC 7234, code 299), which kubectl prints.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let length = |text: &str| text.chars().count();
    let too_long = warnings.iter().map(|w| length(w)).sum::<usize>() > MAX_WARNINGS;
    let mut left = MAX_WARNINGS;
    for warning in warnings {
        let cut: String = warning.chars().take(if too_long { MAX_WARNING } else { MAX_WARNINGS }).collect();
        let Some(rest) = left.checked_sub(length(&cut)) else { return };
        left = rest;
        let text = cut.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
