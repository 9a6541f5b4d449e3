//! One request to `proxy`: passed on to the API, or answered with a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;

use super::filter::{Filter, Prefixes, Way, decode, host_of};
use crate::context::chain;

/// More entries of a directory are not listed.
const MAX_LISTED: usize = 10_000;

/// A request has no larger body: objects have a few MiB at most, but pods that are asked through the API may take more.
const MAX_BODY_BYTES: usize = 256 << 20;

/// The body of an answer.
type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// What answers requests.
pub struct Server {
    pub client: Client,
    /// None where everything passes.
    pub filter: Option<Filter>,
    pub prefixes: Prefixes,
    pub files: PathBuf,
}

/// Answers one request.
pub async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Answer {
    match server.prefixes.way(request.uri().path()) {
        Way::Nowhere => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Way::Elsewhere(path) => {
            let query = request.uri().query().map_or(String::new(), |q| format!("?{q}"));
            elsewhere(&format!("{path}{query}"))
        }
        Way::File(path) => file(&server.files, &path, request.method() == http::Method::HEAD).await,
        Way::Api(path) => {
            let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
            let decoded = decode(&path).unwrap_or_default();
            let accepts = |filter: &Filter| filter.accepts(request.method().as_str(), &decoded, host_of(host));
            if !server.filter.as_ref().is_none_or(accepts) {
                return text(StatusCode::FORBIDDEN, "Forbidden\n");
            }
            pass(&server.client, request, &path).await
        }
    }
}

/// Passes a request on to the API.
async fn pass(client: &Client, mut request: Request<Incoming>, path: &str) -> Answer {
    let target = request.uri().query().map_or(path.to_string(), |query| format!("{path}?{query}"));
    let upgrade = upgrade_of(request.headers());
    let ours = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    clear(&mut headers, upgrade.as_ref());
    // The server has a name of its own.
    headers.remove(header::HOST);
    // The client library sends what is there as a whole.
    let body = match bounded::body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(error) => return text(StatusCode::PAYLOAD_TOO_LARGE, &format!("{error}\n")),
    };
    let built = Request::builder().method(parts.method).uri(target).body(Body::from(body));
    let mut passed = match built {
        Ok(built) => built,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    *passed.headers_mut() = headers;
    let mut got = match client.send(passed).await {
        Ok(got) => got,
        Err(error) => {
            let problem = chain(&error);
            eprintln!("Error while proxying request: {problem}");
            return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{problem}\n"));
        }
    };
    if got.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = ours else {
            return text(StatusCode::BAD_GATEWAY, "the server changed the protocol unasked\n");
        };
        let theirs = hyper::upgrade::on(&mut got);
        tasks::spawn("proxy-upgrade", async move {
            if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            }
        });
    }
    let (mut parts, body) = got.into_parts();
    let upgraded = upgrade.filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS);
    clear(&mut parts.headers, upgraded.as_ref());
    Response::from_parts(parts, body.map_err(std::io::Error::other).boxed_unsync())
}

/// The protocol that a request asks for.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asked = asked.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

/// Takes out what is about one connection alone (RFC 9110, section 7.6.1).
fn clear(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_string())
        .collect();
    let always = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    for name in always.into_iter().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut made = Response::new(Full::new(Bytes::from(text.to_string())).map_err(|e| match e {}).boxed_unsync());
    *made.status_mut() = status;
    made.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    made.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    made
}

fn elsewhere(place: &str) -> Answer {
    let mut made = text(StatusCode::MOVED_PERMANENTLY, "Moved Permanently\n");
    if let Ok(value) = HeaderValue::from_str(place) {
        made.headers_mut().insert(header::LOCATION, value);
    }
    made
}

/// A file of the folder, or what a directory has. The path has no `..`: it was cleaned before.
async fn file(base: &Path, path: &str, head: bool) -> Answer {
    let missing = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let mut at = base.join(path.trim_start_matches('/'));
    let Ok(mut found) = tokio::fs::metadata(&at).await else { return missing() };
    if found.is_dir() {
        if !path.is_empty() && !path.ends_with('/') {
            let name = path.rsplit('/').next().unwrap_or("");
            return elsewhere(&format!("{}/", crate::client::encode(name)));
        }
        at.push("index.html");
        match tokio::fs::metadata(&at).await {
            Ok(index) if index.is_file() => found = index,
            _ => return listing(at.parent().unwrap_or(base)),
        }
    }
    if !found.is_file() {
        return missing();
    }
    let Ok(opened) = tokio::fs::File::open(&at).await else {
        return text(StatusCode::FORBIDDEN, "403 Forbidden\n");
    };
    let body = if head {
        Empty::new().map_err(|e| match e {}).boxed_unsync()
    } else {
        StreamBody::new(tokio_util::io::ReaderStream::new(opened).map_ok(Frame::data)).boxed_unsync()
    };
    let mut made = Response::new(body);
    made.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(&at)));
    made.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(found.len()));
    made
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).unwrap_or("") {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "wasm" => "application/wasm",
        "txt" | "md" | "yaml" | "yml" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn listing(folder: &Path) -> Answer {
    let entries = std::fs::read_dir(folder).into_iter().flatten().take(MAX_LISTED).flatten();
    let mut names: Vec<String> = entries
        .map(|e| {
            let slash = if e.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", e.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let lines: String = names
        .iter()
        .map(|name| {
            let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
            let slash = if name.ends_with('/') { "/" } else { "" };
            format!("<a href=\"./{}{slash}\">{shown}</a>\n", crate::client::encode(name.trim_end_matches('/')))
        })
        .collect();
    let mut made = text(
        StatusCode::OK,
        &format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n"),
    );
    made.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    made
}
