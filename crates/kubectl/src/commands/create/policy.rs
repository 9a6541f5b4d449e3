//! `create namespace|quota|poddisruptionbudget|priorityclass`

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{switch, text, text_or};
use apimachinery::selector::LabelSelector;

pub const NAMESPACE: Command = Command {
    name: "namespace",
    aliases: &["ns"],
    about: "Create a namespace with the specified name",
    flags: &[FLAGS],
    run: run!(namespace),
    ..Command::NONE
};
pub const QUOTA: Command = Command {
    name: "quota",
    aliases: &["resourcequota"],
    about: "Create a quota with the specified name",
    flags: &[FLAGS, &[text("hard", "Amounts: resource=quantity,…"), text("scopes", "Scopes of the quota")]],
    run: run!(quota),
    ..Command::NONE
};
pub const BUDGET: Command = Command {
    name: "poddisruptionbudget",
    aliases: &["pdb"],
    about: "Create a pod disruption budget with the specified name",
    flags: &[
        FLAGS,
        &[
            text("selector", "Labels of the pods"),
            text("min-available", "How many must be available"),
            text("max-unavailable", "How many may be unavailable"),
        ],
    ],
    run: run!(budget),
    ..Command::NONE
};
pub const PRIORITY_CLASS: Command = Command {
    name: "priorityclass",
    aliases: &["pc"],
    about: "Create a priority class with the specified name",
    flags: &[
        FLAGS,
        &[
            text_or("value", "0", "Its priority"),
            switch("global-default", "For pods that name no class"),
            text("description", "What it is for"),
            text_or("preemption-policy", "PreemptLowerPriority", "PreemptLowerPriority or Never"),
        ],
    ],
    run: run!(priority_class),
    ..Command::NONE
};

async fn namespace(cx: Arc<Context>) -> Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name(&cx)?}, "spec": {}, "status": {}});
    finish(&cx, "namespaces", false, namespace).await
}

async fn quota(cx: Arc<Context>) -> Result<()> {
    let mut hard = Map::new();
    for part in cx.args.text("hard").split(',').filter(|p| !p.is_empty()) {
        let Some((resource, amount)) = part.split_once('=') else {
            return fail(format!("Invalid argument syntax {part}, expected <resource>=<value>"));
        };
        let canonical = apimachinery::quantity::Quantity::canonical_text(amount);
        let canonical = canonical.map_err(|_| {
            Error::Message(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into(),
            )
        })?;
        hard.insert(resource.into(), canonical.into());
    }
    let mut quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name(&cx)?}, "spec": {}, "status": {}});
    if !hard.is_empty() {
        quota["spec"]["hard"] = Value::Object(hard);
    }
    if !cx.args.text("scopes").is_empty() {
        quota["spec"]["scopes"] = cx.args.text("scopes").split(',').collect();
    }
    finish(&cx, "resourcequotas", true, quota).await
}

/// A number, or a text as `50%`.
fn amount(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

async fn budget(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let (least, most, selector) =
        (cx.args.text("min-available"), cx.args.text("max-unavailable"), cx.args.text("selector"));
    if selector.is_empty() {
        return fail("a selector must be specified");
    }
    if least.is_empty() && most.is_empty() {
        return fail("one of min-available or max-unavailable must be specified");
    }
    if !least.is_empty() && !most.is_empty() {
        return fail("min-available and max-unavailable cannot be both specified");
    }
    let mut spec = json!({"selector": selector_object(selector)?});
    if !least.is_empty() {
        spec["minAvailable"] = amount(least);
    } else {
        spec["maxUnavailable"] = amount(most);
    }
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec,
        "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}});
    finish(&cx, "poddisruptionbudgets", true, budget).await
}

/// A selector's text as a LabelSelector: equalities are labels, the rest expressions.
///
/// # Errors
/// When it isn't one.
pub fn selector_object(text: &str) -> Result<Value> {
    LabelSelector::parse(text).map_err(|error| Error::Message(error.to_string()))?;
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for part in split_requirements(text) {
        let part = part.trim();
        let words: Vec<&str> = part.split_whitespace().collect();
        let values = |list: &str| -> Vec<String> {
            list.trim().trim_start_matches('(').trim_end_matches(')').split(',').map(|v| v.trim().to_string()).collect()
        };
        if let Some((key, value)) = part.split_once("!=") {
            expressions.push(json!({"key": key.trim(), "operator": "NotIn", "values": [value.trim()]}));
        } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            labels.insert(key.trim().into(), value.trim().into());
        } else if words.get(1) == Some(&"in") {
            expressions.push(json!({"key": words[0], "operator": "In", "values": values(part.split_once(" in").map_or("", |(_, l)| l))}));
        } else if words.get(1) == Some(&"notin") {
            expressions.push(json!({"key": words[0], "operator": "NotIn", "values": values(part.split_once(" notin").map_or("", |(_, l)| l))}));
        } else if let Some(key) = part.strip_prefix('!') {
            expressions.push(json!({"key": key.trim(), "operator": "DoesNotExist"}));
        } else {
            expressions.push(json!({"key": part, "operator": "Exists"}));
        }
    }
    let mut object = json!({});
    if !labels.is_empty() {
        object["matchLabels"] = Value::Object(labels);
    }
    if !expressions.is_empty() {
        object["matchExpressions"] = expressions.into();
    }
    Ok(object)
}

/// Parts between commas that aren't in parentheses.
fn split_requirements(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_usize);
    for c in text.chars() {
        match c {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

async fn priority_class(cx: Arc<Context>) -> Result<()> {
    let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name(&cx)?},
        "value": cx.args.number("value")?, "preemptionPolicy": cx.args.text("preemption-policy")});
    if cx.args.is("global-default") {
        class["globalDefault"] = true.into();
    }
    if !cx.args.text("description").is_empty() {
        class["description"] = cx.args.text("description").into();
    }
    finish(&cx, "priorityclasses", false, class).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_labels_and_expressions() {
        let got = selector_object("a=b,c in (d,e),!f,g,h!=i").unwrap();
        let want = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]},
            {"key": "f", "operator": "DoesNotExist"}, {"key": "g", "operator": "Exists"}, {"key": "h", "operator": "NotIn", "values": ["i"]}]});
        assert_eq!(got, want);
    }
}
