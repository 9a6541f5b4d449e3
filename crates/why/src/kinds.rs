//! The kinds that are read, and those that may be asked about.

/// A kind of the API: compared by this, so by group and plural together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "they are the kinds of Kubernetes by their names")]
pub enum Kind {
    Node,
    Namespace,
    Pod,
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    PersistentVolumeClaim,
    PersistentVolume,
    StorageClass,
    CsiDriver,
    Service,
    EndpointSlice,
    Ingress,
    IngressClass,
    Gateway,
    GatewayClass,
    HttpRoute,
    HorizontalPodAutoscaler,
    PodDisruptionBudget,
    NetworkPolicy,
    ConfigMap,
    Secret,
    ServiceAccount,
    ResourceQuota,
    LimitRange,
    PriorityClass,
    RuntimeClass,
    Event,
    ValidatingWebhookConfiguration,
    MutatingWebhookConfiguration,
    ApiService,
    RoleBinding,
    ClusterRoleBinding,
    Role,
    ClusterRole,
    Lease,
    CertificateSigningRequest,
}

/// What is known of a kind.
#[derive(Debug)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// Its group; empty for the core one.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// Its plural.
    pub plural: &'static str,
    /// Its name in objects.
    pub name: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Short names; kinds that have none here can't be asked about.
    pub asked: &'static [&'static str],
}

const fn resource(
    kind: Kind,
    group: &'static str,
    plural: &'static str,
    name: &'static str,
    namespaced: bool,
    asked: &'static [&'static str],
) -> Resource {
    let version = match kind {
        Kind::HorizontalPodAutoscaler => "v2",
        _ => "v1",
    };
    Resource { kind, group, version, plural, name, namespaced, asked }
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// All kinds that are read.
pub static RESOURCES: [Resource; 40] = [
    resource(Kind::Node, "", "nodes", "Node", false, &["node", "no"]),
    resource(Kind::Namespace, "", "namespaces", "Namespace", false, &["namespace", "ns"]),
    resource(Kind::Pod, "", "pods", "Pod", true, &["pod", "po"]),
    resource(Kind::Deployment, "apps", "deployments", "Deployment", true, &["deployment", "deploy"]),
    resource(Kind::ReplicaSet, "apps", "replicasets", "ReplicaSet", true, &["replicaset", "rs"]),
    resource(Kind::StatefulSet, "apps", "statefulsets", "StatefulSet", true, &["statefulset", "sts"]),
    resource(Kind::DaemonSet, "apps", "daemonsets", "DaemonSet", true, &["daemonset", "ds"]),
    resource(Kind::Job, "batch", "jobs", "Job", true, &["job"]),
    resource(Kind::CronJob, "batch", "cronjobs", "CronJob", true, &["cronjob", "cj"]),
    resource(
        Kind::PersistentVolumeClaim,
        "",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        true,
        &["persistentvolumeclaim", "pvc"],
    ),
    resource(Kind::PersistentVolume, "", "persistentvolumes", "PersistentVolume", false, &["persistentvolume", "pv"]),
    resource(Kind::StorageClass, "storage.k8s.io", "storageclasses", "StorageClass", false, &[]),
    resource(Kind::CsiDriver, "storage.k8s.io", "csidrivers", "CSIDriver", false, &[]),
    resource(Kind::Service, "", "services", "Service", true, &["service", "svc"]),
    resource(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices", "EndpointSlice", true, &[]),
    resource(Kind::Ingress, "networking.k8s.io", "ingresses", "Ingress", true, &["ingress", "ing"]),
    resource(Kind::IngressClass, "networking.k8s.io", "ingressclasses", "IngressClass", false, &[]),
    resource(Kind::Gateway, GATEWAY, "gateways", "Gateway", true, &["gateway", "gtw"]),
    resource(Kind::GatewayClass, GATEWAY, "gatewayclasses", "GatewayClass", false, &[]),
    resource(Kind::HttpRoute, GATEWAY, "httproutes", "HTTPRoute", true, &["httproute"]),
    resource(
        Kind::HorizontalPodAutoscaler,
        "autoscaling",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        true,
        &["horizontalpodautoscaler", "hpa"],
    ),
    resource(
        Kind::PodDisruptionBudget,
        "policy",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        true,
        &["poddisruptionbudget", "pdb"],
    ),
    resource(
        Kind::NetworkPolicy,
        "networking.k8s.io",
        "networkpolicies",
        "NetworkPolicy",
        true,
        &["networkpolicy", "netpol"],
    ),
    resource(Kind::ConfigMap, "", "configmaps", "ConfigMap", true, &[]),
    resource(Kind::Secret, "", "secrets", "Secret", true, &[]),
    resource(Kind::ServiceAccount, "", "serviceaccounts", "ServiceAccount", true, &[]),
    resource(Kind::ResourceQuota, "", "resourcequotas", "ResourceQuota", true, &["resourcequota", "quota"]),
    resource(Kind::LimitRange, "", "limitranges", "LimitRange", true, &[]),
    resource(Kind::PriorityClass, "scheduling.k8s.io", "priorityclasses", "PriorityClass", false, &[]),
    resource(Kind::RuntimeClass, "node.k8s.io", "runtimeclasses", "RuntimeClass", false, &[]),
    resource(Kind::Event, "", "events", "Event", true, &[]),
    resource(
        Kind::ValidatingWebhookConfiguration,
        ADMISSION,
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        false,
        &[],
    ),
    resource(
        Kind::MutatingWebhookConfiguration,
        ADMISSION,
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        false,
        &[],
    ),
    resource(Kind::ApiService, "apiregistration.k8s.io", "apiservices", "APIService", false, &[]),
    resource(Kind::RoleBinding, RBAC, "rolebindings", "RoleBinding", true, &[]),
    resource(Kind::ClusterRoleBinding, RBAC, "clusterrolebindings", "ClusterRoleBinding", false, &[]),
    resource(Kind::Role, RBAC, "roles", "Role", true, &[]),
    resource(Kind::ClusterRole, RBAC, "clusterroles", "ClusterRole", false, &[]),
    resource(Kind::Lease, "coordination.k8s.io", "leases", "Lease", true, &[]),
    resource(
        Kind::CertificateSigningRequest,
        "certificates.k8s.io",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        false,
        &[],
    ),
];

impl Kind {
    /// What is known of it.
    pub fn resource(self) -> &'static Resource {
        // The table is in the order of the variants, which a test checks.
        &RESOURCES[self as usize]
    }

    /// The kind with this group and this name in objects.
    pub fn of(group: &str, name: &str) -> Option<Kind> {
        RESOURCES.iter().find(|r| r.group == group && r.name == name).map(|r| r.kind)
    }

    /// The kind that somebody asks about: `pod`, `pods`, `po`, `deployments.apps`.
    pub fn asked(word: &str) -> Option<Kind> {
        let word = word.to_lowercase();
        let mut resources = RESOURCES.iter().filter(|r| !r.asked.is_empty());
        let found = resources.find(|r| {
            r.asked.contains(&word.as_str())
                || r.plural == word
                || (!r.group.is_empty() && word == format!("{}.{}", r.plural, r.group))
        });
        found.map(|r| r.kind)
    }

    /// All words by which one may ask.
    pub fn words() -> impl Iterator<Item = &'static str> {
        RESOURCES.iter().flat_map(|r| r.asked.iter().copied())
    }

    /// What to write in a command: `pod`, `deployment`; for kinds that nobody asks about, the plural with its group.
    pub fn word(self) -> String {
        let resource = self.resource();
        match resource.asked.first() {
            Some(word) => (*word).into(),
            None if resource.group.is_empty() => resource.plural.into(),
            None => format!("{}.{}", resource.plural, resource.group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (index, resource) in RESOURCES.iter().enumerate() {
            assert_eq!(resource.kind as usize, index, "{}", resource.plural);
        }
    }

    #[test]
    fn kinds_are_found_by_any_of_their_names() {
        for word in ["po", "pod", "pods", "Pod"] {
            assert_eq!(Kind::asked(word), Some(Kind::Pod));
        }
        assert_eq!(Kind::asked("deployments.apps"), Some(Kind::Deployment));
        assert_eq!(Kind::asked("deployments.batch"), None);
        assert_eq!(Kind::of("example.com", "Pod"), None);
    }
}
