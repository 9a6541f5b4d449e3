//! The table of kinds.

/// Which verbs a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Kept in the store: get, list, watch, create, update, patch, delete, deletecollection.
    All,
    /// Answered on the spot and not kept (reviews).
    Create,
    /// Computed (component statuses).
    Read,
}

/// What a kind is, whatever its version: its group and its plural together. A plural alone says nothing, as custom
/// resource definitions may use any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupResource {
    pub group: &'static str,
    pub plural: &'static str,
}

/// Constants for the identities of kinds that something is particular about, and a list of them all.
macro_rules! identities {
    ($($name:ident = $group:expr, $plural:literal;)*) => {
        $(pub const $name: GroupResource = GroupResource { group: $group, plural: $plural };)*
        #[cfg(test)]
        const IDENTITIES: &[GroupResource] = &[$($name),*];
    };
}

identities! {
    CONFIG_MAPS = "", "configmaps";
    ENDPOINTS = "", "endpoints";
    EVENTS = "", "events";
    NAMESPACES = "", "namespaces";
    NODES = "", "nodes";
    PERSISTENT_VOLUMES = "", "persistentvolumes";
    PERSISTENT_VOLUME_CLAIMS = "", "persistentvolumeclaims";
    PODS = "", "pods";
    POD_TEMPLATES = "", "podtemplates";
    REPLICATION_CONTROLLERS = "", "replicationcontrollers";
    RESOURCE_QUOTAS = "", "resourcequotas";
    SECRETS = "", "secrets";
    SERVICES = "", "services";
    SERVICE_ACCOUNTS = "", "serviceaccounts";
    DAEMON_SETS = "apps", "daemonsets";
    DEPLOYMENTS = "apps", "deployments";
    REPLICA_SETS = "apps", "replicasets";
    STATEFUL_SETS = "apps", "statefulsets";
    CRON_JOBS = "batch", "cronjobs";
    JOBS = "batch", "jobs";
    LEASES = "coordination.k8s.io", "leases";
    CSI_NODES = STORAGE, "csinodes";
    ENDPOINT_SLICES = "discovery.k8s.io", "endpointslices";
    INGRESSES = NETWORKING, "ingresses";
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io", "certificatesigningrequests";
    CLUSTER_ROLES = RBAC, "clusterroles";
    CLUSTER_ROLE_BINDINGS = RBAC, "clusterrolebindings";
    ROLES = RBAC, "roles";
    ROLE_BINDINGS = RBAC, "rolebindings";
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io", "customresourcedefinitions";
}

/// The identity of all custom kinds: nothing that is particular to a built-in kind is theirs, whatever they are called.
pub const CUSTOM: GroupResource = GroupResource { group: "*", plural: "*" };

/// A built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub has_status: bool,
    pub has_scale: bool,
    /// Whether `spec` changes raise `metadata.generation`.
    pub has_generation: bool,
    pub verbs: Verbs,
    /// Further fields that field selectors may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Of a custom resource definition.
    pub custom: bool,
}

impl Kind {
    /// What the kind is compared by, never its plural alone.
    pub const fn id(&self) -> GroupResource {
        if self.custom { CUSTOM } else { GroupResource { group: self.group, plural: self.plural } }
    }

    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, or `deployments.apps`: what keys, quotas and definitions call the kind's resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The name of the kind's type in the schema.
    pub fn schema(&self) -> String {
        if self.custom {
            let reversed: Vec<&str> = self.group.rsplit('.').collect();
            return format!("{}.{}.{}", reversed.join("."), self.version, self.kind);
        }
        let package = match self.group {
            "" => "io.k8s.api.core".to_string(),
            "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".into(),
            "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".into(),
            group => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
        };
        format!("{package}.{}.{}", self.version, self.kind)
    }

    /// The kind that objects of this one are kept as, if that is another version or group.
    pub fn kept_as(&self) -> Option<&'static Kind> {
        let of_older = !self.custom && OLDER.contains(self);
        // The same objects as the core group's.
        let group = if self.group == EVENTS_GROUP { "" } else { self.group };
        KINDS.iter().find(|k| of_older && k.group == group && k.plural == self.plural)
    }

    /// What keys of the store and of the cache call the resource that the kind's objects are in.
    pub fn kept_resource(&self) -> String {
        self.kept_as().unwrap_or(self).resource()
    }

    /// Whether what is kept may be of another version than this one.
    pub fn has_versions(&self) -> bool {
        self.custom || self.kept_as().is_some()
    }

    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }
    /// In the category `all`, which `kubectl get all` lists.
    const fn in_all(mut self) -> Self {
        self.categories = &["all"];
        self
    }
    const fn extensions(mut self) -> Self {
        self.categories = &["api-extensions"];
        self
    }
    const fn status(mut self) -> Self {
        self.has_status = true;
        self
    }
    const fn scale(mut self) -> Self {
        self.has_scale = true;
        self
    }
    const fn generation(mut self) -> Self {
        self.has_generation = true;
        self
    }
    const fn review(mut self) -> Self {
        self.verbs = Verbs::Create;
        self
    }
    const fn select(mut self, fields: &'static [&'static str]) -> Self {
        self.selectable = fields;
        self
    }
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        short_names: &[],
        categories: &[],
        namespaced,
        has_status: false,
        has_scale: false,
        has_generation: false,
        verbs: Verbs::All,
        selectable: &[],
        custom: false,
    }
}

const fn ns(group: &'static str, version: &'static str, name: &'static str, plural: &'static str) -> Kind {
    kind(group, version, name, plural, true)
}

const fn cluster(group: &'static str, version: &'static str, name: &'static str, plural: &'static str) -> Kind {
    kind(group, version, name, plural, false)
}

const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const EVENTS_GROUP: &str = "events.k8s.io";

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "type",
    "source",
];
/// What the same are called in `events.k8s.io`, in the same order; the source can't be chosen by there.
const REGARDING_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// All built-in kinds, in the order in which discovery lists their groups.
pub static KINDS: &[Kind] = &[
    ns("", "v1", "Binding", "bindings").review(),
    ns("", "v1", "ConfigMap", "configmaps").short(&["cm"]),
    ns("", "v1", "Endpoints", "endpoints").short(&["ep"]),
    ns("", "v1", "Event", "events").short(&["ev"]).select(EVENT_FIELDS),
    ns("", "v1", "LimitRange", "limitranges").short(&["limits"]),
    cluster("", "v1", "Namespace", "namespaces").short(&["ns"]).status().select(&["status.phase"]),
    cluster("", "v1", "Node", "nodes").short(&["no"]).status().select(&["spec.unschedulable"]),
    ns("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).status(),
    cluster("", "v1", "PersistentVolume", "persistentvolumes").short(&["pv"]).status(),
    ns("", "v1", "Pod", "pods").short(&["po"]).in_all().status().generation().select(POD_FIELDS),
    ns("", "v1", "PodTemplate", "podtemplates"),
    ns("", "v1", "ReplicationController", "replicationcontrollers")
        .short(&["rc"])
        .in_all()
        .status()
        .scale()
        .generation()
        .select(&["status.replicas"]),
    ns("", "v1", "ResourceQuota", "resourcequotas").short(&["quota"]).status(),
    ns("", "v1", "Secret", "secrets").select(&["type"]),
    ns("", "v1", "ServiceAccount", "serviceaccounts").short(&["sa"]),
    ns("", "v1", "Service", "services").short(&["svc"]).in_all().status().select(&["spec.clusterIP", "spec.type"]),
    ns("apps", "v1", "ControllerRevision", "controllerrevisions"),
    ns("apps", "v1", "DaemonSet", "daemonsets").short(&["ds"]).in_all().status().generation(),
    ns("apps", "v1", "Deployment", "deployments").short(&["deploy"]).in_all().status().scale().generation(),
    ns("apps", "v1", "ReplicaSet", "replicasets")
        .short(&["rs"])
        .in_all()
        .status()
        .scale()
        .generation()
        .select(&["status.replicas"]),
    ns("apps", "v1", "StatefulSet", "statefulsets").short(&["sts"]).in_all().status().scale().generation(),
    ns("batch", "v1", "CronJob", "cronjobs").short(&["cj"]).in_all().status().generation(),
    ns("batch", "v1", "Job", "jobs").in_all().status().generation().select(&["status.successful"]),
    ns("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers").short(&["hpa"]).in_all().status(),
    ns("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets").short(&["pdb"]).status().generation(),
    ns(NETWORKING, "v1", "Ingress", "ingresses").short(&["ing"]).status().generation(),
    cluster(NETWORKING, "v1", "IngressClass", "ingressclasses").generation(),
    cluster(NETWORKING, "v1", "IPAddress", "ipaddresses").short(&["ip"]).select(&["spec.parentRef.name"]),
    ns(NETWORKING, "v1", "NetworkPolicy", "networkpolicies").short(&["netpol"]).generation(),
    cluster(NETWORKING, "v1", "ServiceCIDR", "servicecidrs").status().generation(),
    ns("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").generation(),
    ns("coordination.k8s.io", "v1", "Lease", "leases"),
    cluster(STORAGE, "v1", "CSIDriver", "csidrivers"),
    cluster(STORAGE, "v1", "CSINode", "csinodes"),
    ns(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities"),
    cluster(STORAGE, "v1", "StorageClass", "storageclasses").short(&["sc"]),
    cluster(STORAGE, "v1", "VolumeAttachment", "volumeattachments").status(),
    cluster(STORAGE, "v1", "VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]),
    cluster(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
    cluster(RBAC, "v1", "ClusterRole", "clusterroles"),
    ns(RBAC, "v1", "RoleBinding", "rolebindings"),
    ns(RBAC, "v1", "Role", "roles"),
    cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]),
    cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses"),
    cluster("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .short(&["csr"])
        .status()
        .select(&["spec.signerName"]),
    cluster(ADMISSION, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies").extensions().generation(),
    cluster(ADMISSION, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
        .extensions()
        .generation(),
    cluster(ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations").extensions().generation(),
    cluster(ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
        .extensions()
        .generation(),
    cluster(ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .extensions()
        .status()
        .generation(),
    cluster(ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
        .extensions()
        .generation(),
    cluster("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .extensions()
        .status()
        .generation(),
    cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices").extensions().status(),
    cluster("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas").status().generation(),
    cluster("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .status()
        .generation(),
    cluster(RESOURCE, "v1", "DeviceClass", "deviceclasses").generation(),
    ns(RESOURCE, "v1", "ResourceClaim", "resourceclaims").status(),
    ns(RESOURCE, "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
    cluster(RESOURCE, "v1", "ResourceSlice", "resourceslices").generation().select(&["spec.nodeName", "spec.driver"]),
    cluster("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").review(),
    cluster("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews").review(),
    ns(AUTHORIZATION, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews").review(),
    cluster(AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews").review(),
    cluster(AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews").review(),
    cluster(AUTHORIZATION, "v1", "SubjectAccessReview", "subjectaccessreviews").review(),
];

/// Further versions of kinds in the table: an older one, or another group's. Their objects are kept as the kind of the
/// table ([`crate::versions`]).
pub static OLDER: &[Kind] = &[
    ns("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers").short(&["hpa"]).in_all().status(),
    ns(EVENTS_GROUP, "v1", "Event", "events").short(&["ev"]).select(REGARDING_FIELDS),
];

/// The kind that `group`, `version` and `plural` name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().chain(OLDER).find(|k| k.plural == plural && k.version == version && k.group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema() {
        for kind in KINDS.iter().chain(OLDER) {
            assert!(crate::schema::types().contains(&kind.schema()), "{} is unknown", kind.schema());
        }
    }

    #[test]
    fn every_identity_is_that_of_a_kind() {
        for id in IDENTITIES {
            assert_eq!(KINDS.iter().filter(|k| k.id() == *id).count(), 1, "{id:?}");
        }
    }

    #[test]
    fn no_resource_is_listed_twice() {
        for (i, a) in KINDS.iter().enumerate() {
            assert!(!KINDS[i + 1..].iter().any(|b| (a.group, a.plural) == (b.group, b.plural)), "{}", a.plural);
        }
    }
}
