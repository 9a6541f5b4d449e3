//! `Binding`: gives a Pod its node.

use super::GROUP;
use crate::kinds::{Kind, Verbs};

pub static KIND: Kind = Kind { verbs: Verbs::Create, ..Kind::namespaced(GROUP, "v1", "Binding", "bindings") };
