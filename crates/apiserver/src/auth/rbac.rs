//! Role-based access control (`rbac.authorization.k8s.io`).
//!
//! Roles and bindings are compiled into one index when a request comes after any of them changed.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::{LabelSelector, ObjectExt as _};
use parking_lot::RwLock;
use serde_json::Value;

use super::User;
use crate::ApiServer;
use crate::object::Filter;

/// What is asked for.
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

impl Rule {
    fn read(value: &Value) -> Self {
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
        let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.paths.iter().any(|p| match p.strip_suffix('*') {
                Some(prefix) => a.path.starts_with(prefix),
                None => p == a.path,
            });
        }
        let any_of_subresource = a.resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        has(&self.groups, a.group)
            && (has(&self.resources, a.resource) || any_of_subresource.is_some_and(|r| self.resources.contains(&r)))
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
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

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => *name == user.name,
            Subject::Group(name) => user.is_in(name),
        }
    }
}

#[derive(Debug)]
struct Grant {
    subjects: Vec<Subject>,
    rules: Arc<Vec<Rule>>,
}

#[derive(Debug, Default)]
struct Index {
    /// The revisions of the four resources that the index was made of.
    made_of: [u64; 4],
    cluster: Vec<Grant>,
    namespaces: HashMap<String, Vec<Grant>>,
}

#[derive(Default)]
pub struct Rbac {
    index: RwLock<Arc<Index>>,
}

const RESOURCES: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

impl Rbac {
    pub fn allows(&self, server: &ApiServer, user: &User, attributes: &Attributes<'_>) -> bool {
        self.rules(server, user, attributes.namespace, |rule| rule.allows(attributes))
    }

    /// All rules that `user` has in `namespace` (SelfSubjectRulesReview).
    pub fn list(&self, server: &ApiServer, user: &User, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        self.rules(server, user, namespace, |rule| {
            all.push(rule.clone());
            false
        });
        all
    }

    /// Goes through a user's rules until `stop` says so; whether it did.
    fn rules(&self, server: &ApiServer, user: &User, namespace: &str, mut stop: impl FnMut(&Rule) -> bool) -> bool {
        let index = self.current(server);
        let local = index.namespaces.get(namespace).map(Vec::as_slice).unwrap_or_default();
        index
            .cluster
            .iter()
            .chain(local)
            .filter(|grant| grant.subjects.iter().any(|s| s.is(user)))
            .any(|grant| grant.rules.iter().any(&mut stop))
    }

    fn current(&self, server: &ApiServer) -> Arc<Index> {
        let made_of = RESOURCES.map(|name| server.cache.named(name).changed());
        {
            let index = self.index.read();
            if index.made_of == made_of {
                return index.clone();
            }
        }
        let index = Arc::new(compile(server, made_of));
        *self.index.write() = index.clone();
        index
    }
}

fn compile(server: &ApiServer, made_of: [u64; 4]) -> Index {
    let all = |name: &str| -> Vec<Value> {
        server.cache.named(name).list(&Filter::default()).0.iter().map(|e| e.parse()).collect()
    };
    let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES.map(all);
    let mut rules: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
    for role in cluster_roles.iter().chain(&roles) {
        let mut own: Vec<Rule> = role.array_at(&["rules"]).iter().map(Rule::read).collect();
        for selector in role.array_at(&["aggregationRule", "clusterRoleSelectors"]) {
            let Ok(selector) = LabelSelector::from_json(selector) else { continue };
            let matching = cluster_roles
                .iter()
                .filter(|r| selector.matches(|k| r["metadata"]["labels"].get(k).and_then(Value::as_str)));
            own.extend(matching.flat_map(|r| r.array_at(&["rules"])).map(Rule::read));
        }
        rules.insert((role.namespace().into(), role.name().into()), Arc::new(own));
    }
    let grant = |binding: &Value| {
        let role = binding.str_at(&["roleRef", "name"]).to_string();
        let namespace =
            if binding["roleRef"]["kind"] == "ClusterRole" { String::new() } else { binding.namespace().to_string() };
        let subjects = binding.array_at(&["subjects"]).iter().map(|s| Subject::read(s, binding.namespace())).collect();
        Some(Grant { subjects, rules: rules.get(&(namespace, role))?.clone() })
    };
    let cluster = cluster_bindings.iter().filter_map(grant).collect();
    let mut namespaces: HashMap<String, Vec<Grant>> = HashMap::new();
    for binding in &bindings {
        if let Some(grant) = grant(binding) {
            namespaces.entry(binding.namespace().into()).or_default().push(grant);
        }
    }
    Index { made_of, cluster, namespaces }
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
