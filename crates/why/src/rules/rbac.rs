//! Rights: what was denied, and which rule is missing; bindings of what isn't there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{items, name, namespace, nearest, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of denials in logs and events, and of bindings that give nothing.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for pod in pod::pods(s) {
        let mut told = BTreeSet::new();
        for container in pod::containers(pod) {
            let logs = [false, true].into_iter().filter_map(|previous| s.log(pod, container.name, previous));
            for denial in logs.flat_map(str::lines).filter_map(denial) {
                if told.insert(denial.clone()) {
                    out.push(denied(ObjectRef::of(Kind::Pod, pod), &denial));
                }
            }
        }
    }
    for kind in [Kind::RoleBinding, Kind::ClusterRoleBinding] {
        for binding in s.all(kind) {
            out.extend(role(s, kind, binding));
            out.extend(subject(s, kind, binding));
        }
    }
}

/// What somebody was denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    /// Who.
    pub user: String,
    /// What he wanted to do.
    pub verb: String,
    /// With what.
    pub resource: String,
    /// In which group.
    pub group: String,
    /// In which namespace; empty for the whole cluster.
    pub namespace: String,
}

/// Reads the API's words: `User "u" cannot list resource "pods" in API group "" in the namespace "n"`.
pub fn denial(line: &str) -> Option<Denial> {
    // Programs write it with escaped quotation marks, too.
    let line = line.replace("\\\"", "\"");
    let rest = line.split_once("User \"")?.1;
    let (user, rest) = rest.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once('"')?;
    let group =
        rest.split_once("in API group \"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |(group, _)| group);
    let space = rest
        .split_once("in the namespace \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("", |(space, _)| space);
    let short = |text: &str| short(text, 120);
    Some(Denial {
        user: short(user),
        verb: short(verb),
        resource: short(resource),
        group: short(group),
        namespace: short(space),
    })
}

fn denied(object: ObjectRef, denial: &Denial) -> Finding {
    let Denial { user, verb, resource, group, namespace } = denial;
    let place = if namespace.is_empty() { "in the whole cluster".into() } else { format!("in namespace {namespace}") };
    let full = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let says = format!("{user} may not {verb} {full} {place}");
    let rule =
        format!("the rule that is missing: apiGroups: [{group:?}], resources: [{resource:?}], verbs: [{verb:?}]");
    let finding = Finding::new(&codes::RBAC_DENIED, object, says).detail(rule).follows("it can't do its work");
    let subject = match user.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={account}"),
        None => format!("--user={user}"),
    };
    if namespace.is_empty() {
        finding
            .next(format!("kubectl create clusterrole NAME --verb={verb} --resource={full}"))
            .next(format!("kubectl create clusterrolebinding NAME --clusterrole=NAME {subject}"))
    } else {
        finding
            .next(format!("kubectl -n {namespace} create role NAME --verb={verb} --resource={full}"))
            .next(format!("kubectl -n {namespace} create rolebinding NAME --role=NAME {subject}"))
    }
}

fn role(s: &Snapshot, kind: Kind, binding: &Value) -> Option<Finding> {
    let wanted = text(binding, "/roleRef/name");
    let (role, space) = match text(binding, "/roleRef/kind") {
        "Role" => (Kind::Role, namespace(binding)),
        _ => (Kind::ClusterRole, ""),
    };
    if !s.lacks(role, space, wanted) {
        return None;
    }
    let near = nearest(wanted, s.within(role, space).map(name));
    let word = role.resource().name;
    let next = format!(
        "kubectl {}get {}",
        if space.is_empty() { String::new() } else { format!("-n {space} ") },
        role.resource().plural
    );
    Some(
        Finding::new(
            &codes::RBAC_ROLE_MISSING,
            ObjectRef::of(kind, binding),
            format!("it gives {word} {wanted:?}, which doesn't exist"),
        )
        .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
        .follows("it gives no rights")
        .next(next),
    )
}

fn subject(s: &Snapshot, kind: Kind, binding: &Value) -> Option<Finding> {
    // What comes with Kubernetes names accounts of controllers that needn't be there.
    if name(binding).starts_with("system:") {
        return None;
    }
    let missing = items(binding, "/subjects").iter().find(|subject| {
        text(subject, "/kind") == "ServiceAccount"
            && s.lacks(Kind::ServiceAccount, text(subject, "/namespace"), text(subject, "/name"))
    })?;
    let (space, account) = (text(missing, "/namespace"), text(missing, "/name"));
    let says = format!("it gives rights to service account {space}/{account}, which doesn't exist");
    Some(
        Finding::new(&codes::RBAC_SUBJECT_MISSING, ObjectRef::of(kind, binding), says)
            .next(format!("kubectl -n {space} get serviceaccounts")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read_of_logs() {
        let line = r#"E1 reflector.go: pods is forbidden: User \"system:serviceaccount:shop:app\" cannot list resource \"pods\" in API group \"\" at the cluster scope"#;
        let found = denial(line).unwrap();
        assert_eq!(
            (found.user.as_str(), found.verb.as_str(), found.namespace.as_str()),
            ("system:serviceaccount:shop:app", "list", "")
        );
        let line = r#"deployments.apps "x" is forbidden: User "u" cannot get resource "deployments" in API group "apps" in the namespace "n""#;
        let found = denial(line).unwrap();
        assert_eq!((found.group.as_str(), found.namespace.as_str()), ("apps", "n"));
        assert_eq!(denial("User \"x\" is nice"), None);
    }
}
