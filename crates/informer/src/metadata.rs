//! The metadata of an object whose whole can't be decoded, or needn't be.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// The metadata of an object, which is all that [`crate::Selection::metadata_only`] asks for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    /// `metadata`.
    pub metadata: ObjectMeta,
}

/// The metadata in the JSON of an object.
pub(crate) fn metadata_of(object: &str) -> Option<ObjectMeta> {
    serde_json::from_str::<Metadata>(object).ok().map(|only| only.metadata)
}
