//! Deployments, StatefulSets, Jobs and their kin.

use apimachinery::cron::Schedule;
use apimachinery::{Cause, LabelSelector, ObjectExt as _};
use serde_json::{Value, json};

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
        _ => {}
    }
}

fn stateful_set(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let policy = &["spec", "podManagementPolicy"];
    one_of(object, policy, "spec.podManagementPolicy", &["OrderedReady", "Parallel"], causes);
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
            let policy = &["spec", "concurrencyPolicy"];
            one_of(object, policy, "spec.concurrencyPolicy", &["Allow", "Forbid", "Replace"], causes);
        }
        _ => {}
    }
}
