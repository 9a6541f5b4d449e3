//! `DaemonSet`: a Pod on each node.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{GROUP, check_workload, is_zero};
use crate::columns::{AGE, Column, NAME, Printer, age, containers, int, name, number, pairs, selector, text, wide};
use crate::defaults::{child, default, default_text, set, spec};
use crate::kinds::pod_template::default_template;
use crate::kinds::{ALL, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["ds"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        validate,
        validate_status: Some(|object, old, causes| {
            status::counts(&status::of(object), COUNTS, causes);
            status::collisions(object, old, causes);
        }),
        printer: Printer { columns: COLUMNS, row },
        pod_template: super::template,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "DaemonSet", "daemonsets")
};

/// The numbers of its status.
const COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_template(spec.get_mut("template"));
    default_own(spec);
    set(
        object.as_object_mut(),
        "status",
        json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0
        }),
    );
}

fn default_own(spec: &mut Map<String, Value>) {
    default(spec, "revisionHistoryLimit", || json!(10));
    default(spec, "updateStrategy", || json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            default(strategy, "rollingUpdate", || json!({}));
            if let Some(rolling) = child(strategy, "rollingUpdate") {
                default(rolling, "maxUnavailable", || json!(1));
                default(rolling, "maxSurge", || json!(0));
            }
        }
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_workload(object, old, &[], causes);
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

const COLUMNS: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    let status = |field: &str| json!(int(o, &["status", field]));
    vec![
        name(o),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        pairs(&o["spec"]["template"]["spec"]["nodeSelector"]),
        age(o, now),
        names,
        images,
        selector(&o["spec"]["selector"]),
    ]
}
