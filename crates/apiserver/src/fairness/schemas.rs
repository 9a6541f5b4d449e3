//! Flow schemas (`flowcontrol.apiserver.k8s.io/v1`): which requests belong to which flow of which level.

use apimachinery::ObjectExt as _;
use serde_json::Value;

use super::queues::{Levels, Limits, Queuing};
use crate::authentication::User;
use crate::request::RequestInfo;

/// What a request asks for, as far as flow schemas sort by it (upstream's `RequestDigest`).
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestDigest<'a> {
    pub verb: &'a str,
    /// Empty fields for paths that are no resource.
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// The path of a request for no resource, else empty.
    pub path: &'a str,
    /// The most objects that a list may answer with.
    pub limit: Option<usize>,
}

impl<'a> RequestDigest<'a> {
    /// The digest of a request for `path`.
    pub fn of(request_info: &'a RequestInfo, path: &'a str) -> Self {
        let verb = request_info.verb.unwrap_or("");
        let Some(resource) = &request_info.resource else {
            return RequestDigest { verb, path, ..RequestDigest::default() };
        };
        let limit = request_info.query.number("limit").ok().flatten();
        RequestDigest {
            verb,
            group: &resource.path.group,
            version: &resource.path.version,
            resource: &resource.path.plural,
            subresource: &resource.path.subresource,
            namespace: &resource.path.namespace,
            path: "",
            // A list of the past may have to be read from the store whole, however little of it is answered.
            limit: limit.filter(|limit| *limit > 0 && !request_info.query.is_of_the_past()),
        }
    }
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; `*` for all of the namespace.
    ServiceAccount(String, String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Distinguisher {
    #[default]
    None,
    User,
    Namespace,
}

/// A FlowSchema.
#[derive(Debug, Default)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level_name: String,
    pub level_uid: String,
    /// The level's place among the limited ones; `None` for the exempt.
    pub level: Option<usize>,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// The schema and level of requests that match no other schema.
const CATCH_ALL: &str = "catch-all";

/// All FlowSchemas, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Schemas {
    /// The revisions of schemas and levels that this was read from.
    pub compiled_from: [u64; 2],
    /// In the order in which they are tried.
    schemas: Vec<Schema>,
    /// For requests that match no schema.
    catch_all: Schema,
}

/// A flow: its schema, and the distinguisher within that.
pub struct Flow<'a> {
    pub schema: &'a Schema,
    pub distinguisher: &'a str,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        Some(match value.str_at(&["kind"]) {
            "User" => Subject::User(value.str_at(&["user", "name"]).into()),
            "Group" => Subject::Group(value.str_at(&["group", "name"]).into()),
            "ServiceAccount" => {
                let of = &value["serviceAccount"];
                Subject::ServiceAccount(of.str_at(&["namespace"]).into(), of.str_at(&["name"]).into())
            }
            _ => return None,
        })
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::ServiceAccount(namespace, name) => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(n, account)| n == namespace && (name == "*" || name == account)),
        }
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        let list = |of: &Value, key: &str| of.strings_at(&[key]).into_iter().map(String::from).collect::<Vec<_>>();
        let resource = |of: &Value| ResourceRule {
            verbs: list(of, "verbs"),
            groups: list(of, "apiGroups"),
            resources: list(of, "resources"),
            cluster: of["clusterScope"] == true,
            namespaces: list(of, "namespaces"),
        };
        Rule {
            subjects: value.array_at(&["subjects"]).iter().filter_map(Subject::read).collect(),
            resources: value.array_at(&["resourceRules"]).iter().map(resource).collect(),
            paths: value
                .array_at(&["nonResourceRules"])
                .iter()
                .map(|of| PathRule { verbs: list(of, "verbs"), paths: list(of, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, user: &User, digest: &RequestDigest<'_>) -> bool {
        let wanted = if digest.resource.is_empty() {
            self.paths.iter().any(|rule| rule.matches(digest))
        } else {
            self.resources.iter().any(|rule| rule.matches(digest))
        };
        wanted && self.subjects.iter().any(|subject| subject.matches(user))
    }
}

impl ResourceRule {
    fn matches(&self, digest: &RequestDigest<'_>) -> bool {
        let resource = match digest.subresource {
            "" => has(&self.resources, digest.resource),
            subresource => self
                .resources
                .iter()
                .any(|r| r == "*" || r.split_once('/').is_some_and(|(r, s)| r == digest.resource && s == subresource)),
        };
        let scope = if digest.namespace.is_empty() { self.cluster } else { has(&self.namespaces, digest.namespace) };
        resource && scope && has(&self.verbs, digest.verb) && has(&self.groups, digest.group)
    }
}

impl PathRule {
    fn matches(&self, digest: &RequestDigest<'_>) -> bool {
        let path = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => digest.path.starts_with(prefix),
            None => pattern == digest.path,
        };
        has(&self.verbs, digest.verb) && self.paths.iter().any(path)
    }
}

impl Schemas {
    /// Reads schemas and levels; `levels` takes the limits of the latter.
    pub fn read(schemas: &[Value], configurations: &[Value], compiled_from: [u64; 2], levels: &mut Levels) -> Self {
        let mut limited: Vec<(String, Limits)> = configurations.iter().filter_map(limits).collect();
        if !limited.iter().any(|(name, _)| name == CATCH_ALL) {
            // It was deleted; requests that match no schema must have limits all the same.
            limited.push((CATCH_ALL.into(), Limits { shares: 5, lendable: 0, borrowing: None, queuing: None }));
        }
        levels.configure(&limited);
        let read = |value: &Value| {
            let level_name = value.str_at(&["spec", "priorityLevelConfiguration", "name"]).to_string();
            let level = configurations.iter().find(|l| l.name() == level_name)?;
            Some(Schema {
                name: value.name().into(),
                uid: value.uid().into(),
                level_uid: level.uid().into(),
                level: levels.index(&level_name).filter(|_| level["spec"]["type"] != "Exempt"),
                level_name,
                precedence: value.i64_at(&["spec", "matchingPrecedence"]).unwrap_or(1000),
                distinguisher: match value.str_at(&["spec", "distinguisherMethod", "type"]) {
                    "ByUser" => Distinguisher::User,
                    "ByNamespace" => Distinguisher::Namespace,
                    _ => Distinguisher::None,
                },
                rules: value.array_at(&["spec", "rules"]).iter().map(Rule::read).collect(),
            })
        };
        let mut schemas: Vec<Schema> = schemas.iter().filter_map(read).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let catch_all = Schema {
            name: CATCH_ALL.into(),
            level_name: CATCH_ALL.into(),
            level: levels.index(CATCH_ALL),
            ..Schema::default()
        };
        Schemas { compiled_from, schemas, catch_all }
    }

    /// The first schema that matches a request, and its flow there.
    pub fn sort<'a>(&'a self, user: &'a User, digest: &RequestDigest<'a>) -> Flow<'a> {
        let found = self.schemas.iter().find(|s| s.rules.iter().any(|rule| rule.matches(user, digest)));
        let schema = found.unwrap_or(&self.catch_all);
        let distinguisher = match schema.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => digest.namespace,
        };
        Flow { schema, distinguisher }
    }
}

/// A level's limits; `None` for exempt ones.
fn limits(level: &Value) -> Option<(String, Limits)> {
    if level["spec"]["type"] == "Exempt" {
        return None;
    }
    let of = level.at(&["spec", "limited"]);
    let number = |value: &Value, key: &str, default: u64| value[key].as_u64().unwrap_or(default);
    let queuing = of.at(&["limitResponse", "queuing"]);
    let queues = (of["limitResponse"]["type"] == "Queue").then(|| Queuing {
        queues: number(queuing, "queues", 64).clamp(1, 10_000) as usize,
        hand: number(queuing, "handSize", 8).clamp(1, 64) as usize,
        length: number(queuing, "queueLengthLimit", 50) as usize,
    });
    let limits = Limits {
        shares: number(of, "nominalConcurrencyShares", 30),
        lendable: number(of, "lendablePercent", 0).min(100),
        borrowing: of["borrowingLimitPercent"].as_u64(),
        queuing: queues,
    };
    Some((level.name().into(), limits))
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;
    use crate::registry::Catalog;

    fn sorted(user: &User, digest: &RequestDigest<'_>) -> String {
        let mut levels = Levels::default();
        let schemas = Schemas::read(&defaults::schemas(), &defaults::levels(), [1, 1], &mut levels);
        let flow = schemas.sort(user, digest);
        format!("{} {} {}", flow.schema.name, flow.schema.level_name, flow.distinguisher)
    }

    #[test]
    fn requests_find_their_level() {
        let user = |name: &str, group: &str| User::new(name, &[group, "system:authenticated"]);
        let node = user("system:node:a", "system:nodes");
        let account = User::service_account("shop", "web", "");
        let list = RequestDigest {
            verb: "list",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "shop",
            path: "",
            limit: None,
        };
        let cluster = RequestDigest { namespace: "", ..list };
        let lease = RequestDigest { verb: "update", group: "coordination.k8s.io", resource: "leases", ..list };
        let health = RequestDigest { verb: "get", resource: "", path: "/healthz", ..list };
        let cases: [(&User, RequestDigest<'_>, &str); 9] = [
            (&user("me", "system:masters"), list, "exempt exempt "),
            (&user("ana", "staff"), list, "global-default global-default ana"),
            (&user("ana", "staff"), cluster, "global-default global-default ana"),
            (&user("ana", "staff"), health, "probes exempt "),
            (&account, list, "service-accounts workload-low system:serviceaccount:shop:web"),
            (&node, list, "system-nodes system system:node:a"),
            (
                &node,
                RequestDigest { namespace: "kube-node-lease", ..lease },
                "system-node-high node-high system:node:a",
            ),
            (
                &node,
                RequestDigest { resource: "nodes", subresource: "status", ..cluster },
                "system-node-high node-high system:node:a",
            ),
            (&user("system:kube-controller-manager", "x"), list, "kube-controller-manager workload-high shop"),
        ];
        for (user, digest, want) in cases {
            assert_eq!(sorted(user, &digest), want);
        }
        assert_eq!(sorted(&User::new("x", &[]), &list), "catch-all catch-all ");
    }

    #[test]
    fn a_list_of_the_past_counts_whole() {
        for (query, limit) in [
            ("limit=5", Some(5)),
            ("limit=0", None),
            ("", None),
            ("limit=5&continue=abc", None),
            ("limit=5&resourceVersion=7&resourceVersionMatch=Exact", None),
            ("limit=5&resourceVersion=7", None),
            ("limit=5&resourceVersion=0", Some(5)),
            ("limit=5&resourceVersion=7&resourceVersionMatch=NotOlderThan", Some(5)),
        ] {
            let uri = format!("/api/v1/pods?{query}").parse().unwrap();
            let request_info = RequestInfo::read(&Catalog::default(), &http::Method::GET, &uri);
            assert_eq!(RequestDigest::of(&request_info, uri.path()).limit, limit, "{query:?}");
        }
    }
}
