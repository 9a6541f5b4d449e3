//! `ConfigMap`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { short_names: &["cm"], ..Kind::namespaced(GROUP, "v1", "ConfigMap", "configmaps") };
