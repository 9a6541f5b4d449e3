//! `DeviceTaintRule`: a taint for all devices that it selects (KEP-5055).

use apimachinery::{Cause, ObjectExt as _, clock, names};
use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, default_taint};
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::defaults::{child, spec};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource, Target};
use crate::validate::field::{Causes, Field, too_long, too_many};
use crate::validate::status;

const MAX_CONDITIONS: usize = 8;
const MAX_DRIVER_LENGTH: usize = 63;
const MAX_POOL_LENGTH: usize = 253;

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        status_keeps: StatusKeeps::All,
        defaults: |object| {
            if let Some(taint) = spec(object).and_then(|spec| child(spec, "taint")) {
                default_taint(taint);
            }
        },
        prepare_update,
        validate,
        validate_status: Some(|object, _, causes| {
            let conditions = status::of(object).at("conditions");
            status::conditions(&conditions, causes);
            too_many(&conditions, MAX_CONDITIONS, causes);
        }),
        printer: Printer { columns: &[NAME, text("Key"), text("Value"), text("Effect"), text("TimeAdded"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "DeviceTaintRule", "devicetaintrules")
};

/// With another effect the taint is a new one, unless the client says since when it is there: tolerations count from then.
fn prepare_update(object: &mut Value, old: &Value, target: Target) {
    const TAINT: [&str; 2] = ["spec", "taint"];
    let (now, before) = (object.at(&TAINT), old.at(&TAINT));
    let changed = now["effect"] != before["effect"] && now["timeAdded"] == before["timeAdded"];
    if target == Target::Main
        && changed
        && let Some(taint) = spec(object).and_then(|spec| child(spec, "taint"))
    {
        taint.insert("timeAdded".into(), clock::now_rfc3339().into());
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = Field::root(object);
    let (selector, taint) = (root.at("spec").at("deviceSelector"), root.at("spec").at("taint"));
    if selector.at("driver").is_set() {
        driver_name(&selector.at("driver"), causes);
    }
    if selector.at("pool").is_set() {
        pool_name(&selector.at("pool"), causes);
    }
    selector.at("device").is_if_said(names::dns1123_label, causes);
    let key = taint.at("key");
    if let Err(why) = names::qualified_name(key.text()) {
        causes.push(Cause::invalid(&key.path, &key.text().into(), &why));
    }
    taint.at("value").is(names::label_value, causes);
    if old.is_none_or(|old| old.at(&["spec", "taint", "effect"]) != taint.at("effect").value) {
        taint.at("effect").must_be(&["NoExecute", "NoSchedule", "None"], causes);
    }
}

fn driver_name(field: &Field<'_>, causes: &mut Causes) {
    if !field.require("", causes) {
        return;
    }
    if field.text().len() > MAX_DRIVER_LENGTH {
        causes.push(too_long(&field.path, MAX_DRIVER_LENGTH));
    }
    field.is(names::dns1123_subdomain, causes);
}

/// Names of pools are paths of subdomains.
fn pool_name(field: &Field<'_>, causes: &mut Causes) {
    if !field.require("", causes) {
        return;
    }
    if field.text().len() > MAX_POOL_LENGTH {
        causes.push(too_long(&field.path, MAX_POOL_LENGTH));
    }
    for part in field.text().split('/') {
        if let Err(why) = names::dns1123_subdomain(part) {
            causes.push(Cause::invalid(&field.path, &part.into(), &why));
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = |field: &str| o.str_at(&["spec", "taint", field]);
    let added = of("timeAdded");
    let added = if added.is_empty() { String::new() } else { clock::age(added, now) };
    vec![name(o), of("key").into(), of("value").into(), of("effect").into(), added.into(), age(o, now)]
}
