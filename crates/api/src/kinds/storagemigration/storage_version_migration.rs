//! `StorageVersionMigration`: all objects of a resource are to be written once more, in the version that they are kept in now (KEP-4192).

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{NAME, Printer, name, text};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        status_keeps: StatusKeeps::All,
        validate,
        validate_status: Some(validate_status),
        printer: Printer { columns: &[NAME, text("Resource"), text("Status")], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "StorageVersionMigration", "storageversionmigrations")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let of = spec.at("resource");
    if of.at("resource").require("resource is required to be set", causes) {
        of.at("resource").is(names::dns1035_label, causes);
    }
    of.at("group").is(names::dns1123_subdomain, causes);
    spec.immutable(old, causes);
}

fn validate_status(object: &Value, old: &Value, causes: &mut Causes) {
    let (now, before) = (status::of(object), status::of(old));
    let (version, version_before) = (now.at("resourceVersion"), before.at("resourceVersion"));
    if let Some(why) = not_a_version(version.text()) {
        version.invalid(&why, causes);
    }
    let (listed, listed_before) = (now.at("conditions"), before.at("conditions"));
    status::conditions(&listed, causes);
    if !version_before.is_empty() && version_before.text() != version.text() {
        version.invalid("field is immutable", causes);
    }
    let is = |kind: &str| status::is_true(&listed, kind);
    if is("Succeeded") && is("Failed") {
        listed.invalid("Both success and failed conditions cannot be true at the same time", causes);
    }
    if status::is_true(&listed_before, "Succeeded") && !is("Succeeded") {
        listed.invalid("Success condition cannot be set to false once it is true", causes);
    }
    if status::is_true(&listed_before, "Failed") && !is("Failed") {
        listed.invalid("Failed condition cannot be set to false once it is true", causes);
    }
}

/// Versions of objects are compared as numbers (KEP-5504): digits without a leading zero, of which there may be more than fit a word.
fn not_a_version(text: &str) -> Option<String> {
    let wrong = !text.is_empty() && (text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()));
    wrong.then(|| format!("resource version is not well formed: {text}"))
}

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    let of = o.at(&["spec", "resource"]);
    let resource = match of.str_at(&["group"]) {
        "" => of.str_at(&["resource"]).to_string(),
        group => format!("{}.{group}", of.str_at(&["resource"])),
    };
    let conditions = o.array_at(&["status", "conditions"]).iter();
    let state = conditions
        .filter(|c| c.at(&["status"]) == "True")
        .map(|c| c.str_at(&["type"]))
        .rfind(|kind| matches!(*kind, "Running" | "Succeeded" | "Failed"));
    vec![name(o), resource.into(), state.unwrap_or("Unknown").into()]
}
