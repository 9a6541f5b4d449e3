//! Requests: what goes to the server, and what its answers mean. Answers are read to a limit unless they are streams.

use futures::TryStreamExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use tokio_util::io::StreamReader;

use crate::context::{Context, chain};
use crate::error::{Error, Result};

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// An answer that isn't a stream is no larger.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A request to be.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Vec<(&'a str, String)>,
    pub accept: &'a str,
    pub content_type: &'a str,
    pub body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Call { method, path, query: Vec::new(), accept: JSON, content_type: JSON, body: None }
    }

    pub fn query(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// With a parameter if it has a value.
    pub fn maybe(self, key: &'a str, value: &str) -> Self {
        if value.is_empty() { self } else { self.query(key, value) }
    }

    pub fn accept(self, accept: &'a str) -> Self {
        Call { accept, ..self }
    }

    pub fn body(self, body: &'a Value) -> Self {
        Call { body: Some(body), ..self }
    }

    pub fn content_type(self, content_type: &'a str) -> Self {
        Call { content_type, ..self }
    }

    /// The path with its query.
    pub fn target(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
        let join = if self.path.contains('?') { '&' } else { '?' };
        if query.is_empty() { self.path.to_string() } else { format!("{}{join}{}", self.path, query.join("&")) }
    }
}

/// Encodes a text for a query.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Context {
    /// Sends a request; an answer that isn't a success is an error.
    ///
    /// # Errors
    /// When the server can't be reached, or says no.
    pub async fn send(&self, call: Call<'_>) -> Result<Response<Body>> {
        let body = call.body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        self.send_bytes(call, body).await
    }

    /// The same with bytes as its body.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub async fn send_bytes(&self, call: Call<'_>, body: Vec<u8>) -> Result<Response<Body>> {
        let connection = self.connection().await?;
        let mut request = Request::builder().method(call.method).uri(call.target()).header("Accept", call.accept);
        if !body.is_empty() {
            request = request.header("Content-Type", call.content_type);
        }
        let answer = connection.client.send(request.body(Body::from(body))?).await;
        let answer = answer.map_err(|error| unreachable(&error, &connection.host))?;
        self.warn(&answer);
        if answer.status().is_success() || answer.status().as_u16() == 101 {
            return Ok(answer);
        }
        Err(refused(answer).await)
    }

    /// Tells the server's warnings, as RFC 7234 has them: `299 - "text"`.
    fn warn(&self, answer: &Response<Body>) {
        for warning in answer.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok()) {
            if let Some(text) =
                warning.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"')).map(|(text, _)| text)
            {
                eprintln!("Warning: {}", text.replace("\\\"", "\"").replace("\\\\", "\\"));
                WARNED.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    /// Sends a request and reads the answer as JSON.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), and when the answer is no JSON.
    pub async fn json(&self, call: Call<'_>) -> Result<Value> {
        let bytes = read(self.send(call).await?).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(Call::new("GET", path)).await
    }

    /// An answer's lines as they come.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub async fn stream(&self, call: Call<'_>) -> Result<impl tokio::io::AsyncBufRead + Unpin + use<>> {
        let body = self.send(call).await?.into_body();
        Ok(Box::pin(StreamReader::new(body.into_data_stream().map_err(std::io::Error::other))))
    }
}

/// Whether the server has warned of anything.
pub static WARNED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// A whole answer.
///
/// # Errors
/// When it breaks off, or is too large.
pub async fn read(answer: Response<Body>) -> Result<Vec<u8>> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Message(chain(&error)))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(Error::Message(format!("the server's answer has more than {MAX_ANSWER_BYTES} bytes")));
        }
    }
    Ok(bytes)
}

/// What an answer that isn't a success says.
async fn refused(answer: Response<Body>) -> Error {
    let code = answer.status().as_u16();
    let bytes = read(answer).await.unwrap_or_default();
    if let Ok(status) = serde_json::from_slice::<Value>(&bytes)
        && status["kind"] == "Status"
    {
        return Error::Status(Box::new(status), String::new());
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_string();
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        415 => "UnsupportedMediaType",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    let message = match (reason, text.is_empty()) {
        ("NotFound", _) => "the server could not find the requested resource".into(),
        (_, true) => format!("the server responded with the status code {code}"),
        _ => text,
    };
    Error::Status(Box::new(serde_json::json!({"reason": reason, "message": message, "code": code})), String::new())
}

/// What it means that a request had no answer.
pub fn unreachable(error: &kube::Error, host: &str) -> Error {
    let text = chain(error);
    if text.contains("Connection refused") {
        return Error::Plain(format!(
            "The connection to the server {host} was refused - did you specify the right host or port?"
        ));
    }
    let text = text.strip_prefix("ServiceError: ").unwrap_or(&text).to_string();
    Error::Plain(format!("Unable to connect to the server: {text}"))
}
