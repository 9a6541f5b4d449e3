//! `create serviceaccount|role|clusterrole|rolebinding|clusterrolebinding`

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::common::label_map;
use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, list, many, text};

const GROUP: &str = "rbac.authorization.k8s.io";
const RULES: &[Flag] = &[
    list("verb", "What may be done"),
    list("resource", "With what: resource[.group][/subresource]"),
    many("resource-name", "With which of them"),
];
const SUBJECTS: &[Flag] = &[
    many("user", "Users"),
    many("group", "Groups"),
    many("serviceaccount", "Service accounts: namespace:name"),
    text("clusterrole", "Cluster role"),
];

pub const SERVICE_ACCOUNT: Command = Command {
    name: "serviceaccount",
    aliases: &["sa"],
    about: "Create a service account with the specified name",
    flags: &[FLAGS],
    run: run!(service_account),
    ..Command::NONE
};
pub const ROLE: Command = Command {
    name: "role",
    about: "Create a role with single rule",
    flags: &[FLAGS, RULES],
    run: run!(role),
    ..Command::NONE
};
pub const CLUSTER_ROLE: Command = Command {
    name: "clusterrole",
    about: "Create a cluster role",
    flags: &[
        FLAGS,
        RULES,
        &[
            list("non-resource-url", "Paths of the server"),
            text("aggregation-rule", "Labels of the roles to aggregate: k=v,…"),
        ],
    ],
    run: run!(cluster_role),
    ..Command::NONE
};
pub const ROLE_BINDING: Command = Command {
    name: "rolebinding",
    about: "Create a role binding for a particular role or cluster role",
    flags: &[FLAGS, SUBJECTS, &[text("role", "Role")]],
    run: run!(role_binding),
    ..Command::NONE
};
pub const CLUSTER_ROLE_BINDING: Command = Command {
    name: "clusterrolebinding",
    about: "Create a cluster role binding for a particular cluster role",
    flags: &[FLAGS, SUBJECTS],
    run: run!(cluster_role_binding),
    ..Command::NONE
};

async fn service_account(cx: Arc<Context>) -> Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name(&cx)?}});
    finish(&cx, "serviceaccounts", true, account).await
}

/// One rule for each group of resources.
async fn rules(cx: &Context) -> Result<Vec<Value>> {
    let mut verbs: Vec<String> = Vec::new();
    for verb in cx.args.many("verb") {
        if verb == "*" {
            verbs = vec!["*".into()];
            break;
        }
        if !verbs.contains(verb) {
            verbs.push(verb.clone());
        }
    }
    if verbs.is_empty() {
        return fail("at least one verb must be specified");
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in cx.args.many("resource") {
        let (word, sub) = word.split_once('/').map_or((word.as_str(), String::new()), |(w, s)| (w, format!("/{s}")));
        let (group, plural) = if word == "*" {
            ("*".to_string(), "*".to_string())
        } else {
            let found = cx.resources().await?.find(word).map_err(|error| Error::Plain(error.text()))?;
            (found.group.clone(), format!("{}{sub}", found.plural))
        };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, all)) if all.contains(&plural) => {}
            Some((_, all)) => all.push(plural),
            None => groups.push((group, vec![plural])),
        }
    }
    let names = cx.args.many("resource-name");
    groups.sort();
    Ok(groups
        .into_iter()
        .map(|(group, plurals)| {
            let mut rule = json!({"apiGroups": [group], "resources": plurals, "verbs": verbs});
            if !names.is_empty() {
                rule["resourceNames"] = json!(names);
            }
            rule
        })
        .collect())
}

async fn role(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    if cx.args.many("verb").is_empty() {
        return fail("at least one verb must be specified");
    }
    if cx.args.many("resource").is_empty() {
        return fail("at least one resource must be specified");
    }
    let role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules(&cx).await?});
    finish(&cx, "roles", true, role).await
}

async fn cluster_role(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let mut role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": name}});
    let aggregation = cx.args.text("aggregation-rule");
    if !aggregation.is_empty() {
        if !cx.args.many("verb").is_empty() || !cx.args.many("resource").is_empty() {
            return fail("aggregation rule must be specified without any other rules");
        }
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": label_map(aggregation)?}]});
        role["rules"] = Value::Null;
        return finish(&cx, "clusterroles", false, role).await;
    }
    if cx.args.many("verb").is_empty() {
        return fail("at least one verb must be specified");
    }
    let urls = cx.args.many("non-resource-url");
    if cx.args.many("resource").is_empty() && urls.is_empty() {
        return fail("one of resource or nonResourceURL must be specified");
    }
    let mut all = if cx.args.many("resource").is_empty() { Vec::new() } else { rules(&cx).await? };
    if !urls.is_empty() {
        all.push(json!({"nonResourceURLs": urls, "verbs": cx.args.many("verb")}));
    }
    role["rules"] = all.into();
    finish(&cx, "clusterroles", false, role).await
}

fn subjects(cx: &Context) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (flag, kind) in [("user", "User"), ("group", "Group")] {
        all.extend(cx.args.many(flag).iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})));
    }
    for account in cx.args.many("serviceaccount") {
        let Some((namespace, name)) =
            account.split_once(':').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(':'))
        else {
            return fail("serviceaccount must be <namespace>:<name>");
        };
        all.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
    }
    Ok(all)
}

fn binding(name: &str, kind: &str, role_kind: &str, role: &str, subjects: Vec<Value>) -> Value {
    let mut binding = Map::new();
    binding.insert("apiVersion".into(), format!("{GROUP}/v1").into());
    binding.insert("kind".into(), kind.into());
    binding.insert("metadata".into(), json!({"name": name}));
    binding.insert("roleRef".into(), json!({"apiGroup": GROUP, "kind": role_kind, "name": role}));
    if !subjects.is_empty() {
        binding.insert("subjects".into(), subjects.into());
    }
    binding.into()
}

async fn role_binding(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let (role, cluster) = (cx.args.text("role"), cx.args.text("clusterrole"));
    if role.is_empty() == cluster.is_empty() {
        return fail("exactly one of clusterrole or role must be specified");
    }
    let (kind, role) = if role.is_empty() { ("ClusterRole", cluster) } else { ("Role", role) };
    finish(&cx, "rolebindings", true, binding(&name, "RoleBinding", kind, role, subjects(&cx)?)).await
}

async fn cluster_role_binding(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let role = cx.args.text("clusterrole");
    if role.is_empty() {
        return fail("required flag(s) \"clusterrole\" not set");
    }
    finish(&cx, "clusterrolebindings", false, binding(&name, "ClusterRoleBinding", "ClusterRole", role, subjects(&cx)?))
        .await
}
