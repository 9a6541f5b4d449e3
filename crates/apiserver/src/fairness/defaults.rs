//! The flow schemas and priority levels that every cluster begins with, under upstream's names and figures.

use serde_json::{Value, json};

/// Name, shares, percent that is lent; queues, hand and length of a queue, or zero for a level that refuses.
type Level = (&'static str, u64, u64, [u64; 3]);

const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, [0, 0, 0]),
    ("global-default", 20, 50, [128, 6, 50]),
    ("leader-election", 10, 0, [16, 4, 50]),
    ("node-high", 40, 25, [64, 6, 50]),
    ("system", 30, 33, [64, 6, 50]),
    ("workload-high", 40, 50, [128, 6, 50]),
    ("workload-low", 100, 90, [128, 6, 50]),
];

/// What is asked of resources: verbs, API groups, resources, namespaces. `/` among the latter is the cluster's scope.
type Resources = (&'static str, &'static str, &'static str, &'static str);

struct Schema {
    name: &'static str,
    precedence: u64,
    level: &'static str,
    /// `ByUser`, `ByNamespace` or nothing.
    by: &'static str,
    /// `u:` a user, `g:` a group, `a:` a service account of kube-system.
    subjects: &'static str,
    resources: &'static [Resources],
    /// Verbs and paths.
    paths: (&'static str, &'static str),
}

const EVERYTHING: &[Resources] = &[("*", "*", "*", "* /")];
const ALL_PATHS: (&str, &str) = ("*", "*");
const NO_PATHS: (&str, &str) = ("", "");

const SCHEMAS: &[Schema] = &[
    Schema {
        name: "exempt",
        precedence: 1,
        level: "exempt",
        by: "",
        subjects: "g:system:masters",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "probes",
        precedence: 2,
        level: "exempt",
        by: "",
        subjects: "g:system:unauthenticated g:system:authenticated",
        resources: &[],
        paths: ("get", "/healthz /readyz /livez"),
    },
    Schema {
        name: "system-leader-election",
        precedence: 100,
        level: "leader-election",
        by: "ByUser",
        subjects: "u:system:kube-controller-manager u:system:kube-scheduler a:*",
        resources: &[("get create update", "coordination.k8s.io", "leases", "*")],
        paths: NO_PATHS,
    },
    Schema {
        name: "endpoint-controller",
        precedence: 150,
        level: "workload-high",
        by: "ByUser",
        subjects: "u:system:kube-controller-manager a:endpoint-controller a:endpointslicemirroring-controller",
        resources: &[("get create update", "''", "endpoints", "*")],
        paths: NO_PATHS,
    },
    Schema {
        name: "workload-leader-election",
        precedence: 200,
        level: "leader-election",
        by: "ByUser",
        subjects: "a:*",
        resources: &[
            ("get create update", "''", "endpoints configmaps", "*"),
            ("get create update", "coordination.k8s.io", "leases", "*"),
        ],
        paths: NO_PATHS,
    },
    Schema {
        name: "system-node-high",
        precedence: 400,
        level: "node-high",
        by: "ByUser",
        subjects: "g:system:nodes",
        resources: &[("*", "''", "nodes nodes/status", "* /"), ("*", "coordination.k8s.io", "leases", "*")],
        paths: NO_PATHS,
    },
    Schema {
        name: "system-nodes",
        precedence: 500,
        level: "system",
        by: "ByUser",
        subjects: "g:system:nodes",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "kube-controller-manager",
        precedence: 800,
        level: "workload-high",
        by: "ByNamespace",
        subjects: "u:system:kube-controller-manager",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "kube-scheduler",
        precedence: 800,
        level: "workload-high",
        by: "ByNamespace",
        subjects: "u:system:kube-scheduler",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "kube-system-service-accounts",
        precedence: 900,
        level: "workload-high",
        by: "ByNamespace",
        subjects: "a:*",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "service-accounts",
        precedence: 9000,
        level: "workload-low",
        by: "ByUser",
        subjects: "g:system:serviceaccounts",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "global-default",
        precedence: 9900,
        level: "global-default",
        by: "ByUser",
        subjects: "g:system:unauthenticated g:system:authenticated",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
    Schema {
        name: "catch-all",
        precedence: 10_000,
        level: "catch-all",
        by: "ByUser",
        subjects: "g:system:unauthenticated g:system:authenticated",
        resources: EVERYTHING,
        paths: ALL_PATHS,
    },
];

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// The PriorityLevelConfigurations of every cluster.
pub fn levels() -> Vec<Value> {
    let object = |name: &str, spec: Value| {
        json!({"apiVersion": API_VERSION, "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec})
    };
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let limited = LEVELS.iter().map(|(name, shares, lent, [queues, hand, length])| {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            _ => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response});
        object(name, json!({"type": "Limited", "limited": limited}))
    });
    std::iter::once(object("exempt", exempt)).chain(limited).collect()
}

/// The FlowSchemas of every cluster.
pub fn schemas() -> Vec<Value> {
    SCHEMAS.iter().map(schema).collect()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().map(|word| if word == "''" { "" } else { word }).collect()
}

fn schema(of: &Schema) -> Value {
    let subject = |word: &str| match word.split_at(2) {
        ("u:", name) => json!({"kind": "User", "user": {"name": name}}),
        ("g:", name) => json!({"kind": "Group", "group": {"name": name}}),
        (_, name) => {
            json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})
        }
    };
    let resources = of.resources.iter().map(|(verbs, groups, resources, scopes)| {
        let (cluster, namespaces): (Vec<&str>, Vec<&str>) = words(scopes).into_iter().partition(|s| *s == "/");
        let mut rule = json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)});
        if !cluster.is_empty() {
            rule["clusterScope"] = true.into();
        }
        rule["namespaces"] = json!(namespaces);
        rule
    });
    let mut rule = json!({"subjects": of.subjects.split_whitespace().map(subject).collect::<Vec<_>>()});
    let resources: Vec<Value> = resources.collect();
    if !resources.is_empty() {
        rule["resourceRules"] = resources.into();
    }
    if of.paths != NO_PATHS {
        rule["nonResourceRules"] = json!([{"verbs": words(of.paths.0), "nonResourceURLs": words(of.paths.1)}]);
    }
    let mut spec = json!({"matchingPrecedence": of.precedence,
        "priorityLevelConfiguration": {"name": of.level}, "rules": [rule]});
    if !of.by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": of.by});
    }
    json!({"apiVersion": API_VERSION, "kind": "FlowSchema", "spec": spec,
        "metadata": {"name": of.name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}})
}
