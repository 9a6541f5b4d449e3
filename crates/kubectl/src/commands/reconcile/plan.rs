//! What `auth reconcile` changes: permissions and subjects are added, and taken away if that is asked for.

use serde_json::{Value, json};

use crate::error::{Result, fail};

/// More single permissions of one role are refused.
const MAX_PERMISSIONS: usize = 100_000;
/// An object with this annotation set to `false` stays as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What must be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    Nothing,
    Create,
    Update,
    /// The role of a binding can't be changed.
    Recreate,
}

/// A decision, and what it is made of.
#[derive(Debug)]
pub struct Plan {
    pub object: Value,
    pub operation: Operation,
    pub protected: bool,
    pub missing: Vec<Value>,
    pub extra: Vec<Value>,
}

fn texts<'a>(value: &'a Value, field: &str) -> Vec<&'a str> {
    value[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The single permissions of rules.
fn single(rules: &Value) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let names = texts(rule, "resourceNames");
        let names: Vec<Option<&str>> =
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for verb in texts(rule, "verbs") {
            for url in texts(rule, "nonResourceURLs") {
                all.push(json!({"verbs": [verb], "nonResourceURLs": [url]}));
            }
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for name in &names {
                        let mut one = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                        if let Some(name) = name {
                            one["resourceNames"] = json!([name]);
                        }
                        all.push(one);
                    }
                    if all.len() > MAX_PERMISSIONS {
                        return fail(format!("a role has more than {MAX_PERMISSIONS} single permissions"));
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Whether a rule grants a single permission.
fn grants(rule: &Value, one: &Value) -> bool {
    let any = |field: &str, star: &str| {
        let (has, wanted) = (texts(rule, field), texts(one, field));
        has.contains(&star) || wanted.iter().all(|w| has.contains(w))
    };
    let has = texts(rule, "resources");
    let resources = texts(one, "resources").iter().all(|wanted| {
        let below = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        has.iter().any(|h| *h == "*" || h == wanted || below.as_deref() == Some(h))
    });
    let urls = texts(one, "nonResourceURLs").iter().all(|wanted| {
        let mut has = texts(rule, "nonResourceURLs").into_iter();
        has.any(|h| h == *wanted || h.strip_suffix('*').is_some_and(|start| wanted.starts_with(start)))
    });
    let (has, wanted) = (texts(rule, "resourceNames"), texts(one, "resourceNames"));
    let names = has.is_empty() || (!wanted.is_empty() && wanted.iter().all(|w| has.contains(w)));
    any("verbs", "*") && any("apiGroups", "*") && resources && urls && names
}

/// The single permissions of some rules that others don't grant.
fn uncovered(by: &Value, rules: &Value) -> Result<Vec<Value>> {
    let mut left = single(rules)?;
    left.retain(|one| !by.as_array().into_iter().flatten().any(|rule| grants(rule, one)));
    Ok(left)
}

/// Adds the labels and annotations of a file; returns whether any is new.
fn merge_metadata(object: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if object["metadata"][field].is_null() {
                object["metadata"][field] = json!({});
            }
            changed |= object["metadata"][field][key] != *value;
            object["metadata"][field][key] = value.clone();
        }
    }
    changed
}

fn protected(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTOUPDATE] == "false"
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// What makes a role have the permissions of a file.
///
/// # Errors
/// When there are too many.
pub fn role(existing: Option<&Value>, wanted: &Value, remove: bool) -> Result<Plan> {
    let Some(existing) = existing else {
        let missing = list(&wanted["rules"]);
        let object = wanted.clone();
        return Ok(Plan { object, operation: Operation::Create, protected: false, missing, extra: Vec::new() });
    };
    let mut object = existing.clone();
    let mut changed = merge_metadata(&mut object, wanted);
    let missing = uncovered(&existing["rules"], &wanted["rules"])?;
    let extra = uncovered(&wanted["rules"], &existing["rules"])?;
    // The rules of an aggregated role are a controller's.
    if remove && wanted["aggregationRule"].is_null() && !(missing.is_empty() && extra.is_empty()) {
        object["rules"] = wanted["rules"].clone();
        changed = true;
    } else if !remove && !missing.is_empty() {
        object["rules"] = [list(&existing["rules"]), missing.clone()].concat().into();
        changed = true;
    }
    let selectors = list(&wanted["aggregationRule"]["clusterRoleSelectors"]);
    let had = list(&existing["aggregationRule"]["clusterRoleSelectors"]);
    let new: Vec<Value> = selectors.iter().filter(|s| !had.contains(s)).cloned().collect();
    if !new.is_empty() || (remove && had.iter().any(|s| !selectors.contains(s))) {
        let all = if remove { selectors } else { [had, new].concat() };
        object["aggregationRule"] = if all.is_empty() { Value::Null } else { json!({"clusterRoleSelectors": all}) };
        changed = true;
    }
    let operation = if changed { Operation::Update } else { Operation::Nothing };
    Ok(Plan { object, operation, protected: protected(existing), missing, extra })
}

/// A subject without what doesn't tell it from others.
fn subject(of: &Value) -> Value {
    let text = |field: &str| of[field].as_str().unwrap_or("");
    let group = if text("kind") == "ServiceAccount" || !text("apiGroup").is_empty() {
        text("apiGroup")
    } else {
        "rbac.authorization.k8s.io"
    };
    json!({"kind": text("kind"), "apiGroup": group, "name": text("name"), "namespace": text("namespace")})
}

/// What makes a binding have the subjects and the role of a file.
pub fn binding(existing: Option<&Value>, wanted: &Value, remove: bool) -> Plan {
    let Some(existing) = existing else {
        let missing = list(&wanted["subjects"]);
        let object = wanted.clone();
        return Plan { object, operation: Operation::Create, protected: false, missing, extra: Vec::new() };
    };
    let mut object = existing.clone();
    let mut changed = merge_metadata(&mut object, wanted);
    let without = |these: &Value, those: &Value| -> Vec<Value> {
        let those: Vec<Value> = list(those).iter().map(subject).collect();
        list(these).into_iter().filter(|s| !those.contains(&subject(s))).collect()
    };
    let missing = without(&wanted["subjects"], &existing["subjects"]);
    let extra = without(&existing["subjects"], &wanted["subjects"]);
    if remove && !(missing.is_empty() && extra.is_empty()) {
        object["subjects"] = wanted["subjects"].clone();
        changed = true;
    } else if !remove && !missing.is_empty() {
        object["subjects"] = [list(&existing["subjects"]), missing.clone()].concat().into();
        changed = true;
    }
    let role = |of: &Value| (of["roleRef"]["kind"].clone(), of["roleRef"]["name"].clone());
    let operation = if role(existing) != role(wanted) {
        object["roleRef"] = wanted["roleRef"].clone();
        for field in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
        Operation::Recreate
    } else if changed {
        Operation::Update
    } else {
        Operation::Nothing
    };
    Plan { object, operation, protected: protected(existing), missing, extra }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Value {
        let rule = |r: &str| {
            let parts: Vec<Vec<&str>> = r.split(' ').map(|p| p.split(',').collect()).collect();
            json!({"verbs": parts[0], "apiGroups": [""], "resources": parts[1]})
        };
        json!({"metadata": {"name": "r"}, "rules": text.split(';').map(rule).collect::<Vec<_>>()})
    }

    #[test]
    fn permissions_are_added_and_only_taken_away_when_asked() {
        let plan = |has: &str, wanted: &str, remove| role(Some(&rules(has)), &rules(wanted), remove).unwrap();
        for (has, wanted) in [("get,list pods", "get pods"), ("* *", "get pods"), ("get */log", "get pods/log")] {
            assert_eq!(plan(has, wanted, false).operation, Operation::Nothing, "{has} {wanted}");
            assert_eq!(plan(has, wanted, true).operation, Operation::Update, "{has} {wanted}");
        }
        let added = plan("get pods", "get,list pods", false);
        assert_eq!((added.operation, added.missing.len()), (Operation::Update, 1));
        assert_eq!(added.object["rules"].as_array().unwrap().len(), 2);
        assert_eq!(plan("get pods", "get pods", true).operation, Operation::Nothing);
        let mut kept = rules("get pods");
        kept["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert!(role(Some(&kept), &rules("list pods"), false).unwrap().protected);
        assert_eq!(role(None, &rules("get pods"), false).unwrap().operation, Operation::Create);
    }

    #[test]
    fn names_and_urls_count() {
        let one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        let all = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        assert!(grants(&all, &one) && !grants(&one, &all));
        let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/logs/*"]});
        assert!(grants(&urls, &json!({"verbs": ["get"], "nonResourceURLs": ["/logs/a"]})));
        assert!(!grants(&urls, &json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})));
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let made = |role: &str, names: &[&str]| {
            let subjects: Vec<Value> = names.iter().map(|n| json!({"kind": "User", "name": n})).collect();
            json!({"metadata": {"name": "b", "uid": "u"}, "roleRef": {"kind": "Role", "name": role}, "subjects": subjects})
        };
        let plan = binding(Some(&made("x", &["a"])), &made("x", &["b"]), false);
        assert_eq!((plan.operation, plan.object["subjects"].as_array().unwrap().len()), (Operation::Update, 2));
        let plan = binding(Some(&made("x", &["a"])), &made("x", &["b"]), true);
        assert_eq!(plan.object["subjects"], made("x", &["b"])["subjects"]);
        let plan = binding(Some(&made("x", &["a"])), &made("y", &["a"]), false);
        assert_eq!((plan.operation, plan.object["metadata"]["uid"].is_null()), (Operation::Recreate, true));
        assert_eq!(binding(Some(&made("x", &["a"])), &made("x", &["a"]), true).operation, Operation::Nothing);
    }
}
