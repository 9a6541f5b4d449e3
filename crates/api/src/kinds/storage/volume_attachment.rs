//! `VolumeAttachment`: a volume that a node has or should have.

use serde_json::Value;

use super::GROUP;
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy { status_keeps: StatusKeeps::LabelsAndAnnotationsToo, validate, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "VolumeAttachment", "volumeattachments")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("attacher").require("", causes);
    spec.at("nodeName").require("", causes);
    spec.at("source").one_member(&["persistentVolumeName", "inlineVolumeSpec"], "source", causes);
    spec.immutable(old, causes);
}
