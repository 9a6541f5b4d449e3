//! The manifest of a static pod.

use std::path::Path;

use api::static_pods::{HASH, SOURCE, check};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Why a file isn't the manifest of a static pod.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It isn't YAML, or is larger or deeper than a request may be.
    #[error(transparent)]
    Yaml(#[from] apimachinery::yaml::YamlError),
    /// It is of another kind.
    #[error("kind: it must be a Pod of v1, not {kind} of {version}")]
    Kind {
        /// Its `kind`, as JSON.
        kind: Value,
        /// Its `apiVersion`, as JSON.
        version: Value,
    },
    /// Values of fields have other types than those of a pod.
    #[error("{}", .0.join("; "))]
    Types(Vec<String>),
    /// A field is wrong; the first of them.
    #[error("{field}: {message}")]
    Field {
        /// The path of the field.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// It can't be taken for a pod.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl ManifestError {
    fn field(field: &str, message: impl Into<String>) -> Self {
        ManifestError::Field { field: field.into(), message: message.into() }
    }
}

/// The pod of a file, as the API server would have made it of the same text.
///
/// # Errors
/// [`ManifestError`]
pub fn read(text: &str, path: &Path, node: &str) -> Result<Pod, ManifestError> {
    let kind = api::kinds::PODS;
    let document = apimachinery::yaml::first(text.as_bytes(), apimachinery::bounded::Limits::REQUEST);
    let mut pod = document?.value;
    if pod["apiVersion"] != "v1" || pod["kind"] != "Pod" {
        return Err(ManifestError::Kind { kind: pod["kind"].clone(), version: pod["apiVersion"].clone() });
    }
    let findings = api::schema::types().check(&kind.schema(), &mut pod);
    if !findings.mismatched.is_empty() {
        return Err(ManifestError::Types(findings.mismatched));
    }
    if !findings.unknown.is_empty() {
        tracing::warn!(file = %path.display(), fields = findings.unknown.join(", "), "the manifest of a static pod has unknown fields");
    }
    let name = match pod["metadata"]["name"].as_str() {
        Some(name) if !name.is_empty() => format!("{name}-{node}"),
        _ => return Err(ManifestError::field("metadata.name", "it must be set")),
    };
    // Another node's file of the same text is another pod, and so is another text.
    let mut hash = pki::sha256_hex(format!("{node}\n{}\n{text}", path.display()).as_bytes());
    hash.truncate(32);
    let metadata = &mut pod["metadata"];
    metadata["name"] = name.into();
    metadata["uid"] = hash.as_str().into();
    metadata["resourceVersion"] = Value::Null;
    if metadata["namespace"].is_null() {
        metadata["namespace"] = "default".into();
    }
    if metadata["annotations"].is_null() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][HASH] = hash.into();
    metadata["annotations"][SOURCE] = "file".into();
    let spec = &mut pod["spec"];
    spec["nodeName"] = node.into();
    if spec["tolerations"].is_null() {
        spec["tolerations"] = json!([]);
    }
    // Its node alone decides about it.
    if let Some(list) = spec["tolerations"].as_array_mut() {
        list.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    }
    kind.apply_defaults(&mut pod);
    let mut causes = kind.check(&pod, None);
    causes.extend(check(&pod["spec"]));
    if let Some(cause) = causes.first() {
        return Err(ManifestError::field(&cause.field, cause.message.as_str()));
    }
    Ok(serde_json::from_value(pod)?)
}
