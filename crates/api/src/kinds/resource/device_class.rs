//! `DeviceClass`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind { has_generation: true, ..Kind::cluster(GROUP, "v1", "DeviceClass", "deviceclasses") };
