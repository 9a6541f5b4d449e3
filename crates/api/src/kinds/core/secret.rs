//! `Secret`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { selectable: &["type"], ..Kind::namespaced(GROUP, "v1", "Secret", "secrets") };
