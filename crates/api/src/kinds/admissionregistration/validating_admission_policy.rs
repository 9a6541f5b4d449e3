//! `ValidatingAdmissionPolicy`: expressions that refuse objects.

use super::GROUP;
use super::policies::{VALIDATIONS, check_policy, default_policy};
use crate::kinds::{API_EXTENSIONS, Kind, StatusKeeps, Strategy, Subresource};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        printer: VALIDATIONS,
        defaults: default_policy,
        status_keeps: StatusKeeps::LabelsAndAnnotationsToo,
        validate: |object, _, causes| check_policy(object, "validations", causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
};
