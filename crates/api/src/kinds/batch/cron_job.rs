//! `CronJob`: Jobs by a schedule.

use apimachinery::cron::{self, Schedule};
use apimachinery::{Cause, ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{GROUP, RESTART_POLICIES, job};
use crate::columns::{AGE, Column, NAME, Printer, age, containers, name, number, or_none, selector, text, wide};
use crate::defaults::{child, default, default_text, set, spec};
use crate::kinds::pod_template::{check_template, default_template};
use crate::kinds::{ALL, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::{not_negative, one_of};

pub static KIND: Kind = Kind {
    short_names: &["cj"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        validate,
        printer: Printer { columns: COLUMNS, row },
        pod_template: |object| object.at(&["spec", "jobTemplate", "spec", "template"]),
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "CronJob", "cronjobs")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", || json!(false));
    default(spec, "successfulJobsHistoryLimit", || json!(3));
    default(spec, "failedJobsHistoryLimit", || json!(1));
    if let Some(template_spec) = child(spec, "jobTemplate").and_then(|t| child(t, "spec")) {
        default_template(template_spec.get_mut("template"));
    }
    set(object.as_object_mut(), "status", json!({}));
}

fn check_schedule(schedule: &str, causes: &mut Causes) {
    let mut invalid = |why: &str| causes.push(Cause::invalid("spec.schedule", &json!(schedule), why));
    let is_zoned = schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=");
    let plain = if is_zoned { schedule.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { schedule };
    if let Err(why) = Schedule::read(plain, None) {
        invalid(&why);
    }
    if schedule.contains("TZ") {
        invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn check_zone(zone: &Value, causes: &mut Causes) {
    let Some(name) = zone.as_str() else { return };
    let mut invalid = |why: &str| causes.push(Cause::invalid("spec.timeZone", zone, why));
    if name.is_empty() {
        return invalid("timeZone must be nil or non-empty string");
    }
    // What it is depends on the machine.
    if name.eq_ignore_ascii_case("local") {
        invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    if name != "Local"
        && let Err(why) = cron::time_zone(name)
    {
        invalid(&why);
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &object["spec"];
    match object.str_at(&["spec", "schedule"]) {
        "" => causes.push(Cause::required("spec.schedule", "")),
        schedule => check_schedule(schedule, causes),
    }
    // A zone that the database had when it was written stays.
    if old.is_none_or(|old| old["spec"]["timeZone"] != spec["timeZone"]) {
        check_zone(&spec["timeZone"], causes);
    }
    // The controller appends a dash and ten digits.
    if old.is_none() && object.name().len() > 52 {
        let why = "must be no more than 52 characters";
        causes.push(Cause::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    let job = &object["spec"]["jobTemplate"]["spec"];
    check_template(&job["template"], "spec.jobTemplate.spec.template", RESTART_POLICIES, &[], causes);
    let of = Field::new(job, "spec.jobTemplate.spec");
    job::check_spec(&of, causes);
    if of.at("selector").is_set() {
        of.at("selector").invalid("`selector` will be auto-generated", causes);
    }
    if of.at("manualSelector").value == true {
        let selector = of.at("manualSelector");
        causes.push(Cause::not_supported(&selector.path, selector.value, &["nil", "false"]));
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(object, &["spec", field], causes);
    }
    let policy = &["spec", "concurrencyPolicy"];
    one_of(object, policy, "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"], causes);
}

const COLUMNS: &[Column] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    text("Suspend"),
    number("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let job = &o["spec"]["jobTemplate"]["spec"];
    let (names, images) = containers(&job["template"]);
    let last = o.str_at(&["status", "lastScheduleTime"]);
    let suspended = if o["spec"]["suspend"] == true { "True" } else { "False" };
    vec![
        name(o),
        o.str_at(&["spec", "schedule"]).into(),
        or_none(o.str_at(&["spec", "timeZone"])),
        suspended.into(),
        json!(o.array_at(&["status", "active"]).len()),
        if last.is_empty() { or_none("") } else { clock::age(last, now).into() },
        age(o, now),
        names,
        images,
        selector(&job["selector"]),
    ]
}
