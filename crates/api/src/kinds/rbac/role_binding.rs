//! `RoleBinding`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind::namespaced(GROUP, "v1", "RoleBinding", "rolebindings");
