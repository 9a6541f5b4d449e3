//! `VolumeAttachment`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    ..Kind::cluster(GROUP, "v1", "VolumeAttachment", "volumeattachments")
};
