//! Decoding the bodies of requests: JSON, YAML or protobuf, into objects of their kind (upstream's strict decoding).

use apimachinery::{Cause, ObjectExt as _, Status, yaml};
use bounded::{BodyError, Limits};
use bytes::Bytes;
use http::{Request, header};
use serde_json::Value;

use api::{KINDS, Kind, protobuf};

use crate::ApiServer;
use crate::request::{DeleteOptions, FieldValidation, Query};
use crate::response::Body;

/// The largest body, upstream's limit.
const MAX_BODY_BYTES: usize = bounded::MAX_REQUEST_BYTES;

/// Reads a body.
///
/// # Errors
/// 413 when it is too large, 400 when it breaks off.
pub async fn read(request: Request<Body>) -> Result<Bytes, Status> {
    bounded::body(request.into_body(), MAX_BODY_BYTES).await.map_err(|error| match error {
        BodyError::TooLarge(limit) => Status::too_large(limit),
        BodyError::Aborted(why) => Status::bad_request(format!("the body can't be read: {why}")),
    })
}

/// The media type of a body, in lower case and without parameters.
pub(super) fn content_type<B>(request: &Request<B>) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// JSON, and warnings about duplicate keys.
///
/// # Errors
/// When it is no JSON, or too deep or large.
pub(super) fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let (value, duplicates) = api::decode::json(bytes)?;
    Ok((value, duplicates.iter().map(|field| format!("duplicate field {field:?}")).collect()))
}

/// The warning about duplicate keys in YAML, in upstream's words.
pub(super) fn yaml_duplicates(duplicates: Vec<String>) -> Vec<String> {
    if duplicates.is_empty() {
        return duplicates;
    }
    vec![format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  "))]
}

/// A body as a value, with warnings about duplicate keys.
///
/// # Errors
/// 400 for a body that can't be decoded, 413 for one that is too large, 415 for another media type.
pub async fn value(request: Request<Body>) -> Result<(Value, Vec<String>), Status> {
    let media = content_type(&request);
    let bytes = read(request).await?;
    let malformed = |e: &dyn std::fmt::Display| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type a Kubernetes object): {e}"))
    };
    match media.as_str() {
        "" | "application/json" | "*/*" => json(&bytes).map_err(|e| malformed(&e)),
        "application/yaml" | "text/yaml" | "application/x-yaml" => {
            let document = yaml::first(&bytes, Limits::REQUEST).map_err(|e| malformed(&e))?;
            Ok((document.value, yaml_duplicates(document.duplicates)))
        }
        protobuf::MEDIA_TYPE => Ok((protobuf::decode(&bytes).map_err(|e| malformed(&e))?, Vec::new())),
        other => Err(Status::unsupported_media_type(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// A body of a type that isn't stored: a Scale, a Binding, an Eviction.
///
/// # Errors
/// 400 for a body that can't be decoded or isn't of the type, 413 for one that is too large, 415 for another media type.
pub async fn of_type(request: Request<Body>, schema: &str) -> Result<Value, Status> {
    let (mut object, _) = value(request).await?;
    conform_to(&mut object, schema)?;
    Ok(object)
}

/// Brings an object into the form of its type.
///
/// # Errors
/// When it isn't of the type.
pub fn conform_to(object: &mut Value, schema: &str) -> Result<(), Status> {
    if !object.is_object() {
        return Err(Status::bad_request("the body must be an object with apiVersion, kind and metadata"));
    }
    let findings = api::schema::types().check(schema, object);
    if findings.mismatched.is_empty() {
        return Ok(());
    }
    let kind = schema.rsplit('.').next().unwrap_or(schema);
    Err(Status::bad_request(format!("the body cannot be handled as a {kind}: {}", findings.mismatched.join("; "))))
}

/// An object of `kind`, typed and pruned, with warnings about what was dropped.
///
/// # Errors
/// As of [`value`] and [`conform`].
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
    let warnings = conform(server, &mut object, kind, FieldValidation::read(query)?, duplicates, Content::Whole)?;
    server.catalog.drop_nulls(kind, &mut object);
    Ok((object, warnings))
}

/// How much of an object a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Whole,
    /// An applied configuration: the fields that its manager wants to own.
    Applied,
}

/// A configuration that can't be applied, in upstream's words.
fn untyped(kind: &Kind, object: &Value, why: &str) -> Status {
    let of = format!("{}/{}; {}/{}, Kind={}", object.namespace(), object.name(), kind.group, kind.version, kind.kind);
    Status::new(500, "", format!("failed to create typed patch object ({of}): {why}"))
}

/// Checks that `object` is of `kind`, removes fields that the kind hasn't got, and sets `apiVersion` and `kind`; returns warnings.
///
/// # Errors
/// 400 for another kind, for fields of another type and, where the client asks for strict validation, for unknown fields; 500 (as
/// upstream) for an applied configuration with unknown fields or with items that can't be told apart.
pub fn conform(
    server: &ApiServer,
    object: &mut Value,
    kind: &Kind,
    validation: FieldValidation,
    duplicates: Vec<String>,
    form: Content,
) -> Result<Vec<String>, Status> {
    check_kind(object, kind, form)?;
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    let findings = match form {
        Content::Whole => server.catalog.prune(kind, object),
        Content::Applied => server.catalog.prune_applied(kind, object),
    };
    if !findings.mismatched.is_empty() {
        let text = findings.mismatched.join("; ");
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {text}",
            kind.kind, kind.version, kind.kind
        )));
    }
    // A field without an owner can't be applied, whatever `fieldValidation` says.
    if let Some(field) = findings.unknown.first().filter(|_| form == Content::Applied) {
        return Err(untyped(kind, object, &format!(".{field}: field not declared in schema")));
    }
    if form == Content::Applied {
        match server.catalog.typed(kind).faults(object).as_slice() {
            [] => {}
            [one] => return Err(untyped(kind, object, one)),
            many => return Err(untyped(kind, object, &format!("errors:\n  {}", many.join("\n  ")))),
        }
    }
    let unknown = findings.unknown.iter().map(|f| format!("unknown field {f:?}"));
    let problems: Vec<String> = unknown.chain(duplicates).collect();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(Status::bad_request(format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Warn => Ok(problems),
        _ => Ok(Vec::new()),
    }
}

/// Whether a body says that it is of `kind`. An applied configuration must (upstream's `structuredMergeManager`).
fn check_kind(object: &Value, kind: &Kind, form: Content) -> Result<(), Status> {
    // A patch may make anything of an object.
    if !object.is_object() {
        return Err(Status::bad_request("the body must be an object with apiVersion, kind and metadata"));
    }
    let (version, name) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let expected = kind.api_version();
    if form == Content::Applied {
        return if version == expected && name == kind.kind {
            Ok(())
        } else {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={name}")))
        };
    }
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if name.is_empty() || name == kind.kind {
        return Ok(());
    }
    if kind.custom {
        let cause = Cause::invalid("kind", &Value::from(name), &format!("must be {}", kind.kind));
        return Err(kind.invalid(object.name(), vec![cause]));
    }
    Err(Status::bad_request(format!(
        "{name} in version {:?} cannot be handled as a {}: {}",
        kind.version,
        kind.kind,
        unconvertible(kind, name)
    )))
}

/// Why Go makes nothing of an object of another kind of the same version.
fn unconvertible(kind: &Kind, name: &str) -> String {
    let version = kind.version;
    let is_known = KINDS.iter().any(|k| k.group == kind.group && k.version == version && k.kind == name);
    if !is_known {
        let scheme = "pkg/api/legacyscheme/scheme.go:30";
        return format!("no kind {name:?} is registered for version {:?} in scheme {scheme:?}", kind.api_version());
    }
    let package = kind.group.split('.').next().filter(|package| !package.is_empty()).unwrap_or("core");
    format!("converting ({version}.{name}) to ({package}.{}): unknown conversion", kind.kind)
}

/// The options of a deletion: its body, if it has one, and its query.
///
/// # Errors
/// 400 for a body that can't be read, 422 for options that contradict each other.
pub async fn delete_options(request: Request<Body>, query: &Query) -> Result<DeleteOptions, Status> {
    let empty = http_body::Body::is_end_stream(request.body());
    let bytes = if empty { Bytes::new() } else { read(request).await? };
    let malformed = |e: &dyn std::fmt::Display| Status::bad_request(format!("the delete options can't be read: {e}"));
    let value = if bytes.is_empty() {
        Value::Null
    } else if bytes.starts_with(b"k8s\0") {
        protobuf::decode(&bytes).map_err(|e| malformed(&e))?
    } else {
        // kubectl sends JSON; client-go's typed clients may send it as YAML does, which is a superset.
        yaml::first(&bytes, Limits::REQUEST).map_err(|e| malformed(&e))?.value
    };
    DeleteOptions::from_json(&value, query)
}
