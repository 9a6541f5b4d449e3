//! The objects that every cluster has, besides roles, flow schemas, priority levels and APIServices.

use serde_json::{Value, json};

use crate::ApiServer;
use crate::pipeline::kubernetes_address;

/// The namespaces of the system.
pub fn namespaces() -> Vec<Value> {
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    ["default", "kube-system", "kube-public", "kube-node-lease"].map(namespace).into()
}

/// The PriorityClasses of the system.
pub fn priority_classes() -> Vec<Value> {
    let class = |(name, value)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": "Used for system critical pods."})
    };
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)].map(class).into()
}

/// The services `kubernetes` and `kube-dns`.
pub fn services(server: &ApiServer) -> Vec<Value> {
    let address = kubernetes_address(&server.config.service_cidr);
    let kubernetes = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address.to_string(),
                 "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.advertise.1}]}});
    let dns = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system",
                     "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"}},
        "spec": {"type": "ClusterIP", "clusterIP": server.config.cluster_dns.to_string(),
                 "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                           {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                           {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153}]}});
    // With `--disable dns` the administrator brings a service of this name.
    let own = !server.config.disabled.iter().any(|part| part == "dns");
    std::iter::once(kubernetes).chain(own.then_some(dns)).collect()
}

/// The Endpoints of the service `kubernetes`.
pub fn endpoints(server: &ApiServer) -> Vec<Value> {
    let (address, port) = server.config.advertise;
    if address.is_loopback() {
        // A machine without another address. Endpoints can't have it; the slice can.
        return Vec::new();
    }
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address.to_string()}],
                     "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    vec![endpoints]
}

/// The EndpointSlice of the service `kubernetes`.
pub fn endpoint_slice(server: &ApiServer) -> Value {
    let (address, port) = server.config.advertise;
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
}

/// The authorities that further API servers trust (upstream's `clusterauthenticationtrust` controller).
pub fn authentication(server: &ApiServer) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": server.config.authority.certificate_pem(),
            "requestheader-client-ca-file": server.config.front_proxy_authority,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]"}})
}

/// The settings of the cluster that every node reads.
pub fn cluster(server: &ApiServer) -> Value {
    let config = &server.config;
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "timonel-cluster", "namespace": "kube-system"},
        "data": {"cluster-cidr": config.cluster_cidr.to_string(), "service-cidr": config.service_cidr.to_string(),
                 "cluster-dns": config.cluster_dns.to_string(), "cluster-domain": config.cluster_domain,
                 "disable": config.disabled.join(",")}})
}
