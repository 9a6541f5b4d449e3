//! `MutatingAdmissionPolicy`: expressions that change objects on their way in.

use super::GROUP;
use super::policies::{MUTATIONS, check_policy, default_policy};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        updates_name_version: true,
        printer: MUTATIONS,
        defaults: default_policy,
        validate: |object, _, causes| check_policy(object, "mutations", causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
};
