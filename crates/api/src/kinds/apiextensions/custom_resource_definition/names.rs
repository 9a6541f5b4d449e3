//! Defaults of a definition, and whether its names are free.

use apimachinery::{ObjectExt as _, clock};
use serde_json::{Value, json};

use crate::Kind;

/// Fills in what a definition leaves out.
pub fn default(object: &mut Value) {
    let kind = object.str_at(&["spec", "names", "kind"]).to_string();
    let spec = object.child_mut("spec");
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    }
}

/// Writes whether a definition's names are free into its status. `others` are the kinds of all other definitions and the
/// built-in ones of its group.
pub fn establish(object: &mut Value, others: &[&'static Kind]) {
    let names = object["spec"]["names"].clone();
    let text = |key: &str| names.str_at(&[key]).to_string();
    let taken = |wanted: &str, of: &dyn Fn(&Kind) -> Vec<String>| {
        !wanted.is_empty() && others.iter().any(|k| of(k).iter().any(|n| n == wanted))
    };
    let resources = |k: &Kind| {
        let mut all = vec![k.plural().to_string(), k.singular()];
        all.extend(k.short_names.iter().map(|s| (*s).to_string()));
        all
    };
    let mut wanted = vec![("plural", text("plural")), ("singular", text("singular"))];
    wanted.extend(names.strings_at(&["shortNames"]).into_iter().map(|s| ("shortName", s.to_string())));
    let mut conflict = wanted
        .iter()
        .find(|(_, name)| taken(name, &resources))
        .map(|(what, name)| (format!("{}Conflict", capital(what)), format!("{name:?} is already in use")));
    if taken(&text("kind"), &|k: &Kind| vec![k.kind.to_string(), format!("{}List", k.kind)]) {
        conflict = Some(("KindConflict".into(), format!("{:?} is already in use", text("kind"))));
    }
    let storage: Vec<String> = object
        .array_at(&["spec", "versions"])
        .iter()
        .filter(|v| v["storage"] == true)
        .map(|v| v.str_at(&["name"]).to_string())
        .collect();
    let mut stored: Vec<String> =
        object.strings_at(&["status", "storedVersions"]).into_iter().map(String::from).collect();
    stored.extend(storage.into_iter().filter(|s| !stored.contains(s)).collect::<Vec<_>>());
    let old = object.array_at(&["status", "conditions"]).to_vec();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let same = old.iter().find(|c| c["type"] == kind && c["status"] == status);
        let since = same.map_or_else(|| clock::now_rfc3339().into(), |c| c["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    };
    let conditions = match &conflict {
        None => vec![
            condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        Some((reason, message)) => vec![
            condition("NamesAccepted", false, reason, message),
            condition("Established", false, "NotAccepted", "not all names are accepted"),
        ],
    };
    let mut kept: Vec<Value> =
        old.iter().filter(|c| c["type"] != "NamesAccepted" && c["type"] != "Established").cloned().collect();
    kept.splice(0..0, conditions);
    const APPROVAL: &str = "KubernetesAPIApprovalPolicyConformant";
    kept.retain(|c| c["type"] != APPROVAL);
    if let Some((status, reason, message)) = super::approval::condition(object) {
        kept.push(condition(APPROVAL, status, reason, &message));
    }
    object["status"] = json!({"conditions": kept, "storedVersions": stored,
        "acceptedNames": if conflict.is_none() { names } else { json!({"plural": "", "kind": ""}) }});
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
