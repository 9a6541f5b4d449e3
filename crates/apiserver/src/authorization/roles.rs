//! The roles and bindings that every cluster has. Names and rules follow upstream's defaults; those of upstream's
//! single controllers are missing, as ours run under one identity.

use serde_json::{Value, json};

use crate::authentication::{AUTHENTICATED, BOOTSTRAPPERS, MASTERS, UNAUTHENTICATED};

/// (verbs, API groups, resources), each a list with spaces in between.
type Rule = (&'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const CORE: &str = "''";

/// What every user of a namespace may see.
const VIEW: &[Rule] = &[
    (
        READ,
        CORE,
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status \
         replicationcontrollers replicationcontrollers/scale replicationcontrollers/status serviceaccounts services \
         services/status bindings events limitranges namespaces namespaces/status resourcequotas resourcequotas/status",
    ),
    (READ, "discovery.k8s.io", "endpointslices"),
    (
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    (READ, "metrics.k8s.io", "pods nodes"),
    (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

const EDIT: &[Rule] = &[
    (READ, CORE, "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    ("impersonate", CORE, "serviceaccounts"),
    (WRITE, CORE, "pods pods/attach pods/exec pods/portforward pods/proxy"),
    ("create", CORE, "pods/eviction serviceaccounts/token"),
    (
        WRITE,
        CORE,
        // No Endpoints and no EndpointSlices: their writer can redirect services of others anywhere (CVE-2021-25740).
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    (
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    (WRITE, "autoscaling", "horizontalpodautoscalers"),
    (WRITE, "batch", "cronjobs jobs"),
    (WRITE, "policy", "poddisruptionbudgets"),
    (WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    (WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
];

const ADMIN: &[Rule] = &[
    ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    ("create delete deletecollection get list patch update watch", "rbac.authorization.k8s.io", "rolebindings roles"),
];

const SCHEDULER: &[Rule] = &[
    ("create patch update", "'' events.k8s.io", "events"),
    (READ, CORE, "nodes pods persistentvolumeclaims persistentvolumes namespaces services replicationcontrollers"),
    ("create", CORE, "bindings pods/binding"),
    ("patch update", CORE, "pods/status"),
    ("delete", CORE, "pods"),
    ("patch update", CORE, "persistentvolumeclaims persistentvolumes"),
    (READ, "apps", "replicasets statefulsets"),
    (READ, "policy", "poddisruptionbudgets"),
    (READ, "storage.k8s.io", "storageclasses csinodes csidrivers csistoragecapacities volumeattachments"),
    (READ, "resource.k8s.io", "deviceclasses resourceslices devicetaintrules"),
    ("get list watch update patch", "resource.k8s.io", "resourceclaims resourceclaims/status"),
];

const BOOTSTRAPPER: &[Rule] = &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")];

/// Whom pods may trust is nobody's secret.
const TRUST_BUNDLES: &[Rule] = &[(READ, "certificates.k8s.io", "clustertrustbundles")];

/// Reviews of a user's own identity and rights.
const OWN_REVIEWS: &[Rule] = &[
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
];

const AUTH_DELEGATOR: &[Rule] =
    &[("create", "authentication.k8s.io", "tokenreviews"), ("create", "authorization.k8s.io", "subjectaccessreviews")];

const KUBELET_API_ADMIN: &[Rule] = &[(READ, CORE, "nodes"), ("*", CORE, KUBELET), ("proxy", CORE, "nodes")];

const NODE_PROBLEM_DETECTOR: &[Rule] = &[("get", CORE, "nodes"), ("patch", CORE, "nodes/status"), EVENTS];

const VOLUME_SCHEDULER: &[Rule] = &[
    ("get list patch update watch", CORE, "persistentvolumes"),
    (READ, "storage.k8s.io", "storageclasses"),
    ("get list patch update watch", CORE, "persistentvolumeclaims"),
];

const VOLUME_PROVISIONER: &[Rule] = &[
    ("create delete get list watch", CORE, "persistentvolumes"),
    ("get list update watch", CORE, "persistentvolumeclaims"),
    (READ, "storage.k8s.io", "storageclasses"),
    (READ, CORE, "events"),
    ("create patch update", CORE, "events"),
];

const EVENTS: Rule = ("create patch update", "'' events.k8s.io", "events");
/// Resources by which kubelets authorize requests to their own API.
const KUBELET: &str = "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats";

/// A role that may do something with the requests to one signer.
fn signing(name: &str, verb: &str, signer: &str) -> Value {
    let rule = json!({"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [signer]});
    role(&format!("system:certificates.k8s.io:{name}"), json!([rule]))
}

fn words(list: &str) -> Vec<&str> {
    list.split_whitespace().map(|w| if w == "''" { "" } else { w }).collect()
}

fn rules(sets: &[&[Rule]]) -> Value {
    let rule = |(verbs, groups, resources): &Rule| json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)});
    sets.iter().flat_map(|set| set.iter().map(rule)).collect()
}

fn role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
           "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
           "rules": rules})
}

fn paths(verb: &str, paths: &[&str]) -> Value {
    json!([{"verbs": [verb], "nonResourceURLs": paths}])
}

/// A role that is aggregated into another.
fn part_of(mut role: Value, name: &str) -> Value {
    role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{name}")] = "true".into();
    role
}

/// A role that has the rules of all roles labelled for it. `rules` are those of the ones that come with it; a controller adds
/// further ones.
fn aggregated(name: &str, rules: Value) -> Value {
    let mut role = role(name, rules);
    let key = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {key: "true"}}]});
    role
}

/// Rules for access to everything.
fn everything() -> Value {
    json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
}

/// The ClusterRoles of every cluster.
pub fn cluster_roles() -> Vec<Value> {
    [user_roles(), discovery_roles(), component_roles()].concat()
}

/// Roles that are bound to users of the cluster, and what they are aggregated from.
fn user_roles() -> Vec<Value> {
    vec![
        role("cluster-admin", everything()),
        aggregated("admin", rules(&[EDIT, VIEW, ADMIN])),
        part_of(aggregated("edit", rules(&[EDIT, VIEW])), "admin"),
        part_of(aggregated("view", rules(&[VIEW])), "edit"),
        part_of(role("system:aggregate-to-admin", rules(&[ADMIN])), "admin"),
        part_of(role("system:aggregate-to-edit", rules(&[EDIT])), "edit"),
        part_of(role("system:aggregate-to-view", rules(&[VIEW])), "view"),
    ]
}

/// Roles for paths that are no resources, and for reviews of a user's own rights.
fn discovery_roles() -> Vec<Value> {
    const HEALTH: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
    const DISCOVERY: &[&str] = &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"];
    const METRICS: &[&str] =
        &["/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*"];
    const ISSUER: &[&str] = &[
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ];
    vec![
        role("system:discovery", paths("get", &[DISCOVERY, HEALTH].concat())),
        role("system:basic-user", rules(&[OWN_REVIEWS])),
        role("system:public-info-viewer", paths("get", HEALTH)),
        role("system:monitoring", paths("get", METRICS)),
        role("system:service-account-issuer-discovery", paths("get", ISSUER)),
    ]
}

/// Roles of components of the cluster.
fn component_roles() -> Vec<Value> {
    vec![
        role("system:kube-controller-manager", everything()),
        role("system:kube-scheduler", rules(&[SCHEDULER])),
        role("system:node-bootstrapper", rules(&[BOOTSTRAPPER])),
        role("system:node", json!([])),
        role("system:auth-delegator", rules(&[AUTH_DELEGATOR])),
        role("system:kubelet-api-admin", rules(&[KUBELET_API_ADMIN])),
        role("system:node-problem-detector", rules(&[NODE_PROBLEM_DETECTOR])),
        role("system:volume-scheduler", rules(&[VOLUME_SCHEDULER])),
        role("system:persistent-volume-provisioner", rules(&[VOLUME_PROVISIONER])),
        role("system:cluster-trust-bundle-discovery", rules(&[TRUST_BUNDLES])),
        signing("kube-apiserver-client-approver", "approve", "kubernetes.io/kube-apiserver-client"),
        signing("kube-apiserver-client-kubelet-approver", "approve", "kubernetes.io/kube-apiserver-client-kubelet"),
        signing("kubelet-serving-approver", "approve", "kubernetes.io/kubelet-serving"),
    ]
}

/// The ClusterRoleBindings of every cluster.
pub fn cluster_role_bindings() -> Vec<Value> {
    let bind = |role: &str, kind: &str, subjects: &[&str]| {
        let subjects: Vec<Value> = subjects
            .iter()
            .map(|name| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}))
            .collect();
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
               "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
               "subjects": subjects})
    };
    vec![
        bind("cluster-admin", "Group", &[MASTERS]),
        bind("system:discovery", "Group", &[AUTHENTICATED]),
        bind("system:basic-user", "Group", &[AUTHENTICATED]),
        bind("system:public-info-viewer", "Group", &[AUTHENTICATED, UNAUTHENTICATED]),
        bind("system:monitoring", "Group", &["system:monitoring"]),
        bind("system:kube-controller-manager", "User", &["system:kube-controller-manager"]),
        bind("system:kube-scheduler", "User", &["system:kube-scheduler"]),
        bind("system:node-bootstrapper", "Group", &[BOOTSTRAPPERS]),
        bind("system:service-account-issuer-discovery", "Group", &["system:serviceaccounts"]),
        bind("system:cluster-trust-bundle-discovery", "Group", &["system:serviceaccounts"]),
    ]
}

/// Roles in kube-system.
pub fn system_roles() -> Vec<Value> {
    // For further API servers, which read the authorities that they trust there.
    vec![json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "extension-apiserver-authentication-reader", "namespace": "kube-system",
                     "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"],
                   "resourceNames": ["extension-apiserver-authentication"]}]})]
}
