//! Privilege escalation prevention: the writer of a role or binding must hold the rights that it grants, or
//! the right to `escalate` or to `bind`.

use std::collections::HashMap;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::{Value, json};

use super::super::AdmissionAttributes;
use crate::ApiServer;
use crate::authentication::MASTERS;
use crate::authorization::{self, Attributes, Rule, has};
use crate::registry::object_key;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Each verb times each group times each resource times each name is one; a role of a megabyte may have more of them than any machine has
/// room for.
const MAX_COMBINATIONS: usize = 20_000;

/// Refuses a role or binding that grants rights which its writer doesn't hold.
///
/// # Errors
/// 403 with the missing rules; 404 for a binding to a role that isn't there.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let (user, kind) = (attributes.user, attributes.kind);
    if kind.group != GROUP
        || kind.custom
        || user.is_in(MASTERS)
        || attributes.old.is_some_and(|old| differs_for_collector(old, object))
    {
        return Ok(());
    }
    let may = |verb: &str, resource: &str, name: &str| {
        let group = GROUP;
        authorization::allows(
            server,
            user,
            &Attributes { verb, group, resource, namespace: attributes.namespace, name, path: "" },
        )
    };
    let granted = if kind == kinds::ROLES || kind == kinds::CLUSTER_ROLES {
        if may("escalate", kind.plural(), attributes.name) {
            return Ok(());
        }
        // What an aggregated role will hold depends on roles to come.
        if object["aggregationRule"].is_object() { everything() } else { read(&object["rules"]) }
    } else {
        let role = &object["roleRef"];
        let cluster = role["kind"] == kinds::CLUSTER_ROLES.kind;
        let (of, name) = (if cluster { kinds::CLUSTER_ROLES } else { kinds::ROLES }, role.str_at(&["name"]));
        if may("bind", of.plural(), name) {
            return Ok(());
        }
        let namespace = if cluster { "" } else { attributes.namespace };
        let found = server.cache.of(of).get(&object_key(namespace, name));
        read(&found.ok_or_else(|| of.not_found(name))?.parse()["rules"])
    };
    let held = server.rbac.list(server, user, attributes.namespace);
    // Most are held as they stand; only what isn't is taken apart.
    let open: Vec<&Rule> = granted.iter().filter(|wanted| !held.iter().any(|rule| rule.covers(wanted))).collect();
    let combinations = open.iter().fold(0usize, |all, rule| all.saturating_add(rule.combinations()));
    if combinations > MAX_COMBINATIONS {
        let why = format!(
            "its rules combine verbs, groups, resources and names in {combinations} ways, and at most {MAX_COMBINATIONS} are compared with \
             what user {:?} holds: write rules with fewer of them",
            user.name
        );
        return Err(kind.forbidden(attributes.name, &why));
    }
    let missing: Vec<Rule> =
        open.into_iter().flat_map(Rule::split).filter(|wanted| !held.iter().any(|rule| rule.covers(wanted))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = compact(missing).iter().map(|rule| format!("{{{rule}}}")).collect();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        json!(user.groups),
        lines.join("\n")
    );
    Err(kind.forbidden(attributes.name, &why))
}

/// Whether nothing changed but what the garbage collector changes on the way to a deletion.
pub fn differs_for_collector(old: &Value, new: &Value) -> bool {
    let core = |object: &Value| {
        let mut core = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            core.meta_mut().remove(field);
        }
        core
    };
    core(old) == core(new) && old["metadata"]["finalizers"] != new["metadata"]["finalizers"]
}

fn read(rules: &Value) -> Vec<Rule> {
    rules.as_array().into_iter().flatten().map(Rule::read).collect()
}

fn everything() -> Vec<Rule> {
    read(&json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}]))
}

/// Rules that differ in their verb alone as one.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    let mut known = HashMap::new();
    for rule in rules {
        let same = (rule.groups.clone(), rule.resources.clone(), rule.names.clone(), rule.paths.clone());
        let place = *known.entry(same).or_insert(all.len());
        match all.get_mut(place) {
            Some(other) => other.verbs.extend(rule.verbs),
            None => all.push(rule),
        }
    }
    all
}

impl Rule {
    /// How many rules [`split`](Self::split) makes of it.
    fn combinations(&self) -> usize {
        let resources = self.groups.len().saturating_mul(self.resources.len()).saturating_mul(self.names.len().max(1));
        self.verbs.len().saturating_mul(resources.saturating_add(self.paths.len()))
    }

    /// The rule as rules of one verb, group, resource, name or path each.
    fn split(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut all = Vec::new();
        for verb in &self.verbs {
            let verbs = one(verb);
            all.extend(self.paths.iter().map(|path| Rule {
                verbs: verbs.clone(),
                paths: one(path),
                ..Rule::default()
            }));
            for group in &self.groups {
                for resource in &self.resources {
                    let rule =
                        Rule { verbs: verbs.clone(), groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.names.is_empty() {
                        all.push(rule);
                    } else {
                        all.extend(self.names.iter().map(|name| Rule { names: one(name), ..rule.clone() }));
                    }
                }
            }
        }
        all
    }

    /// Whether all that `wanted`, a split rule, allows is allowed by this one.
    fn covers(&self, wanted: &Rule) -> bool {
        let names = &wanted.names;
        wanted.verbs.iter().all(|v| has(&self.verbs, v))
            && wanted.groups.iter().all(|g| has(&self.groups, g))
            && wanted.resources.iter().all(|r| self.has_resource(r))
            && (self.names.is_empty() || (!names.is_empty() && names.iter().all(|n| self.names.contains(n))))
            && wanted.paths.iter().all(|p| self.has_path(p))
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.paths),
            ("Verbs", &self.verbs),
        ];
        let told: Vec<String> = lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", json!(list)))
            .collect();
        f.write_str(&told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_it_holds() {
        let rule = |text: &str| -> Rule {
            let part = |i: usize| -> Vec<&str> { text.split('|').nth(i).unwrap_or("").split_whitespace().collect() };
            Rule::read(
                &json!({"verbs": part(0), "apiGroups": part(1), "resources": part(2), "resourceNames": part(3), "nonResourceURLs": part(4)}),
            )
        };
        for (held, wanted, covered) in [
            ("get list|apps|deployments", "get|apps|deployments", true),
            ("get|apps|deployments", "get list|apps|deployments", false),
            ("*|*|*", "escalate|x|y/z|name", true),
            ("get|apps|deployments|one two", "get|apps|deployments|one", true),
            ("get|apps|deployments|one", "get|apps|deployments", false),
            ("get|apps|deployments", "get|apps|deployments|one", true),
            ("get|apps|*/scale", "get|apps|deployments/scale", true),
            ("get|apps|*/scale", "get|apps|deployments/status", false),
            ("get||||/api/*", "get||||/api/v1", true),
            ("get||||/api", "get||||/api/v1", false),
            ("*|*|*", "get||||/api", false),
        ] {
            let all = rule(wanted).split().iter().all(|one| rule(held).covers(one));
            assert_eq!(all, covered, "{held} / {wanted}");
        }
    }
}
