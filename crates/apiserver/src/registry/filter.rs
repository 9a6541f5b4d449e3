//! What a list or watch selects.

use apimachinery::{FieldSelector, LabelSelector};

use api::Kind;

use super::Entry;

/// What a list or watch is limited to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty for all namespaces.
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether an object is selected.
    pub fn matches(&self, kind: &Kind, entry: &Entry) -> bool {
        (self.namespace.is_empty() || self.namespace == entry.namespace())
            && self.labels.matches(|k| entry.label(k))
            && self.fields.matches(|path| entry.field(kind.kept_as().unwrap_or(kind), path))
    }

    /// Whether all objects are selected.
    pub fn is_everything(&self) -> bool {
        self.namespace.is_empty() && self.labels.is_empty() && self.fields.is_empty()
    }
}
