//! EndpointSlices and Endpoints: where the pods of a service are.

mod mirror;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use apimachinery::Family;
use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::controller::{Controller, Reconcile, all_keys};
use crate::toolkit::{Context, Result, ignore, pods};
use plan::{Action, Slice, group, plan, subsets};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";
/// On the slices of a service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in a slice, as upstream has it.
const MAX_ENDPOINTS_PER_SLICE: usize = 100;

pub fn start(context: Context) {
    mirror::start(context.clone());
    let endpoints = EndpointSliceController {
        context: context.clone(),
        services: context.informers.of(),
        pods: context.informers.of(),
        slices: context.informers.of(),
        nodes: context.informers.of(),
        written: context.informers.of(),
    };
    let mut controller = Controller::of(&context, &endpoints.services);
    let services = endpoints.services.clone();
    controller.watch(&endpoints.pods, move |change| {
        // A service that matched before may not match any more.
        let old = match change {
            Change::Applied { old, .. } => old.as_ref(),
            Change::Deleted(_) => None,
        };
        let pods = old.into_iter().chain([change.object()]);
        let selecting = pods.flat_map(|pod| {
            let all = services.list_in(&pod.namespace().unwrap_or_default()).into_iter();
            all.filter(|service| selects(service, pod)).map(|service| service.key())
        });
        selecting.collect::<Vec<_>>()
    });
    controller.watch(&endpoints.slices, |change| owned_by(change.object(), MANAGER));
    let services = endpoints.services.clone();
    controller.watch(&endpoints.nodes, move |change| if moves_zone(change) { all_keys(&services) } else { Vec::new() });
    controller.needs(&endpoints.written);
    controller.run("endpoints", 2, endpoints);
}

/// Where a node is stands in the endpoints of its pods.
fn moves_zone(change: &Change<Node>) -> bool {
    let zone = |node: &Node| node.labels().get(ZONE).cloned();
    let before = match change {
        Change::Applied { old, .. } => old.as_ref().and_then(|old| zone(old)),
        Change::Deleted(_) => None,
    };
    zone(change.object()) != before
}

/// The service of a slice, if `manager` keeps it.
fn owned_by(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.labels();
    let managed = labels.get(MANAGED_BY).is_some_and(|m| m == manager);
    labels.get(SERVICE).filter(|_| managed).map(|name| Key::new(&slice.namespace().unwrap_or_default(), name))
}

/// The slices of a service that `manager` keeps.
fn present(slices: &Informer<EndpointSlice>, service: &Key, manager: &str) -> Vec<Slice> {
    let own = slices.list_in(&service.namespace).into_iter().filter(|s| owned_by(s, manager).as_ref() == Some(service));
    own.filter_map(|slice| serde_json::to_value(slice.as_ref()).ok()).map(|value| Slice::read(&value)).collect()
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

/// Adds to a plan the slices that have the right endpoints and not the labels and annotations of `metadata`: those follow the service.
fn relabel(
    slices: &Informer<EndpointSlice>,
    service: &Key,
    there: Vec<Slice>,
    metadata: &Value,
    plan: &mut Vec<Action>,
) {
    let planned: BTreeSet<String> = plan.iter().map(|action| action.name().to_string()).collect();
    for slice in there.into_iter().filter(|slice| !planned.contains(&slice.name)) {
        let Some(present) = slices.get(&Key::new(&service.namespace, &slice.name)) else { continue };
        let annotations = metadata["annotations"].as_object().into_iter().flatten();
        let has =
            |(key, value): (&String, &Value)| present.annotations().get(key).map(String::as_str) == value.as_str();
        if json!(present.labels()) != metadata["labels"] || !annotations.into_iter().all(has) {
            plan.push(Action::Update(slice));
        }
    }
}

/// What takes the labels away that an object has and isn't to have.
fn stale(present: Option<&BTreeMap<String, String>>, wanted: &Value) -> Value {
    let gone = present.into_iter().flatten().filter(|(key, _)| wanted.get(key.as_str()).is_none());
    gone.map(|(key, _)| (key.clone(), Value::Null)).collect::<serde_json::Map<_, _>>().into()
}

/// Brings the slices of a service to what was planned. `metadata` is that of all of them, but for the name.
async fn carry_out(
    context: &Context,
    slices: &Informer<EndpointSlice>,
    service: &Key,
    metadata: Value,
    actions: Vec<Action>,
) -> Result {
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &service.namespace);
    for action in actions {
        match action {
            Action::Delete(name) => ignore(api.delete(&name, &DeleteParams::default()).await, &[404])?,
            Action::Create(slice) | Action::Update(slice) => {
                let mut object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                    "addressType": slice.family, "endpoints": slice.endpoints, "ports": slice.ports});
                object["metadata"]["name"] = slice.name.as_str().into();
                let present = slices.get(&Key::new(&service.namespace, &slice.name));
                let stale =
                    stale(present.as_ref().and_then(|p| p.metadata.labels.as_ref()), &object["metadata"]["labels"]);
                write(&api, &slice.name, object, &["endpoints", "ports"], stale).await?;
            }
        }
    }
    Ok(())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
}

/// The number of a service port's target in a pod.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let mut ports = pod.serving().flat_map(|c| c.ports.iter().flatten());
            let found =
                ports.find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            found.map(|p| p.container_port)
        }
    }
}

fn slice_ports(service: &Service, pod: &Pod) -> Vec<Value> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let number = target_port(pod, p)?;
            let mut value = json!({"name": p.name.clone().unwrap_or_default(), "port": number,
                                   "protocol": p.protocol.clone().unwrap_or_else(|| "TCP".into())});
            if let Some(app) = &p.app_protocol {
                value["appProtocol"] = app.as_str().into();
            }
            Some(value)
        })
        .collect()
}

/// The families of a service's addresses, its own first.
pub fn families(service: &Service) -> Vec<&'static str> {
    let asked = service.spec.as_ref().and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let known = asked.iter().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect::<Vec<_>>();
    if known.is_empty() { vec!["IPv4"] } else { known }
}

/// The endpoint of a pod, if it has an address of the family and isn't over.
fn endpoint(service: &Service, pod: &Pod, family: &str, nodes: &Informer<Node>) -> Option<Value> {
    let ip = pod.ips().find(|ip| Family::of_text(ip).name() == family)?;
    if pod.is_over() {
        return None;
    }
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let mut value = json!({
        "addresses": [ip],
        "conditions": {"ready": publish || (serving && !terminating), "serving": serving, "terminating": terminating},
        "nodeName": pod.spec.as_ref()?.node_name,
        "targetRef": {"kind": "Pod", "namespace": pod.namespace(), "name": pod.name_any(), "uid": pod.uid()},
    });
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.as_deref().unwrap_or("");
    let zone = nodes.get(&Key::new("", node)).and_then(|n| n.labels().get(ZONE).cloned());
    if let Some(zone) = &zone {
        value["zone"] = zone.as_str().into();
    }
    // Who should use the endpoint, where the service prefers what is near (KEP-4444).
    let near = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref());
    if let (Some(near), true) = (near, value["conditions"]["ready"] == true) {
        let mut hints = json!({});
        if let Some(zone) = zone {
            hints["forZones"] = json!([{ "name": zone }]);
        }
        if near == "PreferSameNode" {
            hints["forNodes"] = json!([{ "name": node }]);
        }
        if hints.as_object().is_some_and(|h| !h.is_empty()) {
            value["hints"] = hints;
        }
    }
    if let (Some(hostname), Some(subdomain)) = (&spec.hostname, &spec.subdomain)
        && *subdomain == service.name_any()
    {
        value["hostname"] = hostname.as_str().into();
    }
    Some(value)
}

struct EndpointSliceController {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    written: Informer<Endpoints>,
}

impl Reconcile for EndpointSliceController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let all: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let there = present(&self.slices, key, MANAGER);
        let service = self.services.get(key);
        let of_pods = service
            .as_ref()
            .filter(|s| has_selector(s) && s.spec.as_ref().and_then(|s| s.type_.as_deref()) != Some("ExternalName"));
        let Some(service) = of_pods else {
            // Endpoints that a user writes for a service without a selector stay as long as the service.
            if service.is_none() {
                ignore(all.delete(&key.name, &DeleteParams::default()).await, &[404])?;
            }
            let gone = there.into_iter().map(|slice| Action::Delete(slice.name)).collect();
            return carry_out(&self.context, &self.slices, key, json!({}), gone).await.map(|()| None);
        };
        let mut chosen: Vec<_> =
            self.pods.list_in(&key.namespace).into_iter().filter(|p| selects(service, p)).collect();
        chosen.sort_by_key(|p| p.name_any());
        let families = families(service);
        let of_family = |family: &'static str| {
            let of = move |p: &std::sync::Arc<Pod>| {
                Some((slice_ports(service, p), endpoint(service, p, family, &self.nodes)?))
            };
            chosen.iter().filter_map(of)
        };
        let groups = group(families.iter().flat_map(|family| of_family(family)).collect());
        let mut labels = service.labels().clone();
        labels.insert(SERVICE.into(), key.name.clone());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        if service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None")) {
            labels.insert(HEADLESS.into(), String::new());
        }
        let metadata =
            json!({"namespace": key.namespace, "labels": labels, "ownerReferences": [pods::owner(service.as_ref())]});
        let has_ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).is_some_and(|ports| !ports.is_empty());
        let (subsets, cut) = subsets(families[0], &groups, has_ports);
        let base = format!("{}-{}", key.name, pods::content_hash(&key.name));
        let mut actions = plan(&base, &families, groups, there.clone(), MAX_ENDPOINTS_PER_SLICE);
        relabel(&self.slices, key, there, &metadata, &mut actions);
        let is_headless = !metadata["labels"][HEADLESS].is_null();
        carry_out(&self.context, &self.slices, key, metadata, actions).await?;
        let mut object = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": service.labels()}, "subsets": subsets});
        object["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] = "endpoint-controller".into();
        if is_headless {
            object["metadata"]["labels"][HEADLESS] = "".into();
        }
        let over = if cut { json!("truncated") } else { Value::Null };
        object["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/over-capacity": over});
        let present = self.written.get(key);
        let stale = stale(present.as_ref().and_then(|p| p.metadata.labels.as_ref()), &object["metadata"]["labels"]);
        write(&all, &key.name, object, &["subsets"], stale).await.map(|()| None)
    }
}

/// Creates an object, or brings the named parts of the one that is there up to date. `stale` are its labels that go.
async fn write<K>(api: &Api<K>, name: &str, object: Value, parts: &[&str], stale: Value) -> Result
where
    K: kube::Resource<DynamicType = ()> + serde::Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut object = object;
    let mut labels = stale;
    if let (Some(all), Some(wanted)) = (labels.as_object_mut(), object["metadata"]["labels"].as_object()) {
        all.extend(wanted.clone());
    }
    let mut patch = json!({"metadata": {"labels": labels}});
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        patch["metadata"]["annotations"] = json!(annotations);
        // In a patch null takes away; there is nothing to take from what is new.
        annotations.retain(|_, value| !value.is_null());
    }
    for part in parts {
        patch[*part] = object[*part].clone();
    }
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            // Without its namespace the object can't be made; then there is nothing to make.
            ignore(api.create(&PostParams::default(), &object).await, &[403, 404, 409])
        }
        other => other.map(|_| ()),
    }
}
