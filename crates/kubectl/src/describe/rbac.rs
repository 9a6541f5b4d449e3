//! Roles and bindings.

use serde_json::Value;

use super::{Text, items, text};

pub fn role(out: &mut Text, object: &Value) {
    out.head(object, false);
    out.line(0, "PolicyRule:");
    out.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    out.line(1, "---------\t-----------------\t--------------\t-----");
    let mut rows: Vec<(String, String, String, Vec<String>)> = Vec::new();
    let list = |value: &Value| items(value).iter().map(|v| text(v).to_string()).collect::<Vec<_>>();
    for rule in items(&object["rules"]) {
        let verbs = list(&rule["verbs"]);
        let mut add = |resource: String, url: String, name: String| match rows
            .iter_mut()
            .find(|(r, u, n, _)| *r == resource && *u == url && *n == name)
        {
            Some((.., known)) => known.extend(verbs.iter().filter(|v| !known.contains(v)).cloned().collect::<Vec<_>>()),
            None => rows.push((resource, url, name, verbs.clone())),
        };
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                let shown = match (resource.split_once('/'), group.as_str()) {
                    (_, "") => resource.clone(),
                    (Some((head, sub)), group) => format!("{head}.{group}/{sub}"),
                    (None, group) => format!("{resource}.{group}"),
                };
                let names = list(&rule["resourceNames"]);
                if names.is_empty() {
                    add(shown.clone(), "[]".into(), "[]".into());
                }
                for name in names {
                    add(shown.clone(), "[]".into(), format!("[{name}]"));
                }
            }
        }
        for url in list(&rule["nonResourceURLs"]) {
            add(String::new(), format!("[{url}]"), "[]".into());
        }
    }
    // Upstream sorts rules by their text, which begins with the verbs and the group.
    let group = |resource: &str| resource.split_once('.').map_or(String::new(), |(_, g)| g.to_string());
    rows.sort_by_cached_key(|r| (r.3.join(" "), group(&r.0), r.0.clone(), r.2.clone(), r.1.clone()));
    for (resource, url, name, verbs) in rows {
        out.line(1, &format!("{resource}\t{url}\t{name}\t[{}]", verbs.join(" ")));
    }
}

pub fn binding(out: &mut Text, object: &Value) {
    out.head(object, false);
    out.line(0, "Role:");
    out.field(1, "Kind", text(&object["roleRef"]["kind"]));
    out.field(1, "Name", text(&object["roleRef"]["name"]));
    out.line(0, "Subjects:");
    out.line(1, "Kind\tName\tNamespace");
    out.line(1, "----\t----\t---------");
    for subject in items(&object["subjects"]) {
        out.line(
            1,
            &format!("{}\t{}\t{}", text(&subject["kind"]), text(&subject["name"]), text(&subject["namespace"])),
        );
    }
}
