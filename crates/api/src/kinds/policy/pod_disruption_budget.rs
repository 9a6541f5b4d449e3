//! `PodDisruptionBudget`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["pdb"],
    has_generation: true,
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v1", "PodDisruptionBudget", "poddisruptionbudgets")
};
