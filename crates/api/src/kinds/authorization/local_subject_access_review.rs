//! `LocalSubjectAccessReview`: asks what somebody may do in a namespace.

use super::GROUP;
use crate::kinds::{Kind, Verbs};

pub static KIND: Kind = Kind {
    verbs: Verbs::Create,
    ..Kind::namespaced(GROUP, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
};
