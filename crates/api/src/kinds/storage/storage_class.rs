//! `StorageClass`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { short_names: &["sc"], ..Kind::cluster(GROUP, "v1", "StorageClass", "storageclasses") };
