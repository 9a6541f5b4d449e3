//! `StatefulSet`: Pods with names and claims of their own.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{GROUP, check_workload, is_zero};
use crate::columns::{AGE, NAME, Printer, age, containers, int, name, text, wide};
use crate::defaults::{child, default, default_text, items, set, spec};
use crate::kinds::persistent_volume_claim;
use crate::kinds::pod_template::default_template;
use crate::kinds::{ALL, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::one_of;
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["sts"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status, Subresource::Scale],
    strategy: Strategy {
        defaults,
        validate,
        validate_status: Some(|object, _, causes| {
            let counts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
            status::replicas(&status::of(object), &counts, causes);
        }),
        printer: Printer { columns: &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")], row },
        pod_template: super::template,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "StatefulSet", "statefulsets")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_template(spec.get_mut("template"));
    default_own(spec);
    set(object.as_object_mut(), "status", json!({"replicas": 0, "availableReplicas": 0}));
}

fn default_own(spec: &mut Map<String, Value>) {
    default(spec, "replicas", || json!(1));
    default(spec, "revisionHistoryLimit", || json!(10));
    default_text(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "persistentVolumeClaimRetentionPolicy", || json!({}));
    if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    default(spec, "updateStrategy", || json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        if strategy.get("type").is_none_or(|kind| kind == "") {
            default(strategy, "rollingUpdate", || json!({}));
        }
        default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            default(rolling, "partition", || json!(0));
            default(rolling, "maxUnavailable", || json!(1));
        }
    }
    for claim in items(spec, "volumeClaimTemplates") {
        default(claim, "kind", || json!("PersistentVolumeClaim"));
        default(claim, "apiVersion", || json!("v1"));
        default(claim, "status", || json!({"phase": "Pending"}));
        if let Some(claim_spec) = child(claim, "spec") {
            persistent_volume_claim::default_spec(claim_spec);
        }
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let claims: Vec<&str> =
        object.array_at(&["spec", "volumeClaimTemplates"]).iter().map(|c| c.str_at(&["metadata", "name"])).collect();
    check_workload(object, old, &claims, causes);
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
    let open_too = ["persistentVolumeClaimRetentionPolicy", "minReadySeconds"];
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

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    let ready = format!("{}/{}", int(o, &["status", "readyReplicas"]), int(o, &["spec", "replicas"]));
    vec![name(o), ready.into(), age(o, now), names, images]
}
