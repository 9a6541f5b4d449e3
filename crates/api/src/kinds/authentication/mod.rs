//! Kinds of `authentication.k8s.io`.

pub(crate) mod self_subject_review;
pub(crate) mod token_review;

const GROUP: &str = "authentication.k8s.io";

table! {
    TOKEN_REVIEWS = token_review;
    SELF_SUBJECT_REVIEWS = self_subject_review;
}
