//! `Deployment`: ReplicaSets that replace each other.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{GROUP, check_workload, is_zero};
use crate::columns::{AGE, Column, NAME, Printer, age, containers, int, name, number, selector, text, wide};
use crate::defaults::{child, default, default_text, set, spec};
use crate::kinds::pod_template::default_template;
use crate::kinds::{ALL, Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;
use crate::validate::{not_negative, one_of};

pub static KIND: Kind = Kind {
    short_names: &["deploy"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status, Subresource::Scale],
    strategy: Strategy {
        defaults,
        status_keeps: StatusKeeps::LabelsToo,
        validate,
        validate_status: Some(|object, old, causes| {
            let status = status::of(object);
            status::replicas(&status, &["updatedReplicas", "readyReplicas", "availableReplicas"], causes);
            status::counts(&status, &["unavailableReplicas"], causes);
            status::collisions(object, old, causes);
        }),
        printer: Printer { columns: COLUMNS, row },
        pod_template: super::template,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Deployment", "deployments")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_template(spec.get_mut("template"));
    default_own(spec);
    set(object.as_object_mut(), "status", json!({}));
}

fn default_own(spec: &mut Map<String, Value>) {
    default(spec, "replicas", || json!(1));
    default(spec, "revisionHistoryLimit", || json!(10));
    default(spec, "progressDeadlineSeconds", || json!(600));
    default(spec, "strategy", || json!({}));
    let Some(strategy) = child(spec, "strategy") else { return };
    default_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default(strategy, "rollingUpdate", || json!({}));
        if let Some(rolling) = child(strategy, "rollingUpdate") {
            default(rolling, "maxUnavailable", || json!("25%"));
            default(rolling, "maxSurge", || json!("25%"));
        }
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_workload(object, old, &[], causes);
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

const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    number("Up-to-date"),
    number("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    vec![
        name(o),
        format!("{}/{}", int(o, &["status", "readyReplicas"]), int(o, &["spec", "replicas"])).into(),
        json!(int(o, &["status", "updatedReplicas"])),
        json!(int(o, &["status", "availableReplicas"])),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]),
    ]
}
