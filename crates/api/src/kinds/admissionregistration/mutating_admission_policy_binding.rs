//! `MutatingAdmissionPolicyBinding`: where a MutatingAdmissionPolicy applies.

use super::GROUP;
use super::policies::{BINDINGS, check_binding, default_matching};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        updates_name_version: true,
        printer: BINDINGS,
        defaults: default_matching,
        validate: |object, _, causes| check_binding(object, |_, _| {}, causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
};
