//! `Endpoints`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { short_names: &["ep"], ..Kind::namespaced(GROUP, "v1", "Endpoints", "endpoints") };
