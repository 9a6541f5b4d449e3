//! What the status of a `Job` may say. Jobs may be managed by others (`managedBy`, KEP-4368), so what their controllers write is checked:
//! a rule holds for a write that changes what the rule is about, so that an older status doesn't stop other writes.

use std::collections::BTreeSet;

use apimachinery::{Cause, ObjectExt as _, ranges};
use jiff::Timestamp;
use serde_json::Value;

use crate::validate::field::{Causes, Field};
use crate::validate::status;

fn is(job: &Value, condition: &str) -> bool {
    let conditions = job.array_at(&["status", "conditions"]);
    conditions.iter().any(|c| c["type"] == condition && c["status"] == "True")
}

fn is_finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

pub fn validate(job: &Value, old: &Value, causes: &mut Causes) {
    let status = status::of(job);
    status::counts(&status, &["active", "succeeded", "failed", "ready", "terminating"], causes);
    uncounted(&status, causes);
    conditions(job, old, causes);
    ended(job, old, &status, causes);
    times(job, old, &status, causes);
    indexes(job, old, &status, causes);
    let count = |job: &Value, field: &str| job.i64_at(&["status", field]).unwrap_or(0);
    // A Job whose completions follow its parallelism can be made smaller.
    let elastic =
        job["spec"]["completionMode"] == "Indexed" && job["spec"]["completions"] == job["spec"]["parallelism"];
    for field in ["failed", "succeeded"] {
        if count(job, field) < count(old, field) && !(elastic && field == "succeeded") {
            status.at(field).invalid(&format!("cannot decrease the {field} counter"), causes);
        }
    }
    if changes(job, old, &["ready", "active"]) && count(job, "ready") > count(job, "active") {
        status.at("ready").invalid("cannot set more ready pods than active", causes);
    }
}

/// Whether one of these fields of the status is another than before.
fn changes(job: &Value, old: &Value, fields: &[&str]) -> bool {
    fields.iter().any(|field| job["status"][*field] != old["status"][*field])
}

/// The uids of pods that are being counted: each once.
fn uncounted(status: &Field<'_>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        for uid in status.at("uncountedTerminatedPods").at(list).items() {
            if uid.is_empty() {
                uid.invalid("must not be empty", causes);
            } else if !seen.insert(uid.text().to_string()) {
                causes.push(Cause::duplicate(&uid.path, uid.value));
            }
        }
    }
}

fn conditions(job: &Value, old: &Value, causes: &mut Causes) {
    let mut refuse = |why: String| {
        let (field, message) = ("status.conditions".to_string(), format!("Invalid value: {why}"));
        causes.push(Cause { reason: "FieldValueInvalid", field, message });
    };
    let turned = |condition: &str| is(job, condition) != is(old, condition);
    let (complete, failed) = (is(job, "Complete"), is(job, "Failed"));
    let (enough, target) = (is(job, "SuccessCriteriaMet"), is(job, "FailureTarget"));
    for (refused, why) in [
        (
            complete && failed && (turned("Complete") || turned("Failed")),
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && target && (turned("Complete") || turned("FailureTarget")),
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed && !target && (turned("Failed") || changes(job, old, &["failedIndexes"])),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !enough && (turned("Complete") || turned("SuccessCriteriaMet")),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (enough && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (enough && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (is(old, "SuccessCriteriaMet") && !enough, "cannot disable the SuccessCriteriaMet=True condition"),
        (
            is(old, "Complete") && !is(old, "SuccessCriteriaMet") && enough,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ] {
        if refused {
            refuse(why.into());
        }
    }
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(old, condition) && !is(job, condition) {
            refuse(format!("cannot disable the terminal {condition}=True condition"));
        }
    }
}

/// What a Job that has ended has no more.
fn ended(job: &Value, old: &Value, status: &Field<'_>, causes: &mut Causes) {
    if !is_finished(job) {
        return;
    }
    let newly = !is_finished(old);
    for field in ["active", "terminating"] {
        if status.at(field).value.as_i64().is_some_and(|n| n > 0) && (newly || changes(job, old, &[field])) {
            status.at(field).invalid(&format!("{field}>0 is invalid for finished job"), causes);
        }
    }
    let uncounted = status.at("uncountedTerminatedPods");
    let is_open = ["succeeded", "failed"].iter().any(|list| !uncounted.at(list).is_empty());
    if is_open && (newly || changes(job, old, &["uncountedTerminatedPods"])) {
        uncounted.invalid("uncountedTerminatedPods needs to be empty for finished job", causes);
    }
    let never_began = job["spec"]["suspend"] == true && job["spec"]["completions"] == 0;
    if !status.at("startTime").is_set() && (newly || changes(job, old, &["startTime"])) && !never_began {
        causes.push(Cause::required("status.startTime", "startTime is required for finished job"));
    }
}

fn times(job: &Value, old: &Value, status: &Field<'_>, causes: &mut Causes) {
    let (start, end) = (status.at("startTime"), status.at("completionTime"));
    let time = |field: &Field<'_>| field.text().parse::<Timestamp>().ok();
    let complete = is(job, "Complete");
    if complete != is(old, "Complete") || changes(job, old, &["completionTime"]) {
        match (complete, end.is_set()) {
            (false, true) => {
                end.invalid("cannot set completionTime when there is no Complete=True condition", causes);
            }
            (true, false) => {
                causes.push(Cause::required(&end.path, "completionTime is required for Complete jobs"));
            }
            _ => {}
        }
    }
    if changes(job, old, &["startTime", "completionTime"])
        && time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start)
    {
        end.invalid("completionTime cannot be set before startTime", causes);
    }
    let before = |field: &str| !old["status"][field].is_null() && changes(job, old, &[field]);
    if end.is_set() && before("completionTime") {
        end.invalid("completionTime cannot be mutated", causes);
    }
    if before("startTime") && job["spec"]["suspend"] != true {
        causes.push(Cause::required(&start.path, "startTime cannot be removed for unsuspended job"));
    }
}

fn indexes(job: &Value, old: &Value, status: &Field<'_>, causes: &mut Causes) {
    let (completed, failed) = (status.at("completedIndexes"), status.at("failedIndexes"));
    let (of_completed, of_failed) = (changes(job, old, &["completedIndexes"]), changes(job, old, &["failedIndexes"]));
    let total = job.i64_at(&["spec", "completions"]);
    let read = |field: &Field<'_>| {
        let set = ranges::read(field.text())?;
        set.iter().all(|i| (0..total.unwrap_or(0)).contains(&i64::from(*i))).then_some(set)
    };
    let per_index = !job["spec"]["backoffLimitPerIndex"].is_null();
    for (field, changed, counts) in [(&completed, of_completed, true), (&failed, of_failed, per_index)] {
        if changed && total.is_some() && counts && field.is_set() && read(field).is_none() {
            let name = field.path.trim_start_matches("status.");
            let why = format!("error parsing {name}: they must be numbers and ranges in order, below the completions");
            field.invalid(&why, causes);
        }
    }
    if of_completed && !completed.is_empty() && job["spec"]["completionMode"] != "Indexed" {
        completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode", causes);
    }
    if of_failed && failed.is_set() && !per_index {
        failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null", causes);
    }
    if of_completed || of_failed {
        let both = read(&completed).zip(read(&failed)).and_then(|(a, b)| a.intersection(&b).next().copied());
        if let Some(index) = both {
            failed.invalid(&format!("failedIndexes and completedIndexes overlap on index: {index}"), causes);
        }
    }
}
