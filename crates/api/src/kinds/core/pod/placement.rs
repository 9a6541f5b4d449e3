//! Where a pod may run: affinity, tolerations, spreading, gates.

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Map, Value, json};

use crate::defaults::{child, items};
use crate::validate::field::{Causes, Field};
use crate::validate::meta;

pub fn check(spec: &Field<'_>, causes: &mut Causes) {
    meta::labels(spec.at("nodeSelector").value, &spec.at("nodeSelector").path, causes);
    node_affinity(&spec.at("affinity").at("nodeAffinity"), causes);
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&spec.at("affinity").at(kind), causes);
    }
    for toleration in spec.at("tolerations").items() {
        tolerate(&toleration, causes);
    }
    spread(&spec.at("topologySpreadConstraints"), causes);
    spec.at("schedulingGates").unique("name", causes);
    for gate in spec.at("schedulingGates").items() {
        if gate.at("name").require("", causes) {
            gate.at("name").is(names::qualified_name, causes);
        }
    }
    for gate in spec.at("readinessGates").items() {
        if gate.at("conditionType").require("", causes) {
            gate.at("conditionType").is(names::qualified_name, causes);
        }
    }
}

/// Writes into the selectors of a new pod what the keys of its own labels say (`matchLabelKeys`, KEP-3633, KEP-3243): so a set of
/// pods is told from others of its kind.
pub fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).clone();
    let spec = pod.child_mut("spec");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = child(spec, "affinity").and_then(|a| child(a, kind)) else { continue };
        for term in items(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_keys(term, &labels);
        }
        for preferred in items(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = child(preferred, "podAffinityTerm") {
                merge_keys(term, &labels);
            }
        }
    }
    for constraint in items(spec, "topologySpreadConstraints") {
        merge_keys(constraint, &labels);
    }
}

fn merge_keys(term: &mut Map<String, Value>, labels: &Value) {
    let keys = |list: &str| -> Vec<String> {
        term.get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(String::from)
            .collect()
    };
    let wanted = [("In", keys("matchLabelKeys")), ("NotIn", keys("mismatchLabelKeys"))];
    // What has no selector selects nothing.
    let Some(selector) = child(term, "labelSelector") else { return };
    for (operator, keys) in wanted {
        for (key, value) in keys.iter().filter_map(|key| Some((key, labels.get(key)?))) {
            let requirement = json!({"key": key, "operator": operator, "values": [value]});
            if let Some(list) = selector.entry("matchExpressions").or_insert_with(|| json!([])).as_array_mut()
                && !list.contains(&requirement)
            {
                list.push(requirement);
            }
        }
    }
}

/// What `matchLabelKeys` and `mismatchLabelKeys` of a term may name.
fn label_keys(term: &Field<'_>, causes: &mut Causes) {
    let (matching, other) = (term.at("matchLabelKeys"), term.at("mismatchLabelKeys"));
    for list in [&matching, &other] {
        if !list.is_empty() && !term.at("labelSelector").is_set() {
            list.forbid("must not be specified when labelSelector is not set", causes);
        }
        for key in list.items() {
            key.is_if_said(names::qualified_name, causes);
        }
    }
    for key in matching.items().filter(|key| other.texts().contains(&key.text())) {
        key.invalid("exists in both matchLabelKeys and mismatchLabelKeys", causes);
    }
}

fn node_affinity(affinity: &Field<'_>, causes: &mut Causes) {
    let required = affinity.at("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, causes);
    }
    for preferred in affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred, causes);
        node_term(&preferred.at("preference"), causes);
    }
}

/// `v1.NodeSelector`.
pub fn node_selector(selector: &Field<'_>, causes: &mut Causes) {
    let terms = selector.at("nodeSelectorTerms");
    if terms.require("must have at least one node selector term", causes) {
        for term in terms.items() {
            node_term(&term, causes);
        }
    }
}

fn weight(of: &Field<'_>, causes: &mut Causes) {
    if !of.at("weight").value.as_i64().is_some_and(|w| (1..=100).contains(&w)) {
        of.at("weight").invalid("must be in the range 1-100", causes);
    }
}

fn node_term(term: &Field<'_>, causes: &mut Causes) {
    for expression in term.at("matchExpressions").items() {
        expression.at("key").is(names::qualified_name, causes);
        requirement(&expression, causes);
    }
    for field in term.at("matchFields").items() {
        if field.at("key").text() != "metadata.name" {
            field.at("key").invalid("not a valid field selector key", causes);
        }
        match field.at("operator").text() {
            "In" | "NotIn" if field.at("values").value.as_array().map_or(0, Vec::len) == 1 => {}
            "In" | "NotIn" => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                causes.push(Cause::required(field.at("values").path, why));
            }
            _ => field.at("operator").invalid("not a valid selector operator", causes),
        }
    }
}

fn requirement(of: &Field<'_>, causes: &mut Causes) {
    let values = of.at("values");
    match of.at("operator").text() {
        "In" | "NotIn" => {
            values.require("must be specified when `operator` is 'In' or 'NotIn'", causes);
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                values.forbid("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", causes);
            }
        }
        "Gt" | "Lt" => {
            if values.value.as_array().map_or(0, Vec::len) != 1 {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                causes.push(Cause::required(values.path, why));
            }
        }
        _ => of.at("operator").invalid("not a valid selector operator", causes),
    }
}

fn pod_affinity(affinity: &Field<'_>, causes: &mut Causes) {
    for term in affinity.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
        pod_term(&term, causes);
    }
    for preferred in affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred, causes);
        pod_term(&preferred.at("podAffinityTerm"), causes);
    }
}

fn pod_term(term: &Field<'_>, causes: &mut Causes) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if term.at(selector).is_set() {
            term.at(selector).selector(causes);
        }
    }
    label_keys(term, causes);
    for namespace in term.at("namespaces").items() {
        namespace.is(names::dns1123_label, causes);
    }
    if term.at("topologyKey").require("can not be empty", causes) {
        term.at("topologyKey").is(names::qualified_name, causes);
    }
}

fn tolerate(of: &Field<'_>, causes: &mut Causes) {
    let (key, operator, value) = (of.at("key"), of.at("operator"), of.at("value"));
    key.is(names::qualified_name, causes);
    if key.is_empty() && operator.text() != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        operator.invalid(why, causes);
    }
    if of.at("tolerationSeconds").is_set() && of.at("effect").text() != "NoExecute" {
        of.at("effect").invalid("effect must be 'NoExecute' when `tolerationSeconds` is set", causes);
    }
    match operator.text() {
        "" | "Equal" => value.is(names::label_value, causes),
        "Exists" if !value.is_empty() => value.invalid("value must be empty when `operator` is 'Exists'", causes),
        "Exists" => {}
        // Numbers are compared (KEP-5471).
        "Lt" | "Gt" => {
            if value.text().parse::<i64>().is_err() {
                value.invalid("value must be a valid integer when `operator` is 'Lt' or 'Gt'", causes);
            }
        }
        _ => operator.one_of(&["Equal", "Exists"], causes),
    }
    if !of.at("effect").is_empty() {
        of.at("effect").one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"], causes);
    }
}

fn spread(constraints: &Field<'_>, causes: &mut Causes) {
    let mut seen = std::collections::HashSet::new();
    for of in constraints.items() {
        let (skew, key, unmet) = (of.at("maxSkew"), of.at("topologyKey"), of.at("whenUnsatisfiable"));
        if skew.value.as_i64().unwrap_or(0) <= 0 {
            skew.invalid("must be greater than zero", causes);
        }
        if key.require("can not be empty", causes) {
            key.is(names::qualified_name, causes);
        }
        unmet.must_be(&["DoNotSchedule", "ScheduleAnyway"], causes);
        let domains = of.at("minDomains");
        if let Some(count) = domains.value.as_i64() {
            if count <= 0 {
                domains.invalid("must be greater than zero", causes);
            }
            if unmet.text() == "ScheduleAnyway" {
                let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
                domains.invalid(why, causes);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            of.at(policy).one_of(&["Honor", "Ignore"], causes);
        }
        if of.at("labelSelector").is_set() {
            of.at("labelSelector").selector(causes);
        }
        label_keys(&of, causes);
        let pair = (key.text(), unmet.text());
        if !seen.insert(pair) {
            let pair = format!("{{{}, {}}}", pair.0, pair.1);
            causes.push(Cause::duplicate(format!("{}.{{topologyKey, whenUnsatisfiable}}", of.path), &pair.into()));
        }
    }
}
