//! The service load balancer: LoadBalancer services get the addresses of nodes, whose proxies then answer there.
//!
//! A port of a node serves one service: the older one. Ports that people need to reach the node itself are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Family;
use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::nodes::is_ready;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result};

/// Nodes with this label take no traffic from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Ports by which nodes are reached: SSH and the kubelet's. The API's comes from the configuration.
const RESERVED: [i32; 2] = [22, 10250];

/// What a service gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Addresses(Vec<String>),
    /// None, and why.
    Nothing(String),
}

/// A port of a node's address.
type Place = (String, String, i32);

fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
        && service.metadata.deletion_timestamp.is_none()
}

/// The addresses at which a node answers the outside, if it may: one of each family that it has.
pub fn addresses(node: &Node) -> Vec<String> {
    if !is_ready(node) || node.labels().contains_key(EXCLUDED) {
        return Vec::new();
    }
    let listed = || node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let of = |family: Family| {
        let first = |kind: &str| listed().find(|a| a.type_ == kind && Family::of_text(&a.address) == family);
        first("ExternalIP").or_else(|| first("InternalIP")).map(|a| a.address.clone())
    };
    [Family::V4, Family::V6].into_iter().filter_map(of).collect()
}

/// Nodes that have a ready endpoint of a service.
fn places(service: &Service, slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let name = service.name_any();
    let of = slices.iter().filter(|s| {
        s.namespace() == service.namespace() && s.labels().get("kubernetes.io/service-name") == Some(&name)
    });
    let endpoints = of.flat_map(|s| s.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    ready.filter_map(|e| e.node_name.clone()).collect()
}

/// What each of our services gets; `api_port` is the server's.
fn plan(
    services: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: &[Arc<EndpointSlice>],
    api_port: i32,
) -> BTreeMap<Key, Wanted> {
    let of = |node: &Arc<Node>| addresses(node).into_iter().map(|a| (node.name_any(), a)).collect::<Vec<_>>();
    let answering: Vec<(String, String)> = nodes.iter().flat_map(of).collect();
    let mut ours: Vec<&Arc<Service>> = services.iter().filter(|s| is_ours(s)).collect();
    ours.sort_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.key()));
    let mut taken: BTreeMap<Place, Key> = BTreeMap::new();
    let mut wanted = BTreeMap::new();
    for service in ours {
        let Some(spec) = &service.spec else { continue };
        let ports = || {
            let listed = spec.ports.iter().flatten();
            listed.map(|p| (p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port))
        };
        let refused =
            ports().find(|(protocol, port)| protocol == "TCP" && (RESERVED.contains(port) || *port == api_port));
        if let Some((_, port)) = refused {
            let why = format!("port {port} is needed to reach the nodes themselves");
            wanted.insert(service.key(), Wanted::Nothing(why));
            continue;
        }
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        let having = if local { places(service, slices) } else { BTreeSet::new() };
        let (mut addresses, mut conflict) = (Vec::new(), None);
        let families = crate::network::endpoints::families(service);
        let rank = |address: &str| families.iter().position(|f| *f == Family::of_text(address).name());
        for (name, address) in &answering {
            if rank(address).is_none() || (local && !having.contains(name)) {
                continue;
            }
            let place = |(protocol, port): (String, i32)| (address.clone(), protocol, port);
            match ports().find_map(|p| Some((p.clone(), taken.get(&place(p))?))) {
                Some(((protocol, port), by)) => conflict = Some(format!("port {port}/{protocol} is taken by {by}")),
                None => addresses.push(address.clone()),
            }
        }
        for address in &addresses {
            taken.extend(ports().map(|(protocol, port)| ((address.clone(), protocol, port), service.key())));
        }
        addresses.sort_by_key(|address| (rank(address), address.clone()));
        let nothing = || conflict.clone().unwrap_or_else(|| "no node can take its traffic".into());
        let result = if addresses.is_empty() { Wanted::Nothing(nothing()) } else { Wanted::Addresses(addresses) };
        wanted.insert(service.key(), result);
    }
    wanted
}

struct ServiceLbController {
    context: Context,
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
}

pub fn start(context: Context) {
    let load_balancer = ServiceLbController {
        context: context.clone(),
        services: context.informers.of(),
        nodes: context.informers.of(),
        slices: context.informers.of(),
    };
    // Services share the nodes' ports, so they are looked at together.
    let mut controller = Controller::of_keys();
    controller
        .watch_for_all(&load_balancer.services, |change| is_ours(change.object()) || has_addresses(change.object()));
    let services = load_balancer.services.clone();
    controller.watch_for_all(&load_balancer.slices, move |change| {
        let slice = change.object();
        let name = slice.labels().get("kubernetes.io/service-name").cloned().unwrap_or_default();
        let service = services.get(&Key::new(&slice.namespace().unwrap_or_default(), &name));
        service.is_some_and(|s| is_ours(&s))
    });
    controller.watch_all(&load_balancer.nodes);
    controller.run("service-lb", 1, load_balancer);
}

fn has_addresses(service: &Service) -> bool {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    balancer.and_then(|b| b.ingress.as_ref()).is_some_and(|i| !i.is_empty())
}

fn virtual_address(ip: &str) -> LoadBalancerIngress {
    LoadBalancerIngress { ip: Some(ip.into()), ip_mode: Some("VIP".into()), ..LoadBalancerIngress::default() }
}

impl Reconcile for ServiceLbController {
    async fn reconcile(&self, _: &Key) -> Result<Option<Duration>> {
        let services = self.services.list();
        let wanted = plan(&services, &self.nodes.list(), &self.slices.list(), self.context.config.api_port);
        for service in &services {
            let ingress: Vec<LoadBalancerIngress> = match wanted.get(&service.key()) {
                Some(Wanted::Addresses(addresses)) => addresses.iter().map(|ip| virtual_address(ip)).collect(),
                Some(Wanted::Nothing(why)) => {
                    // An event is repeated as a count, not as another one.
                    self.context.events.warning(service.as_ref(), "NoLoadBalancerAddress", why.clone());
                    Vec::new()
                }
                // Of another kind now, or another load balancer's business.
                None if service.spec.as_ref().is_some_and(|s| s.type_.as_deref() != Some("LoadBalancer")) => Vec::new(),
                None => continue,
            };
            let status = ServiceStatus {
                load_balancer: Some(LoadBalancerStatus { ingress: Some(ingress) }),
                ..service.status.clone().unwrap_or_default()
            };
            patch_status_if_changed(&self.context, service.as_ref(), service.status.as_ref(), &status).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, ip: &str, ready: &str, labels: Value) -> Arc<Node> {
        let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": ip}]}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn service(name: &str, age: u32, port: i32, extra: Value) -> Arc<Service> {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": port, "protocol": "TCP"}]});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let service = json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}, "spec": spec});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn described(services: &[Arc<Service>], nodes: &[Arc<Node>], slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let line = |(key, wanted): (Key, Wanted)| match wanted {
            Wanted::Addresses(addresses) => format!("{}: {}", key.name, addresses.join(" ")),
            Wanted::Nothing(why) => format!("{}: {why}", key.name),
        };
        plan(services, nodes, slices, 6443).into_iter().map(line).collect()
    }

    #[test]
    fn services_get_the_addresses_of_ready_nodes_and_keep_their_ports() {
        let nodes = [
            node("a", "192.0.2.1", "True", json!({})),
            node("b", "192.0.2.2", "True", json!({})),
            node("c", "192.0.2.3", "False", json!({})),
            node("d", "192.0.2.4", "True", json!({EXCLUDED: ""})),
        ];
        let slice = json!({"metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "local"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "b"},
                {"addresses": ["10.0.0.2"], "nodeName": "a", "conditions": {"ready": false}}]});
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let services = [
            service("old", 1, 80, json!({})),
            service("new", 2, 80, json!({})),
            service("other", 3, 81, json!({})),
            service("local", 4, 82, json!({"externalTrafficPolicy": "Local"})),
            service("shell", 5, 22, json!({})),
            service("api", 6, 6443, json!({})),
            service("theirs", 7, 83, json!({"loadBalancerClass": "example.com/lb"})),
            service("inner", 8, 84, json!({"type": "ClusterIP"})),
        ];
        assert_eq!(
            described(&services, &nodes, &slices),
            [
                "api: port 6443 is needed to reach the nodes themselves",
                "local: 192.0.2.2",
                "new: port 80/TCP is taken by n/old",
                "old: 192.0.2.1 192.0.2.2",
                "other: 192.0.2.1 192.0.2.2",
                "shell: port 22 is needed to reach the nodes themselves",
            ]
        );
        assert_eq!(described(&services[..1], &[], &[]), ["old: no node can take its traffic"]);
    }
}
