//! `Job`: Pods that run until enough of them succeed.

use apimachinery::{Cause, LabelSelector, ObjectExt as _, clock, names, ranges};
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
        validate_status: Some(super::job_status::validate),
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
    let generated = generated_labels(job);
    let spec = job.child_mut("spec");
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if !template.is_object() {
        return;
    }
    // What the client says stays, and is refused if it isn't this (as of a Job that was exported from elsewhere).
    if let Some(labels) = template.child_mut("metadata").entry("labels").or_insert_with(|| json!({})).as_object_mut() {
        for (key, value) in &generated {
            default(labels, key, || value.as_str().into());
        }
    }
    let [(key, uid), ..] = generated;
    default(spec, "selector", || json!({}));
    if let Some(selector) = child(spec, "selector") {
        default(selector, "matchLabels", || json!({}));
        if let Some(labels) = child(selector, "matchLabels") {
            default(labels, &key, || uid.into());
        }
    }
}

/// The labels of a Job's pods: by its uid and its name, each with the prefix and, for clients of before v1.27, without.
fn generated_labels(job: &Value) -> [(String, String); 4] {
    const PREFIX: &str = "batch.kubernetes.io/";
    let (uid, name) = (job.uid().to_string(), job.name().to_string());
    [
        (format!("{PREFIX}controller-uid"), uid.clone()),
        (format!("{PREFIX}job-name"), name.clone()),
        ("controller-uid".into(), uid),
        ("job-name".into(), name),
    ]
}

/// The selector and labels of a Job that brings none are those that are generated (upstream's `ValidateGeneratedSelector`).
fn check_generated(job: &Value, causes: &mut Causes) {
    let generated = generated_labels(job);
    let labels = job.at(&["spec", "template", "metadata", "labels"]);
    for (key, value) in &generated {
        let path = format!("spec.template.metadata.labels[{key}]");
        let why = format!("must be '{value}'");
        match labels[key.as_str()].as_str() {
            None => causes.push(Cause::required(path, &why)),
            Some(is) if is != value => causes.push(Cause::invalid(path, labels, &why)),
            Some(_) => {}
        }
    }
    let of = |key: &str| generated.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let selector = job.at(&["spec", "selector"]);
    if LabelSelector::from_json(selector).is_ok_and(|s| !s.matches(of)) {
        causes.push(Cause::invalid("spec.selector", selector, "`selector` not auto-generated"));
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_template(&object["spec"]["template"], "spec.template", RESTART_POLICIES, &[], causes);
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"] {
        not_negative(object, &["spec", field], causes);
    }
    if old.is_none() && object["spec"]["manualSelector"] != true {
        check_generated(object, causes);
    }
    let selector = Field::new(object.at(&["spec", "selector"]), "spec.selector");
    if !selector.is_set() {
        causes.push(Cause::required(&selector.path, ""));
    } else if let Some(selector) = selector.selector(causes) {
        let labels = object.at(&["spec", "template", "metadata", "labels"]);
        if !selector.matches(|key| labels[key].as_str()) {
            let why = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
        }
    }
    immutable(object, old, &["spec", "selector"], "spec.selector", causes);
    check_spec(&Field::new(&object["spec"], "spec"), causes);
    hostnames(object, causes);
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
        && frozen(&object["spec"]["template"], old) != frozen(&old["spec"]["template"], old)
    {
        causes.push(Cause::invalid("spec.template", &object["spec"]["template"], IMMUTABLE));
    }
}

/// What of a Job's template can't change: while it is suspended and none of its pods has begun, where its pods may go and what they
/// ask for can (KEP-2926, KEP-5440).
fn frozen(template: &Value, old: &Value) -> Value {
    let mut template = template.clone();
    let waits = old["spec"]["suspend"] == true && old.at(&["status", "startTime"]).is_null();
    if !waits || !template.is_object() {
        return template;
    }
    let metadata = template.child_mut("metadata");
    for field in ["labels", "annotations"] {
        metadata.remove(field);
    }
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        spec.remove(field);
    }
    if let Some(affinity) = child(spec, "affinity") {
        affinity.remove("nodeAffinity");
    }
    if spec.get("affinity").is_some_and(|affinity| affinity.as_object().is_some_and(Map::is_empty)) {
        spec.remove("affinity");
    }
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            container.remove("resources");
        }
    }
    template
}

/// The names of an indexed Job's pods must be host names.
fn hostnames(job: &Value, causes: &mut Causes) {
    let completions = job.i64_at(&["spec", "completions"]).unwrap_or(0);
    if job["spec"]["completionMode"] != "Indexed" || completions <= 0 {
        return;
    }
    let longest = format!("{}-{}", job.name(), completions - 1);
    if let Err(why) = names::dns1123_label(&longest) {
        let why = format!("will not able to create pod with invalid DNS label: {longest}: {why}");
        causes.push(Cause::invalid("metadata.name", &json!(job.name()), &why));
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
    let most = spec.at("maxFailedIndexes");
    if most.value.as_i64().zip(spec.at("completions").value.as_i64()).is_some_and(|(most, all)| most > all) {
        most.invalid("must be less than or equal to completions", causes);
    }
    managed_by(&spec.at("managedBy"), causes);
    if spec.at("maxFailedIndexes").is_set() && !spec.at("backoffLimitPerIndex").is_set() {
        let why = "when maxFailedIndexes is specified";
        causes.push(Cause::required(spec.at("backoffLimitPerIndex").path, why));
    }
    failure_policy(spec, causes);
    success_policy(&spec.at("successPolicy"), indexed, causes);
}

/// The controller that the Job is left to (KEP-4368).
fn managed_by(manager: &Field<'_>, causes: &mut Causes) {
    if !manager.is_set() {
        return;
    }
    let is_path = manager.text().split_once('/').is_some_and(|(domain, path)| {
        names::dns1123_subdomain(domain).is_ok() && !path.is_empty() && !path.contains(' ')
    });
    if !is_path {
        manager.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")", causes);
    } else if manager.text().len() > 63 {
        let message = "Too long: may not be more than 63 bytes".to_string();
        causes.push(Cause { reason: "FieldValueTooLong", field: manager.path.clone(), message });
    }
}

/// When an indexed Job has succeeded (KEP-3998).
fn success_policy(success: &Field<'_>, indexed: bool, causes: &mut Causes) {
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
        let told = |why: &str| Cause {
            reason: "FieldValueInvalid",
            field: rule.path.clone(),
            message: format!("Invalid value: {why}"),
        };
        match (codes.is_set(), conditions.is_empty()) {
            (false, true) => causes.push(told("specifying one of OnExitCodes and OnPodConditions is required")),
            (true, false) => causes.push(told("specifying both OnExitCodes and OnPodConditions is not supported")),
            _ => {}
        }
        if codes.is_set() {
            exit_codes(&codes, &spec.at("template").at("spec"), causes);
        }
        too_many(&conditions, 20, causes);
        for condition in conditions.items() {
            if condition.at("type").require("", causes) {
                condition.at("type").is(names::qualified_name, causes);
            }
            condition.at("status").must_be(&["False", "True", "Unknown"], causes);
        }
    }
}

/// The exit codes of a rule about failures, and whose they are.
fn exit_codes(codes: &Field<'_>, pod: &Field<'_>, causes: &mut Causes) {
    let (name, operator, values) = (codes.at("containerName"), codes.at("operator"), codes.at("values"));
    let is_there = |list: &str| pod.at(list).items().any(|c| c.at("name").text() == name.text());
    if name.is_set() && !["containers", "initContainers"].iter().any(|list| is_there(list)) {
        let why = "must be one of the container or initContainer names in the pod template";
        name.invalid(why, causes);
    }
    operator.must_be(&["In", "NotIn"], causes);
    if !values.is_set() || values.is_empty() {
        values.invalid("at least one value is required", causes);
    }
    too_many(&values, 255, causes);
    let mut before = None;
    for value in values.items() {
        let Some(code) = value.value.as_i64() else { continue };
        if operator.text() == "In" && code == 0 {
            value.invalid("must not be 0 for the In operator", causes);
        }
        if before == Some(code) {
            causes.push(Cause::duplicate(&value.path, value.value));
        } else if before.is_some_and(|before| code < before) {
            values.invalid("must be ordered", causes);
        }
        before = Some(code);
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
