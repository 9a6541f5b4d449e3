//! `SubjectAccessReview`: asks whether somebody may do something.

use super::GROUP;
use crate::kinds::{Kind, Verbs};

pub static KIND: Kind =
    Kind { verbs: Verbs::Create, ..Kind::cluster(GROUP, "v1", "SubjectAccessReview", "subjectaccessreviews") };
