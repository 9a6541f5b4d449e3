//! `VolumeAttributesClass`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind =
    Kind { short_names: &["vac"], ..Kind::cluster(GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses") };
