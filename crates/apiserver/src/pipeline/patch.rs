//! Patches: JSON (RFC 6902), merge (RFC 7386), strategic merge, and applied configurations.

use apimachinery::patch::PatchError;
use apimachinery::{Status, patch, yaml};
use bounded::Limits;
use http::{Request, header};
use serde_json::Value;

use api::Kind;
use api::merge::BuiltinStrategy;

use super::decode::{self, content_type, yaml_duplicates};
use crate::response::Body;

/// A patch, by its content type.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// An applied configuration, with warnings about duplicate keys.
    Apply(Value, Vec<String>),
}

/// Whether a patch is a server-side apply.
pub fn is_apply<B>(request: &Request<B>) -> bool {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    media.starts_with("application/apply-patch")
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// 400 for a body that can't be decoded, 413 for one that is too large, 415 for another media type.
    pub async fn read(request: Request<Body>) -> Result<Self, Status> {
        let media = content_type(&request);
        let bytes = decode::read(request).await?;
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
                // JSON is YAML too; its own reader names keys that come twice by their path.
                if let Ok((config, duplicates)) = decode::json(&bytes) {
                    return Ok(Patch::Apply(config, duplicates));
                }
                let document = yaml::first(&bytes, Limits::REQUEST)
                    .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
                Ok(Patch::Apply(document.value, yaml_duplicates(document.duplicates)))
            }
            other => {
                let known = "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml";
                Err(Status::unsupported_media_type(other, known))
            }
        }
    }

    /// The object that the patch makes of `object`.
    ///
    /// # Errors
    /// 400 or 422 for a patch that can't be applied, 413 when its result is too large, 415 for one that the kind doesn't know.
    pub fn apply(&self, kind: &Kind, object: &Value) -> Result<Value, Status> {
        let mut patched = object.clone();
        match self {
            Patch::Json(p) => patch::json_patch(&mut patched, p).map_err(|e| patch_error(&e))?,
            Patch::Merge(p) => patch::merge_patch(&mut patched, p),
            Patch::Strategic(_) if kind.custom => {
                let known = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                return Err(Status::unsupported_media_type("application/strategic-merge-patch+json", known));
            }
            Patch::Strategic(p) => {
                patch::strategic_merge(&mut patched, p, &BuiltinStrategy::of(kind)).map_err(|e| patch_error(&e))?
            }
            Patch::Apply(..) => {
                return Err(Status::new(415, "UnsupportedMediaType", "apply isn't served for this subresource"));
            }
        }
        bounded::check_result(&patched).map_err(|why| too_large(&why))?;
        Ok(patched)
    }
}

/// Upstream's answer to each way in which a patch can be wrong.
fn patch_error(error: &PatchError) -> Status {
    match error {
        PatchError::TooManySteps { .. } => Status::new(413, "RequestEntityTooLarge", error.to_string()),
        PatchError::Json(_) => Status::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        ),
        _ => Status::bad_request(error.to_string()),
    }
}

/// 413 for an object that a patch made too large.
pub fn too_large(why: &bounded::Exceeded) -> Status {
    Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: of the object that results, {why}"))
}
