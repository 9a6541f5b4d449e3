//! Objects that every cluster has, and the sweeping of events.

use std::sync::{Arc, Weak};
use std::time::Duration;

use apimachinery::{ObjectExt as _, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::Write;

use api::{Kind, kinds};

use crate::ApiServer;
use crate::allocator::kubernetes_address;
use crate::auth::{MASTERS, User, roles};
use crate::cache::{object_key, store_key};
use crate::fairness;
use crate::handlers::write::{Creation, create_object};
use crate::object::{Filter, encode};
use crate::relay;

/// Events older than this are removed.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
const EVENT_SWEEP_PERIOD: Duration = Duration::from_secs(120);
/// How long what every cluster needs may be missing.
const REPAIR_PERIOD: Duration = Duration::from_secs(10);

pub async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    namespaces(server).await?;
    let classes = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)].map(|(name, value)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
               "description": "Used for system critical pods."})
    });
    // At once, so that they share a commit.
    futures::try_join!(
        ensure(server, kinds::CLUSTER_ROLES, roles::cluster_roles()),
        ensure(server, kinds::CLUSTER_ROLE_BINDINGS, roles::cluster_role_bindings()),
        ensure(server, kinds::ROLES, roles::system_roles()),
        ensure(server, kinds::PRIORITY_CLASSES, classes.into()),
        ensure(server, kinds::PRIORITY_LEVEL_CONFIGURATIONS, fairness::default_levels()),
        ensure(server, kinds::API_SERVICES, relay::local_services(server)),
        ensure(server, kinds::FLOW_SCHEMAS, fairness::default_schemas()),
        ensure(server, kinds::SERVICES, services(server)),
        ensure(server, kinds::ENDPOINTS, endpoints(server)),
        ensure(server, kinds::ENDPOINT_SLICES, vec![endpoint_slice(server)]),
        ensure(server, kinds::CONFIG_MAPS, vec![authentication(server), cluster(server)]),
    )?;
    Ok(())
}

async fn namespaces(server: &Arc<ApiServer>) -> Result<(), Status> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    ensure(server, kinds::NAMESPACES, namespaces.into()).await
}

/// What clusters don't live without, should somebody have deleted or changed it: leases of nodes have no other place, pods find the API
/// by its service, and further API servers whom to trust (upstream's `kubernetesservice`, `systemnamespaces`, `clusterauthenticationtrust`,
/// flow-control and autoregister controllers). Roles and priority classes are looked after at the start alone, as upstream.
async fn repair(server: &Arc<ApiServer>, whole: bool) -> Result<(), Status> {
    namespaces(server).await?;
    futures::try_join!(
        ensure(server, kinds::SERVICES, services(server)),
        ensure(server, kinds::ENDPOINTS, endpoints(server)),
        ensure(server, kinds::ENDPOINT_SLICES, vec![endpoint_slice(server)]),
    )?;
    if !whole {
        return Ok(());
    }
    futures::try_join!(
        ensure(server, kinds::CONFIG_MAPS, vec![authentication(server), cluster(server)]),
        ensure(server, kinds::PRIORITY_LEVEL_CONFIGURATIONS, fairness::default_levels()),
        ensure(server, kinds::FLOW_SCHEMAS, fairness::default_schemas()),
        ensure(server, kinds::API_SERVICES, relay::local_services(server)),
    )?;
    Ok(())
}

/// Repairs for as long as the server lives.
pub async fn keep(server: Weak<ApiServer>) {
    for round in 1_u64.. {
        tokio::time::sleep(REPAIR_PERIOD).await;
        let Some(server) = server.upgrade() else { return };
        // Once a minute all of it; what nodes and pods need more often.
        if let Err(error) = repair(&server, round.is_multiple_of(6)).await {
            tracing::warn!(%error, "what every cluster has can't be repaired; it is tried again");
        }
    }
}

/// Creates what is missing and brings the rest up to date.
async fn ensure(server: &Arc<ApiServer>, kind: &'static Kind, objects: Vec<Value>) -> Result<(), Status> {
    let all = objects.into_iter().map(|object| ensure_one(server, kind, object));
    futures::future::try_join_all(all).await.map(|_| ())
}

async fn ensure_one(server: &Arc<ApiServer>, kind: &'static Kind, object: Value) -> Result<(), Status> {
    let resource = server.cache.resource(kind).ok_or_else(Status::no_route)?;
    let key = object_key(object.namespace(), object.name());
    if let Some(entry) = resource.get(&key) {
        // Only what the server itself decides; what users added stays.
        // A controller keeps the rules of those that aggregate others.
        let aggregates = object["aggregationRule"].is_object();
        let lists: [(&Kind, &[&str]); 4] = [
            (kinds::CLUSTER_ROLES, if aggregates { &["aggregationRule"] } else { &["rules", "aggregationRule"] }),
            (kinds::ENDPOINTS, &["subsets"]),
            (kinds::ENDPOINT_SLICES, &["endpoints", "ports"]),
            (kinds::CONFIG_MAPS, &["data"]),
        ];
        let owned = lists.iter().find(|(of, _)| *of == kind).map(|(_, fields)| *fields);
        let Some(owned) = owned else { return Ok(()) };
        let mut present = entry.parse();
        if owned.iter().all(|field| present[*field] == object[*field]) {
            return Ok(());
        }
        for field in owned {
            present[*field] = object[*field].clone();
        }
        let write =
            Write::Update { key: store_key(kind, &key).into(), value: encode(&present), expected: entry.revision };
        return crate::handlers::write::commit(server, kind, present.name(), write).await.map(|_| ());
    }
    let namespace = object.namespace().to_string();
    let user = User::new("system:apiserver", &[MASTERS]);
    create_object(server, &user, &Creation::by_server(kind, &namespace), object).await.map(|_| ())
}

fn services(server: &ApiServer) -> Vec<Value> {
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
    // Who serves names himself brings his own service, under the same name.
    let own = !server.config.disabled.iter().any(|part| part == "dns");
    std::iter::once(kubernetes).chain(own.then_some(dns)).collect()
}

fn endpoints(server: &ApiServer) -> Vec<Value> {
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

fn endpoint_slice(server: &ApiServer) -> Value {
    let (address, port) = server.config.advertise;
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
}

fn authentication(server: &ApiServer) -> Value {
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

/// What every node has to know of the cluster.
fn cluster(server: &ApiServer) -> Value {
    let config = &server.config;
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "timonel-cluster", "namespace": "kube-system"},
        "data": {"cluster-cidr": config.cluster_cidr.to_string(), "service-cidr": config.service_cidr.to_string(),
                 "cluster-dns": config.cluster_dns.to_string(), "cluster-domain": config.cluster_domain,
                 "disable": config.disabled.join(",")}})
}

/// Removes old events for as long as the server lives.
pub async fn expire_events(server: Weak<ApiServer>) {
    loop {
        tokio::time::sleep(EVENT_SWEEP_PERIOD).await;
        let Some(server) = server.upgrade() else { return };
        let oldest = apimachinery::clock::now() - EVENT_LIFE;
        for entry in server.cache.of(kinds::EVENTS).list(&Filter::default()).0 {
            let event = entry.parse();
            let times =
                [event.str_at(&["lastTimestamp"]), event.str_at(&["eventTime"]), event.meta("creationTimestamp")];
            let last = times.iter().filter_map(|t| t.parse::<Timestamp>().ok()).max();
            if last.is_some_and(|t| t < oldest) {
                let key = store_key(kinds::EVENTS, &entry.key).into();
                let _ = server.store.write(Write::Delete { key, expected: entry.revision }).await;
            }
        }
    }
}
