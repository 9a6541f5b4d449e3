//! Kinds of `authorization.k8s.io`.

pub(crate) mod local_subject_access_review;
pub(crate) mod self_subject_access_review;
pub(crate) mod self_subject_rules_review;
pub(crate) mod subject_access_review;

const GROUP: &str = "authorization.k8s.io";

table! {
    LOCAL_SUBJECT_ACCESS_REVIEWS = local_subject_access_review;
    SELF_SUBJECT_ACCESS_REVIEWS = self_subject_access_review;
    SELF_SUBJECT_RULES_REVIEWS = self_subject_rules_review;
    SUBJECT_ACCESS_REVIEWS = subject_access_review;
}
