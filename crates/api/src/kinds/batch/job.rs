//! `Job`: Pods that run until enough of them succeed.

use apimachinery::{Cause, ObjectExt as _, clock, ranges};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{GROUP, RESTART_POLICIES};
use crate::columns::{AGE, Column, NAME, Printer, age, containers, int, name, selector, text, wide};
use crate::defaults::{child, default, default_text, items, set, spec};
use crate::kinds::pod_template::{check_template, default_template};
use crate::kinds::replication_controller::label_as_pods;
use crate::kinds::{ALL, Absent, Deletion, Dependents, Kind, SelectedField, Strategy, Subresource};
use crate::validate::field::{Causes, Field, too_many};
use crate::validate::{IMMUTABLE, immutable, not_negative};

pub static KIND: Kind = Kind {
    categories: ALL,
    has_generation: true,
    selectable: &["status.successful"],
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        prepare_create: label_as_pods,
        generate: select_own_pods,
        validate,
        printer: Printer { columns: COLUMNS, row },
        pod_template: |object| object.at(&["spec", "template"]),
        deletion: Deletion { dependents: Dependents::Orphaned(Some(ORPHANS)), ..Deletion::PLAIN },
        selected: &[SelectedField::new("status.successful", "status.succeeded", Absent::Is("0"))],
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Job", "jobs")
};

/// What upstream says to who deletes a job and doesn't say what becomes of its pods.
const ORPHANS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                       remove them or set propagationPolicy=Orphan to suppress this warning";

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_spec(spec);
    set(object.as_object_mut(), "status", json!({}));
}

fn default_spec(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        default(spec, "completions", || json!(1));
    }
    default(spec, "parallelism", || json!(1));
    let per_index = spec.contains_key("backoffLimitPerIndex");
    default(spec, "backoffLimit", || json!(if per_index { i64::from(i32::MAX) } else { 6 }));
    default(spec, "completionMode", || json!("NonIndexed"));
    default(spec, "suspend", || json!(false));
    default(spec, "manualSelector", || json!(false));
    for rule in child(spec, "podFailurePolicy").into_iter().flat_map(|policy| items(policy, "rules")) {
        for condition in items(rule, "onPodConditions") {
            default_text(condition, "status", "True");
        }
    }
    let policy = spec.contains_key("podFailurePolicy");
    default(spec, "podReplacementPolicy", || json!(if policy { "Failed" } else { "TerminatingOrFailed" }));
    default_template(spec.get_mut("template"));
}

/// A Job finds its pods by its uid, unless it says that it brings its own selector.
fn select_own_pods(job: &mut Value) {
    if job.at(&["spec", "manualSelector"]) == &Value::Bool(true) {
        return;
    }
    let (uid, name) = (job.uid().to_string(), job.name().to_string());
    let spec = job.child_mut("spec");
    spec.insert("selector".into(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if !template.is_object() {
        return;
    }
    let metadata = template.child_mut("metadata");
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    for (key, value) in [("controller-uid", &uid), ("job-name", &name)] {
        labels[format!("batch.kubernetes.io/{key}")] = value.as_str().into();
        labels[key] = value.as_str().into();
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_template(&object["spec"]["template"], "spec.template", RESTART_POLICIES, &[], causes);
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"] {
        not_negative(object, &["spec", field], causes);
    }
    immutable(object, old, &["spec", "selector"], "spec.selector", causes);
    check_spec(&Field::new(&object["spec"], "spec"), causes);
    immutable(object, old, &["spec", "completionMode"], "spec.completionMode", causes);
    let grows =
        object["spec"]["completionMode"] == "Indexed" && object["spec"]["completions"] == object["spec"]["parallelism"];
    if !grows {
        immutable(object, old, &["spec", "completions"], "spec.completions", causes);
    }
    for field in ["podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy"] {
        immutable(object, old, &["spec", field], &format!("spec.{field}"), causes);
    }
    if let Some(old) = old
        && old["spec"]["template"] != object["spec"]["template"]
        && old["spec"]["suspend"] != true
    {
        causes.push(Cause::invalid("spec.template", &json!({}), IMMUTABLE));
    }
}

/// What a Job and the template of one have in common.
pub(super) fn check_spec(spec: &Field<'_>, causes: &mut Causes) {
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        // A Job's own are looked at by its caller, with the rest of its numbers.
        if field == "ttlSecondsAfterFinished" || spec.path != "spec" {
            spec.at(field).not_negative(causes);
        }
    }
    spec.at("completionMode").one_of(&["Indexed", "NonIndexed"], causes);
    spec.at("podReplacementPolicy").one_of(&["Failed", "TerminatingOrFailed"], causes);
    let indexed = spec.at("completionMode").text() == "Indexed";
    if indexed {
        let completions = spec.at("completions");
        if !completions.is_set() {
            causes.push(Cause::required(completions.path, "when completion mode is Indexed"));
        }
        if spec.at("parallelism").value.as_i64().is_some_and(|n| n > 100_000) {
            let why = "must be less than or equal to 100000 when completion mode is Indexed";
            spec.at("parallelism").invalid(why, causes);
        }
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        spec.at(field).not_negative(causes);
    }
    if spec.at("backoffLimitPerIndex").is_set() && !indexed {
        spec.at("backoffLimitPerIndex").invalid("requires indexed completion mode", causes);
    }
    if spec.at("maxFailedIndexes").is_set() && !spec.at("backoffLimitPerIndex").is_set() {
        let why = "when maxFailedIndexes is specified";
        causes.push(Cause::required(spec.at("backoffLimitPerIndex").path, why));
    }
    failure_policy(spec, causes);
    let success = spec.at("successPolicy");
    if !success.is_set() {
        return;
    }
    if !indexed {
        success.invalid("requires indexed completion mode", causes);
    }
    success.at("rules").require("at least one rules must be specified when the successPolicy is specified", causes);
    too_many(&success.at("rules"), 20, causes);
    for rule in success.at("rules").items() {
        let (count, indexes) = (rule.at("succeededCount"), rule.at("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            causes.push(Cause::required(
                &rule.path,
                "at least one of succeededCount or succeededIndexes must be specified",
            ));
        }
        count.positive(causes);
        if indexes.is_set() && ranges::read(indexes.text()).is_none_or(|set| set.is_empty()) {
            indexes
                .invalid("error parsing succeededIndexes: it must be numbers and ranges in order, like 1,3-5", causes);
        }
    }
}

fn failure_policy(spec: &Field<'_>, causes: &mut Causes) {
    let policy = spec.at("podFailurePolicy");
    if policy.is_set() && spec.at("template").at("spec").at("restartPolicy").text() != "Never" {
        let restart = spec.at("template").at("spec").at("restartPolicy");
        restart.invalid("only \"Never\" is supported when podFailurePolicy is specified", causes);
    }
    too_many(&policy.at("rules"), 20, causes);
    for rule in policy.at("rules").items() {
        rule.at("action").must_be(&["Count", "FailIndex", "FailJob", "Ignore"], causes);
        if rule.at("action").text() == "FailIndex" && !spec.at("backoffLimitPerIndex").is_set() {
            rule.at("action").invalid("requires the backoffLimitPerIndex to be set", causes);
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
        if codes.is_set() != conditions.is_empty() {
            rule.invalid("specifying one of OnExitCodes and OnPodConditions is required", causes);
        }
        if codes.is_set() {
            codes.at("operator").must_be(&["In", "NotIn"], causes);
            codes.at("values").require("at least one value is required", causes);
            let zero = codes.at("values").items().any(|v| *v.value == 0);
            if codes.at("operator").text() == "In" && zero {
                codes.at("values").invalid("must not be 0 for the In operator", causes);
            }
        }
        for condition in conditions.items() {
            condition.at("type").require("", causes);
            condition.at("status").one_of(&["False", "True", "Unknown"], causes);
        }
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let done = int(o, &["status", "succeeded"]);
    let completions = match o.i64_at(&["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None => match int(o, &["spec", "parallelism"]) {
            n if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        },
    };
    let start = o.str_at(&["status", "startTime"]);
    let end = o.str_at(&["status", "completionTime"]).parse().unwrap_or(now);
    let duration = if start.is_empty() { String::new() } else { clock::age(start, end) };
    let is =
        |kind: &str| o.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.is_deleting() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let (names, images) = containers(&o["spec"]["template"]);
    let chosen = selector(&o["spec"]["selector"]);
    vec![name(o), status.into(), completions.into(), duration.into(), age(o, now), names, images, chosen]
}
