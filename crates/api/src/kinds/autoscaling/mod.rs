//! Kinds of `autoscaling`.

pub(crate) mod horizontal_pod_autoscaler;

const GROUP: &str = "autoscaling";

table! {
    HORIZONTAL_POD_AUTOSCALERS = horizontal_pod_autoscaler;
}

pub(super) const OLDER: &[&super::Kind] = &[&horizontal_pod_autoscaler::v1::KIND];
