//! Deployments, StatefulSets, Jobs and their kin.

use apimachinery::cron::Schedule;
use apimachinery::{Cause, LabelSelector, ObjectExt as _, ranges};
use serde_json::{Value, json};

use super::field::{Field, too_many};
use super::{IMMUTABLE, immutable, not_negative, one_of, pod};

pub fn apps(plural: &str, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if plural == "controllerrevisions" {
        immutable(object, old, &["data"], "data", causes);
        return;
    }
    selector(object, causes);
    let claims: Vec<&str> =
        object.array_at(&["spec", "volumeClaimTemplates"]).iter().map(|c| c.str_at(&["metadata", "name"])).collect();
    template(&object["spec"]["template"], "spec.template", &["Always"], &claims, causes);
    not_negative(object, &["spec", "replicas"], causes);
    not_negative(object, &["spec", "minReadySeconds"], causes);
    immutable(object, old, &["spec", "selector"], "spec.selector", causes);
    match plural {
        "deployments" => {
            let kind = &["spec", "strategy", "type"];
            one_of(object, kind, "spec.strategy.type", &["Recreate", "RollingUpdate"], causes);
            let rolling = &object["spec"]["strategy"]["rollingUpdate"];
            let shares = Field::new(rolling, "spec.strategy.rollingUpdate");
            shares.at("maxUnavailable").share(true, causes);
            shares.at("maxSurge").share(false, causes);
            not_negative(object, &["spec", "revisionHistoryLimit"], causes);
            let deadline = Field::new(object.at(&["spec", "progressDeadlineSeconds"]), "spec.progressDeadlineSeconds");
            let ready = object.i64_at(&["spec", "minReadySeconds"]).unwrap_or(0);
            if deadline.value.as_i64().is_some_and(|n| n <= ready) {
                deadline.invalid("must be greater than minReadySeconds", causes);
            }
            if object.str_at(kind) == "Recreate" && !rolling.is_null() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                causes.push(Cause::forbidden("spec.strategy.rollingUpdate", detail));
            }
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                let field = "spec.strategy.rollingUpdate.maxUnavailable";
                causes.push(Cause::invalid(field, &rolling["maxUnavailable"], detail));
            }
        }
        "statefulsets" => stateful_set(object, old, causes),
        "daemonsets" => {
            let strategy = Field::new(object.at(&["spec", "updateStrategy"]), "spec.updateStrategy");
            strategy.at("type").must_be(&["OnDelete", "RollingUpdate"], causes);
            let rolling = strategy.at("rollingUpdate");
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            unavailable.share(true, causes);
            surge.share(true, causes);
            if rolling.is_set() && is_zero(unavailable.value) && is_zero(surge.value) {
                unavailable.invalid("cannot be 0 when maxSurge is 0", causes);
            }
            if rolling.is_set() && !is_zero(unavailable.value) && surge.is_set() && !is_zero(surge.value) {
                surge.invalid("may not be set when maxUnavailable is non-zero", causes);
            }
        }
        _ => {}
    }
}

/// `v1.PodTemplate`.
pub fn pod_template(object: &Value, causes: &mut Vec<Cause>) {
    let restart = ["Always", "Never", "OnFailure"];
    template(&object["template"], "template", &restart, &[], causes);
}

pub fn replication_controller(object: &Value, causes: &mut Vec<Cause>) {
    not_negative(object, &["spec", "replicas"], causes);
    not_negative(object, &["spec", "minReadySeconds"], causes);
    let selector = Field::new(object.at(&["spec", "selector"]), "spec.selector");
    if selector.require("", causes) {
        let labels = object.at(&["spec", "template", "metadata", "labels"]);
        if selector.entries().any(|(key, value)| labels.get(key) != Some(value.value)) {
            let why = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
        }
    }
    template(&object["spec"]["template"], "spec.template", &["Always"], &[], causes);
}

fn stateful_set(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let policy = &["spec", "podManagementPolicy"];
    one_of(object, policy, "spec.podManagementPolicy", &["OrderedReady", "Parallel"], causes);
    let spec = Field::new(&object["spec"], "spec");
    let strategy = spec.at("updateStrategy");
    strategy.at("type").must_be(&["OnDelete", "RollingUpdate"], causes);
    strategy.at("rollingUpdate").at("partition").not_negative(causes);
    let unavailable = strategy.at("rollingUpdate").at("maxUnavailable");
    unavailable.share(true, causes);
    if unavailable.is_set() && is_zero(unavailable.value) {
        unavailable.invalid("cannot be 0", causes);
    }
    spec.at("ordinals").at("start").not_negative(causes);
    for when in ["whenDeleted", "whenScaled"] {
        spec.at("persistentVolumeClaimRetentionPolicy").at(when).one_of(&["Delete", "Retain"], causes);
    }
    let Some(old) = old else { return };
    let open = ["replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit"];
    let open_too = ["persistentVolumeClaimRetentionPolicy", "minReadySeconds", "selector"];
    let frozen = |o: &Value| {
        let mut spec = o["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|k, _| !open.contains(&k.as_str()) && !open_too.contains(&k.as_str()));
        }
        spec
    };
    if frozen(object) != frozen(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", detail));
    }
}

fn is_zero(value: &Value) -> bool {
    value == 0 || value == "0" || value == "0%"
}

/// The selector must select something, and the template's labels must be among it.
fn selector(object: &Value, causes: &mut Vec<Cause>) {
    let value = &object["spec"]["selector"];
    if value.is_null() {
        causes.push(Cause::required("spec.selector", ""));
        return;
    }
    match LabelSelector::from_json(value) {
        Err(e) => causes.push(Cause::invalid("spec.selector", value, &e.to_string())),
        Ok(s) if s.is_empty() => {
            causes.push(Cause::invalid("spec.selector", value, "empty selector is invalid for deployment"));
        }
        Ok(s) => {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            if !s.matches(|k| labels.get(k).and_then(Value::as_str)) {
                let detail = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", labels, detail));
            }
        }
    }
}

fn template(template: &Value, path: &str, restart: &[&str], claims: &[&str], causes: &mut Vec<Cause>) {
    if template.is_null() {
        causes.push(Cause::required(path, ""));
        return;
    }
    super::meta::labels(&template["metadata"]["labels"], &format!("{path}.metadata.labels"), causes);
    pod::spec(&template["spec"], &format!("{path}.spec"), claims, causes);
    let policy = &template["spec"]["restartPolicy"];
    if !policy.as_str().is_some_and(|p| restart.contains(&p)) {
        causes.push(Cause::not_supported(format!("{path}.spec.restartPolicy"), policy, restart));
    }
}

pub fn batch(plural: &str, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const RESTART: &[&str] = &["OnFailure", "Never"];
    match plural {
        "jobs" => {
            template(&object["spec"]["template"], "spec.template", RESTART, &[], causes);
            for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"] {
                not_negative(object, &["spec", field], causes);
            }
            immutable(object, old, &["spec", "selector"], "spec.selector", causes);
            job(&Field::new(&object["spec"], "spec"), causes);
            immutable(object, old, &["spec", "completionMode"], "spec.completionMode", causes);
            let grows = object["spec"]["completionMode"] == "Indexed"
                && object["spec"]["completions"] == object["spec"]["parallelism"];
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
        "cronjobs" => {
            let (schedule, zone) = (object.str_at(&["spec", "schedule"]), object.str_at(&["spec", "timeZone"]));
            if schedule.is_empty() {
                causes.push(Cause::required("spec.schedule", ""));
            } else if schedule.contains("TZ=") {
                let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                causes.push(Cause::invalid("spec.schedule", &object["spec"]["schedule"], why));
            } else if let Err(why) = Schedule::read(schedule, None) {
                causes.push(Cause::invalid("spec.schedule", &object["spec"]["schedule"], &why));
            } else if let Err(why) = Schedule::read(schedule, Some(zone)) {
                causes.push(Cause::invalid("spec.timeZone", &object["spec"]["timeZone"], &why));
            }
            if object.name().len() > 52 {
                let why = "must be no more than 52 characters";
                causes.push(Cause::invalid("metadata.name", &object["metadata"]["name"], why));
            }
            let job = &object["spec"]["jobTemplate"]["spec"];
            template(&job["template"], "spec.jobTemplate.spec.template", RESTART, &[], causes);
            self::job(&Field::new(job, "spec.jobTemplate.spec"), causes);
            for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
                not_negative(object, &["spec", field], causes);
            }
            let policy = &["spec", "concurrencyPolicy"];
            one_of(object, policy, "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"], causes);
        }
        _ => {}
    }
}

/// What a Job and the template of one have in common.
fn job(spec: &Field<'_>, causes: &mut Vec<Cause>) {
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

fn failure_policy(spec: &Field<'_>, causes: &mut Vec<Cause>) {
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
