//! The form of an answer: what a client's `Accept` and `Accept-Encoding` ask for.

use std::io::Write as _;

use api::{Kind, Verbs, protobuf};
use apimachinery::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use serde_json::Value;

use super::{self as response, Body, BoxError};

/// The form that a client wants objects in. Tables and metadata name the version of `meta.k8s.io` that they are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Table(&'static str),
    Partial(&'static str),
    Protobuf,
}

pub const YAML: &str = "application/yaml";
/// Smaller answers aren't compressed (upstream's `defaultGzipThresholdBytes`).
const MIN_COMPRESSED_BYTES: u64 = 128 * 1024;

/// The media types of an `Accept` header, those with the highest quality first.
fn by_quality(accept: &str) -> Vec<&str> {
    let quality = |media: &str| -> f32 {
        let said = media.split(';').find_map(|part| part.trim().strip_prefix("q="));
        said.and_then(|q| q.trim().parse().ok()).unwrap_or(1.0)
    };
    let mut all: Vec<&str> = accept.split(',').map(str::trim).filter(|m| quality(m) > 0.0).collect();
    all.sort_by(|a, b| quality(b).total_cmp(&quality(a)));
    all
}

/// The `Accept` header.
pub fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// The first media type that is served, and whether it is YAML.
///
/// # Errors
/// 406 when none is.
pub fn negotiate(accept: &str, kind: Option<&Kind>, watch: bool) -> Result<(Form, bool), Status> {
    let speaks_protobuf = kind.is_none_or(protobuf::speaks);
    for media in by_quality(accept) {
        let mut parts = media.split(';').map(str::trim);
        let base = parts.next().unwrap_or("");
        let parameter = |name: &str| media.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
        let transformed = parameter("as");
        if base == protobuf::MEDIA_TYPE && kind.is_some() && speaks_protobuf && transformed.is_none() {
            return Ok((Form::Protobuf, false));
        }
        let yaml = base == YAML && !watch;
        if !yaml && !matches!(base, "application/json" | "*/*" | "application/*" | "") {
            continue;
        }
        let version = match parameter("v") {
            Some("v1beta1") => "meta.k8s.io/v1beta1",
            _ => "meta.k8s.io/v1",
        };
        match transformed {
            // Reviews have no columns.
            Some("Table") if kind.is_some_and(|kind| kind.verbs == Verbs::Create) => {}
            Some("Table") => return Ok((Form::Table(version), yaml)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok((Form::Partial(version), yaml)),
            Some(_) if kind.is_some() => {}
            _ => return Ok((Form::Json, yaml)),
        }
    }
    let mut served = vec!["application/json", YAML];
    if watch {
        served.pop();
    }
    if speaks_protobuf {
        served.push(protobuf::MEDIA_TYPE);
    }
    let text = format!("only the following media types are accepted: {}", served.join(", "));
    Err(Status::new(406, "NotAcceptable", text))
}

/// An answer of JSON as YAML.
pub async fn as_yaml(answer: Response<Body>) -> Response<Body> {
    if answer.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    #[expect(clippy::disallowed_methods, reason = "the answer is our own, and whole")]
    let text = match body.collect().await {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes.to_bytes()).ok(),
        Err(_) => None,
    };
    let Some(text) = text.map(|value| apimachinery::yaml::write(&value)) else {
        return response::error(&Status::internal("the answer can't be written as YAML"));
    };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(YAML));
    Response::from_parts(head, response::full(text))
}

/// The `ETag` of a document: a hash of its content.
pub fn tag(content: &[u8]) -> HeaderValue {
    // Quotes and hexadecimal digits are characters of header values.
    HeaderValue::from_str(&format!("\"{}\"", pki::sha256_hex(content))).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a client says that it has the document of a tag (`If-None-Match`).
pub fn has_tag(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = request.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    known.split(',').any(|known| known.trim().as_bytes() == tag.as_bytes())
}

/// A document with an `ETag` of its content (RFC 9110, section 8.8.3); 304 for a client that has it.
pub async fn tagged(answer: Response<Body>, request: &HeaderMap) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    #[expect(clippy::disallowed_methods, reason = "the answer is our own, and whole")]
    let Ok(body) = body.collect().await.map(|b| b.to_bytes()) else {
        return response::error(&Status::internal("the answer broke off"));
    };
    let tag = tag(&body);
    let body = if has_tag(request, &tag) {
        head.status = StatusCode::NOT_MODIFIED;
        Bytes::new()
    } else {
        body
    };
    head.headers.insert(header::ETAG, tag);
    Response::from_parts(head, response::full(body))
}

/// Marks an answer that ends by itself and is this server's own, so that it may be compressed.
#[derive(Clone)]
struct Compressible;

/// Marks an answer as one that [`compress`] may compress.
pub fn may_be_compressed(mut answer: Response<Body>) -> Response<Body> {
    answer.extensions_mut().insert(Compressible);
    answer
}

/// Whether a client accepts gzip.
pub fn wants_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    by_quality(accepted).iter().any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// Compresses an answer if it is large: as a whole if it is there as a whole, else as it is made.
pub async fn compress(answer: Response<Body>) -> Response<Body> {
    let size = answer.body().size_hint().exact();
    if answer.extensions().get::<Compressible>().is_none() || size.is_some_and(|size| size < MIN_COMPRESSED_BYTES) {
        return answer;
    }
    let (mut head, mut body) = answer.into_parts();
    if size.is_none() {
        let (mut begun, mut length) = (Vec::new(), 0u64);
        while length < MIN_COMPRESSED_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => {
                    length = length.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
                    begun.extend(frame.into_data());
                }
                Some(Err(_)) => return response::error(&Status::internal("the answer broke off")),
                None => return Response::from_parts(head, response::full(begun.concat())),
            }
        }
        mark_compressed(&mut head.headers);
        return Response::from_parts(head, compressed(begun, body));
    }
    #[expect(clippy::disallowed_methods, reason = "the answer is our own, and whole")]
    let Ok(body) = body.collect().await.map(|b| b.to_bytes()) else {
        return response::error(&Status::internal("the answer broke off"));
    };
    let plain = body.clone();
    let packed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
        encoder.write_all(&plain)?;
        encoder.finish()
    });
    let Ok(Ok(packed)) = packed.await else { return Response::from_parts(head, response::full(body)) };
    mark_compressed(&mut head.headers);
    Response::from_parts(head, response::full(packed))
}

/// Says in the headers of an answer that its body is compressed.
pub fn mark_compressed(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(header::CONTENT_LENGTH);
}

/// A body compressed piece by piece: what it has begun with, and the rest.
fn compressed(begun: Vec<Bytes>, rest: Body) -> Body {
    let begun = futures::stream::iter(begun.into_iter().map(|data| Ok(Frame::data(data))));
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = futures::stream::unfold(Some((begun.chain(BodyStream::new(rest)), encoder)), |state| async {
        let (mut frames, mut encoder) = state?;
        // What zlib holds back comes with a later piece.
        while encoder.get_ref().is_empty() {
            let result = match frames.next().await {
                Some(Ok(frame)) => {
                    frame.into_data().map_or(Ok(()), |data| encoder.write_all(&data).map_err(Into::into))
                }
                Some(Err(error)) => Err(error),
                None => return Some((encoder.finish().map(|end| Frame::data(end.into())).map_err(Into::into), None)),
            };
            if let Err(error) = result {
                return Some((Err(error), None));
            }
        }
        let packed = std::mem::take(encoder.get_mut());
        Some((Ok::<_, BoxError>(Frame::data(packed.into())), Some((frames, encoder))))
    });
    response::boxed(StreamBody::new(packed))
}

#[cfg(test)]
mod tests {
    use api::kinds;

    use super::*;

    #[test]
    fn the_first_media_type_that_is_served_counts() {
        let pods = Some(kinds::PODS);
        let v1 = "meta.k8s.io/v1";
        for (accept, want) in [
            ("", Some((Form::Json, false))),
            ("*/*", Some((Form::Json, false))),
            ("text/html, application/xml;q=0.9, */*;q=0.8", Some((Form::Json, false))),
            ("application/json;q=0.5, application/yaml", Some((Form::Json, true))),
            ("application/vnd.kubernetes.protobuf, application/json", Some((Form::Protobuf, false))),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Form::Json, false)),
            ),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Form::Table(v1), false))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some((Form::Table("meta.k8s.io/v1beta1"), false))),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Some((Form::Partial(v1), false))),
            ("application/json;as=Picture,application/yaml", Some((Form::Json, true))),
            ("text/html", None),
            ("application/json;q=0", None),
        ] {
            assert_eq!(negotiate(accept, pods, false).ok(), want, "{accept}");
        }
        let reviews = Some(kinds::SELF_SUBJECT_ACCESS_REVIEWS);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate(table, reviews, false).err().map(|status| status.code), Some(406));
        assert!(negotiate(&format!("{table},application/json"), reviews, false).is_ok());
        assert!(negotiate(YAML, pods, true).is_err(), "there are no streams of YAML");
    }
}
