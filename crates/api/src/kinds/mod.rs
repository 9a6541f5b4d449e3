//! The built-in kinds of Kubernetes v1.37: a module for each, in the folder of its group. What is particular to a kind is there: its
//! names, the subresources that it declares, defaults, checks, columns, and whatever else a [`Strategy`] has.
//!
//! A kind is a constant (`kinds::PODS`), which is compared by group and resource together, never by its plural: custom resource
//! definitions may use any. How to add a kind: CONTRIBUTING.md.

mod kind;
#[cfg(test)]
mod paths;
mod strategy;
mod subresource;

/// The constants of a group's kinds, and the list of them in the order of discovery.
macro_rules! table {
    ($($name:ident = $module:ident;)*) => {
        $(#[doc = concat!("The kind of `", stringify!($module), "`.")]
        pub const $name: &$crate::Kind = &$module::KIND;)*
        pub(super) const KINDS: &[&$crate::Kind] = &[$($name),*];
    };
}

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod storagemigration;

use std::iter::{Copied, Flatten};
use std::slice::Iter;

pub use kind::{CustomKind, Kind, Verbs};
pub use strategy::{Absent, Deletion, Dependents, SelectedField, StatusKeeps, Strategy, Target};
pub use subresource::Subresource;

pub(crate) use self::apiextensions::custom_resource_definition as definition;
pub use self::core::persistent_volume_claim::{class_of as storage_class_of, has_class as names_storage_class};
pub use self::core::resource_quota::usage as quota;

pub use self::admissionregistration::*;
pub use self::apiextensions::*;
pub use self::apiregistration::*;
pub use self::apps::*;
pub use self::authentication::*;
pub use self::authorization::*;
pub use self::autoscaling::*;
pub use self::batch::*;
pub use self::certificates::*;
pub use self::coordination::*;
pub use self::core::*;
pub use self::discovery::*;
pub use self::flowcontrol::*;
pub use self::networking::*;
pub use self::node::*;
pub use self::policy::*;
pub use self::rbac::*;
pub use self::resource::*;
pub use self::scheduling::*;
pub use self::storage::*;
pub use self::storagemigration::*;

/// In the category `all`, which `kubectl get all` lists.
const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];

/// A list of kinds, by group.
#[derive(Debug, Clone, Copy)]
pub struct Kinds(&'static [&'static [&'static Kind]]);

impl Kinds {
    /// All kinds, in the order of discovery.
    pub fn iter(self) -> impl Iterator<Item = &'static Kind> + Clone {
        self.into_iter()
    }
}

impl IntoIterator for Kinds {
    type Item = &'static Kind;
    type IntoIter = Copied<Flatten<Copied<Iter<'static, &'static [&'static Kind]>>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().copied().flatten().copied()
    }
}

/// All built-in kinds, in the order in which discovery lists their groups.
pub const KINDS: Kinds = Kinds(&[
    self::core::KINDS,
    apps::KINDS,
    batch::KINDS,
    autoscaling::KINDS,
    policy::KINDS,
    networking::KINDS,
    discovery::KINDS,
    coordination::KINDS,
    storage::KINDS,
    rbac::KINDS,
    scheduling::KINDS,
    node::KINDS,
    certificates::KINDS,
    admissionregistration::KINDS,
    apiextensions::KINDS,
    apiregistration::KINDS,
    flowcontrol::KINDS,
    resource::KINDS,
    storagemigration::KINDS,
    authentication::KINDS,
    authorization::KINDS,
]);

/// Further versions of kinds in the table: an older one, or another group's. Their objects are kept as the kind of the
/// table ([`Kind::convert`]).
pub const OLDER: Kinds = Kinds(&[autoscaling::OLDER, events::OLDER]);

/// The kind that `group`, `version` and `plural` name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    // A list of kinds is of one group.
    let lists = KINDS.0.iter().chain(OLDER.0).filter(|kinds| kinds.first().is_some_and(|k| k.group == group));
    lists.flat_map(|kinds| kinds.iter().copied()).find(|k| k.plural == plural && k.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema() {
        for kind in KINDS.iter().chain(OLDER) {
            assert!(crate::schema::types().contains(&kind.schema()), "{} is unknown", kind.schema());
        }
    }

    #[test]
    fn every_kind_is_found_by_what_paths_name() {
        for kind in KINDS.iter().chain(OLDER) {
            let found = find(kind.group, kind.version, kind.plural).unwrap();
            assert!(std::ptr::eq(found, kind), "{kind:?}");
        }
        assert_eq!(find("example.com", "v1", "pods"), None);
        assert_eq!(find("", "v2", "pods"), None);
    }

    #[test]
    fn no_resource_is_listed_twice() {
        let all: Vec<&Kind> = KINDS.iter().collect();
        for (i, a) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(a), "{a:?}");
        }
    }

    #[test]
    fn every_kind_fills_every_column_even_of_an_empty_object() {
        for kind in KINDS {
            let printer = &kind.strategy.printer;
            let row = (printer.row)(&serde_json::json!({}), apimachinery::clock::now());
            assert_eq!(row.len(), printer.columns.len(), "{kind:?}");
        }
    }
}
