//! `LimitRange`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { short_names: &["limits"], ..Kind::namespaced(GROUP, "v1", "LimitRange", "limitranges") };
