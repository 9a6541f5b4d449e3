//! Reading the bodies of requests.

use apimachinery::{ObjectExt as _, Status, patch};
use bytes::{Bytes, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use api::merge::BuiltinStrategy;
use api::{Kind, protobuf};

use crate::ApiServer;
use crate::request::Query;
use crate::response::Body;

/// The largest body, upstream's limit.
const LIMIT: usize = 3 << 20;

/// What to do with fields that the kind doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub fn read(query: &Query) -> Result<Self, Status> {
        Ok(match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => return Err(unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"])),
        })
    }
}

/// An option of a request that has a value it can't have.
fn unsupported(option: &str, value: &str, allowed: &[&str]) -> Status {
    let cause = apimachinery::Cause::not_supported(option, &value.into(), allowed);
    Status::invalid("meta.k8s.io", "Options", "", vec![cause])
}

/// Whether the write is only to be tried.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    match query.get("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(unsupported("dryRun", other, &["All"])),
    }
}

pub async fn read(request: Request<Body>) -> Result<Bytes, Status> {
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the body can't be read: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > LIMIT {
                return Err(Status::too_large(LIMIT));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

fn content_type<B>(request: &Request<B>) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// A body as a value, with the keys that came twice.
pub async fn value(request: Request<Body>) -> Result<(Value, Vec<String>), Status> {
    let media = content_type(&request);
    let bytes = read(request).await?;
    let malformed = |e: &dyn std::fmt::Display| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type a Kubernetes object): {e}"))
    };
    match media.as_str() {
        "" | "application/json" | "*/*" => api::decode::json(&bytes).map_err(|e| malformed(&e)),
        "application/yaml" | "text/yaml" | "application/x-yaml" => {
            let value = serde_yaml_ng::from_slice(&bytes).map_err(|e| malformed(&e))?;
            Ok((value, Vec::new()))
        }
        protobuf::MEDIA_TYPE => Ok((protobuf::decode(&bytes).map_err(|e| malformed(&e))?, Vec::new())),
        other => Err(Status::unsupported_media_type(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// An object of `kind`, typed and pruned, with warnings about what was dropped.
pub async fn object(
    server: &ApiServer,
    request: Request<Body>,
    kind: &Kind,
    query: &Query,
) -> Result<(Value, Vec<String>), Status> {
    let (mut object, duplicates) = value(request).await?;
    if !object.is_object() {
        return Err(Status::bad_request("the body must be an object with apiVersion, kind and metadata"));
    }
    let warnings = conform(server, &mut object, kind, FieldValidation::read(query)?, duplicates)?;
    Ok((object, warnings))
}

/// Checks that `object` says it is of `kind` and has its fields; fills in what it doesn't say.
pub fn conform(
    server: &ApiServer,
    object: &mut Value,
    kind: &Kind,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> Result<Vec<String>, Status> {
    // A patch may make anything of an object.
    if !object.is_object() {
        return Err(Status::bad_request("the body must be an object with apiVersion, kind and metadata"));
    }
    let (version, name) = (object.str_at(&["apiVersion"]).to_string(), object.str_at(&["kind"]).to_string());
    let expected = kind.api_version();
    if (!version.is_empty() && version != expected) || (!name.is_empty() && name != kind.kind) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}, kind {name}) does not match the expected API version ({expected}, kind {})",
            kind.kind
        )));
    }
    object["apiVersion"] = expected.into();
    object["kind"] = kind.kind.into();
    let findings = server.catalog.prune(kind, object);
    if !findings.mismatched.is_empty() {
        let text = findings.mismatched.join("; ");
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {text}",
            kind.kind, kind.version, kind.kind
        )));
    }
    let unknown = findings.unknown.iter().map(|f| format!("unknown field {f:?}"));
    let problems: Vec<String> = unknown.chain(duplicates.iter().map(|f| format!("duplicate field {f:?}"))).collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(Status::bad_request(format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Warn => Ok(problems),
        _ => Ok(Vec::new()),
    }
}

/// A patch, by its content type.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// An applied configuration, with the keys that came twice.
    Apply(Value, Vec<String>),
}

/// Whether a patch is a server-side apply.
pub fn is_apply<B>(request: &Request<B>) -> bool {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    media.starts_with("application/apply-patch")
}

impl Patch {
    pub async fn read(request: Request<Body>) -> Result<Self, Status> {
        let media = content_type(&request);
        let bytes = read(request).await?;
        let parse = || -> Result<Value, Status> {
            api::decode::json(&bytes)
                .map(|(v, _)| v)
                .map_err(|e| Status::bad_request(format!("the patch is no JSON: {e}")))
        };
        match media.as_str() {
            "application/json-patch+json" => match parse()? {
                steps @ Value::Array(_) => Ok(Patch::Json(steps)),
                _ => Err(Status::bad_request("a JSON patch must be a list of operations (RFC 6902)")),
            },
            "application/merge-patch+json" => Ok(Patch::Merge(parse()?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(parse()?)),
            "application/apply-patch+yaml" => {
                // JSON is YAML too, but only the JSON reader notices keys that come twice.
                if let Ok((config, duplicates)) = api::decode::json(&bytes) {
                    return Ok(Patch::Apply(config, duplicates));
                }
                let config = serde_yaml_ng::from_slice(&bytes)
                    .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
                Ok(Patch::Apply(config, Vec::new()))
            }
            other => {
                let known = "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml";
                Err(Status::unsupported_media_type(other, known))
            }
        }
    }

    pub fn apply(&self, kind: &Kind, object: &Value) -> Result<Value, Status> {
        let mut patched = object.clone();
        match self {
            Patch::Json(p) => patch::json_patch(&mut patched, p).map_err(|e| {
                Status::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {e}"),
                )
            })?,
            Patch::Merge(p) => patch::merge_patch(&mut patched, p),
            Patch::Strategic(_) if kind.custom => {
                let known = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                return Err(Status::unsupported_media_type("application/strategic-merge-patch+json", known));
            }
            Patch::Strategic(p) => patch::strategic_merge(&mut patched, p, &BuiltinStrategy::of(kind))
                .map_err(|e| Status::bad_request(e.to_string()))?,
            Patch::Apply(..) => {
                return Err(Status::new(415, "UnsupportedMediaType", "apply isn't served for this subresource"));
            }
        }
        Ok(patched)
    }
}
