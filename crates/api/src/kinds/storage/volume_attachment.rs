//! `VolumeAttachment`: a volume that a node has or should have.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, boolean, name, text};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        printer: Printer { columns: COLUMNS, row },
        status_keeps: StatusKeeps::LabelsAndAnnotationsToo,
        validate,
        ..Strategy::PLAIN
    },
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

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        o.str_at(&["spec", "attacher"]).into(),
        o.str_at(&["spec", "source", "persistentVolumeName"]).into(),
        o.str_at(&["spec", "nodeName"]).into(),
        json!(o["status"]["attached"] == true),
        age(o, now),
    ]
}

const COLUMNS: &[Column] = &[NAME, text("Attacher"), text("PV"), text("Node"), boolean("Attached"), AGE];
