//! `CSIDriver`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind::cluster(GROUP, "v1", "CSIDriver", "csidrivers");
