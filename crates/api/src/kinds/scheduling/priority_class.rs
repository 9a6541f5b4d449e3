//! `PriorityClass`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { short_names: &["pc"], ..Kind::cluster(GROUP, "v1", "PriorityClass", "priorityclasses") };
