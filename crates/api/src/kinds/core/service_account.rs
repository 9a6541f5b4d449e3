//! `ServiceAccount`: whom Pods act as.

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name};
use crate::kinds::{Deletion, Kind, Strategy, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    strategy: Strategy {
        printer: Printer {
            // Since v1.35 without the number of its Secrets, which no longer says anything.
            columns: &[NAME, AGE],
            row: |o, now| vec![name(o), age(o, now)],
        },
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ServiceAccount", "serviceaccounts")
};
