//! Role-based access control (`rbac.authorization.k8s.io`).
//!
//! Roles and bindings are compiled into one index when a request comes after any of them changed.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::ObjectExt as _;
use parking_lot::RwLock;
use serde_json::Value;

use crate::ApiServer;
use crate::authentication::User;
use crate::registry::Filter;

/// An action that is to be authorized (upstream's `authorizer.Attributes`).
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// With the subresource after a slash. Empty for paths that are no resource.
    pub resource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

/// A `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

/// Whether a list of verbs, groups or resources names one, or all.
pub fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

impl Rule {
    /// Reads a rule of a role.
    pub fn read(value: &Value) -> Self {
        let list = |key: &str| value.strings_at(&[key]).into_iter().map(String::from).collect();
        Rule {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.has_path(a.path);
        }
        has(&self.groups, a.group)
            && self.has_resource(a.resource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }

    /// Whether the rule names a path that is no resource; `*` at its end stands for any rest.
    pub fn has_path(&self, path: &str) -> bool {
        self.paths.iter().any(|p| match p.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => p == path,
        })
    }

    /// Whether the rule names a resource, perhaps with a subresource (`pods/log`, `*/log`).
    pub fn has_resource(&self, resource: &str) -> bool {
        let any_of_subresource = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        has(&self.resources, resource) || any_of_subresource.is_some_and(|r| self.resources.contains(&r))
    }
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::User(name) => match name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':')) {
                Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
                None => write!(f, "User {name:?}"),
            },
            Subject::Group(name) => write!(f, "Group {name:?}"),
        }
    }
}

impl Subject {
    fn read(value: &Value, default_namespace: &str) -> Self {
        let name = value.str_at(&["name"]);
        match value.str_at(&["kind"]) {
            "Group" => Subject::Group(name.into()),
            "ServiceAccount" => {
                let namespace = match value.str_at(&["namespace"]) {
                    "" => default_namespace,
                    namespace => namespace,
                };
                Subject::User(format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => Subject::User(name.into()),
        }
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.is_in(name),
        }
    }
}

#[derive(Debug)]
struct Grant {
    /// Like `ClusterRoleBinding "b" of ClusterRole "r"`.
    by: String,
    subjects: Vec<Subject>,
    rules: Arc<Vec<Rule>>,
}

#[derive(Debug, Default)]
struct Index {
    /// The revisions of the four resources that the index was made of.
    compiled_from: [u64; 4],
    cluster: Vec<Grant>,
    namespaces: HashMap<String, Vec<Grant>>,
}

impl Index {
    /// What is granted in a namespace, or for the whole cluster.
    fn grants(&self, namespace: &str) -> impl Iterator<Item = &Grant> {
        self.cluster.iter().chain(self.namespaces.get(namespace).into_iter().flatten())
    }
}

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Arc<Index>>,
}

const RESOURCES: [&Kind; 4] = [kinds::CLUSTER_ROLES, kinds::CLUSTER_ROLE_BINDINGS, kinds::ROLES, kinds::ROLE_BINDINGS];

impl Rbac {
    /// Whether a role that is bound to `user` allows it.
    pub fn allows(&self, server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> bool {
        self.reason(server, user, attributes).is_some()
    }

    /// Which binding allows `user` to do it, in upstream's words; none if none does.
    pub fn reason(&self, server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> Option<String> {
        let index = self.current(server);
        index.grants(attributes.namespace).find_map(|grant| {
            let subject = grant.subjects.iter().find(|s| s.matches(user))?;
            let allowed = grant.rules.iter().any(|rule| rule.allows(attributes));
            allowed.then(|| format!("RBAC: allowed by {} to {subject}", grant.by))
        })
    }

    /// All rules that `user` has in `namespace`.
    pub fn list(&self, server: &ApiServer, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.current(server);
        let held = index.grants(namespace).filter(|grant| grant.subjects.iter().any(|s| s.matches(user)));
        held.flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    fn current(&self, server: &ApiServer) -> Arc<Index> {
        let compiled_from = RESOURCES.map(|kind| server.cache.of(kind).changed());
        {
            let index = self.index.read();
            if index.compiled_from == compiled_from {
                return index.clone();
            }
        }
        let index = Arc::new(compile(server, compiled_from));
        *self.index.write() = index.clone();
        index
    }
}

fn compile(server: &ApiServer, compiled_from: [u64; 4]) -> Index {
    let all = |kind: &'static Kind| -> Vec<Value> {
        server.cache.of(kind).list(&Filter::default()).0.iter().map(|e| e.parse()).collect()
    };
    let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES.map(all);
    let mut rules: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
    for role in cluster_roles.iter().chain(&roles) {
        let own: Vec<Rule> = role.array_at(&["rules"]).iter().map(Rule::read).collect();
        rules.insert((role.namespace().into(), role.name().into()), Arc::new(own));
    }
    let grant = |binding: &Value| {
        let role = binding.str_at(&["roleRef", "name"]).to_string();
        let namespace =
            if binding["roleRef"]["kind"] == "ClusterRole" { String::new() } else { binding.namespace().to_string() };
        let subjects = binding.array_at(&["subjects"]).iter().map(|s| Subject::read(s, binding.namespace())).collect();
        let kind = if binding.namespace().is_empty() {
            format!("ClusterRoleBinding {:?}", binding.name())
        } else {
            format!("RoleBinding \"{}/{}\"", binding.name(), binding.namespace())
        };
        let by = format!("{kind} of {} {role:?}", binding.str_at(&["roleRef", "kind"]));
        Some(Grant { by, subjects, rules: rules.get(&(namespace, role))?.clone() })
    };
    let cluster = cluster_bindings.iter().filter_map(grant).collect();
    let mut namespaces: HashMap<String, Vec<Grant>> = HashMap::new();
    for binding in &bindings {
        if let Some(grant) = grant(binding) {
            namespaces.entry(binding.namespace().into()).or_default().push(grant);
        }
    }
    Index { compiled_from, cluster, namespaces }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rule: Value, attributes: Attributes<'_>, want: bool) {
        assert_eq!(Rule::read(&rule).allows(&attributes), want, "{rule} on {attributes:?}");
    }

    #[test]
    fn rules_match_as_the_documentation_says() {
        let get = Attributes { verb: "get", group: "", resource: "pods/log", namespace: "n", name: "p", path: "" };
        let rule = |resources: &[&str]| json!({"verbs": ["get"], "apiGroups": [""], "resources": resources});
        check(rule(&["pods"]), get, false);
        check(rule(&["pods/log"]), get, true);
        check(rule(&["*/log"]), get, true);
        check(rule(&["*"]), get, true);
        let named = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["q"]});
        check(named, get, false);
        let path = Attributes { verb: "get", group: "", resource: "", namespace: "", name: "", path: "/healthz/x" };
        check(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}), path, true);
        check(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]}), path, false);
    }
}
