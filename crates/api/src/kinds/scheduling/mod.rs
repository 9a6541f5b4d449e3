//! Kinds of `scheduling.k8s.io`.

pub(crate) mod priority_class;

const GROUP: &str = "scheduling.k8s.io";

table! {
    PRIORITY_CLASSES = priority_class;
}
