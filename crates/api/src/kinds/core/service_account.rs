//! `ServiceAccount`: whom Pods act as.

use apimachinery::ObjectExt as _;
use serde_json::json;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, number};
use crate::kinds::{Deletion, Kind, Strategy, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    strategy: Strategy {
        printer: Printer {
            columns: &[NAME, number("Secrets"), AGE],
            row: |o, now| vec![name(o), json!(o.array_at(&["secrets"]).len()), age(o, now)],
        },
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ServiceAccount", "serviceaccounts")
};
