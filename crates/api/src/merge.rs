//! How lists are merged by a strategic merge patch: as upstream's `patchMergeKey` and `patchStrategy` tags say, which the
//! schema holds.

use apimachinery::patch::{ListMerge, MergeStrategy};

use crate::Kind;
use crate::schema::{self, Type};

/// The strategies of one kind.
pub struct BuiltinStrategy {
    root: String,
}

impl BuiltinStrategy {
    /// Those of a built-in kind, by its schema.
    pub fn of(kind: &Kind) -> Self {
        BuiltinStrategy { root: kind.schema() }
    }
}

impl MergeStrategy for BuiltinStrategy {
    fn list(&self, path: &[String]) -> ListMerge {
        let types = schema::types();
        let Some(mut at) = types.get(&self.root) else { return ListMerge::Replace };
        for name in path {
            // The path has no steps for list items.
            while let Type::List { items, .. } = types.resolve(at) {
                at = items;
            }
            at = match types.resolve(at) {
                Type::Object { fields, .. } => match fields.iter().find(|(field, _)| field == name) {
                    Some((_, of)) => of,
                    None => return ListMerge::Replace,
                },
                Type::Map { values, .. } => values,
                _ => return ListMerge::Replace,
            };
        }
        match types.resolve(at) {
            Type::List { merge: Some(key), .. } if key.is_empty() => ListMerge::Set,
            Type::List { merge: Some(key), .. } => ListMerge::ByKey(key.clone()),
            _ => ListMerge::Replace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_type_not_of_the_name() {
        let list = |plural: &str, group: &str, version: &str, path: &str| {
            let kind = crate::find(group, version, plural).unwrap();
            BuiltinStrategy::of(kind).list(&path.split('.').map(String::from).collect::<Vec<_>>())
        };
        assert_eq!(list("pods", "", "v1", "spec.containers"), ListMerge::ByKey("name".into()));
        assert_eq!(list("pods", "", "v1", "spec.containers.ports"), ListMerge::ByKey("containerPort".into()));
        assert_eq!(list("services", "", "v1", "spec.ports"), ListMerge::ByKey("port".into()));
        assert_eq!(list("pods", "", "v1", "spec.tolerations"), ListMerge::Replace);
        assert_eq!(list("pods", "", "v1", "metadata.finalizers"), ListMerge::Set);
        let template = "spec.template.spec.containers.volumeMounts";
        assert_eq!(list("deployments", "apps", "v1", template), ListMerge::ByKey("mountPath".into()));
        assert_eq!(list("endpointslices", "discovery.k8s.io", "v1", "ports"), ListMerge::Replace);
    }
}
