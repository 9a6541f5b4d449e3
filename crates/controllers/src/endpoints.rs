//! EndpointSlices and Endpoints: where the pods of a service are.

use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{Context, Result, pods};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE: &str = "kubernetes.io/service-name";

pub fn start(context: Context) {
    let services = context.informers.of::<Service>();
    let all_pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    let add = queue.clone();
    services.on_change(move |change| add.add(change.object().key()));
    let (add, of) = (queue.clone(), services.clone());
    all_pods.on_change(move |change| {
        // A service that matched before may not match any more.
        let old = match change {
            Change::Applied { old, .. } => old.as_ref(),
            Change::Deleted(_) => None,
        };
        for pod in old.into_iter().chain([change.object()]) {
            for service in of.list_in(&pod.namespace().unwrap_or_default()) {
                if selects(&service, pod) {
                    add.add(service.key());
                }
            }
        }
    });
    queue.work("endpoints", 2, move |key| {
        let (context, services, all_pods) = (context.clone(), services.clone(), all_pods.clone());
        async move {
            informer::synced!(services, all_pods);
            reconcile(&context, &services, &all_pods, &key).await.map(|()| None::<Duration>)
        }
    });
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
            let containers = pod.spec.iter().flat_map(|s| s.containers.iter());
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            let found =
                ports.find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            found.map(|p| p.container_port)
        }
    }
}

fn slice_ports(service: &Service, pod: Option<&Pod>) -> Vec<Value> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let number = match pod {
                Some(pod) => target_port(pod, p)?,
                None => return None,
            };
            let mut value = json!({"name": p.name.clone().unwrap_or_default(), "port": number,
                                   "protocol": p.protocol.clone().unwrap_or_else(|| "TCP".into())});
            if let Some(app) = &p.app_protocol {
                value["appProtocol"] = app.as_str().into();
            }
            Some(value)
        })
        .collect()
}

/// The endpoint of a pod, if it has an address and isn't over.
fn endpoint(service: &Service, pod: &Pod) -> Option<Value> {
    let ip = pod.status.as_ref()?.pod_ip.clone()?;
    if matches!(pods::phase(pod), "Succeeded" | "Failed") {
        return None;
    }
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let mut value = json!({
        "addresses": [ip],
        "conditions": {"ready": publish || (serving && !terminating), "serving": publish || serving, "terminating": terminating},
        "nodeName": pod.spec.as_ref()?.node_name,
        "targetRef": {"kind": "Pod", "namespace": pod.namespace(), "name": pod.name_any(), "uid": pod.uid()},
    });
    let spec = pod.spec.as_ref()?;
    if let (Some(hostname), Some(subdomain)) = (&spec.hostname, &spec.subdomain)
        && *subdomain == service.name_any()
    {
        value["hostname"] = hostname.as_str().into();
    }
    Some(value)
}

async fn reconcile(context: &Context, services: &Informer<Service>, cache: &Informer<Pod>, key: &Key) -> Result {
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    let all: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = format!("{}-{}", key.name, pods::content_hash(&key.name));
    let Some(service) = services.get(key) else {
        crate::ignore(slices.delete(&name, &DeleteParams::default()).await, &[404])?;
        return crate::ignore(all.delete(&key.name, &DeleteParams::default()).await, &[404]);
    };
    let has_selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    if !has_selector || service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        return Ok(());
    }
    let mut chosen: Vec<_> = cache.list_in(&key.namespace).into_iter().filter(|p| selects(&service, p)).collect();
    chosen.sort_by_key(|p| p.name_any());
    let endpoints: Vec<Value> = chosen.iter().filter_map(|p| endpoint(&service, p)).collect();
    // Named target ports are taken from the first pod that has them; all pods of a service have the same in practice.
    let with_ports = chosen.iter().map(|p| slice_ports(&service, Some(p))).max_by_key(Vec::len).unwrap_or_default();
    let mut labels = service.labels().clone();
    labels.insert(SERVICE.into(), key.name.clone());
    labels.insert(MANAGED_BY.into(), "endpointslice-controller.k8s.io".into());
    let owner = pods::owner(service.as_ref());
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": key.namespace, "labels": labels, "ownerReferences": [owner]},
        "addressType": "IPv4", "endpoints": endpoints, "ports": with_ports});
    write(&slices, &name, slice, &["endpoints", "ports"]).await?;
    let address = |e: &Value| {
        let mut address = json!({"ip": e["addresses"][0], "nodeName": e["nodeName"], "targetRef": e["targetRef"]});
        if !e["hostname"].is_null() {
            address["hostname"] = e["hostname"].clone();
        }
        address
    };
    let ready: Vec<Value> = endpoints.iter().filter(|e| e["conditions"]["ready"] == true).map(address).collect();
    let unready: Vec<Value> = endpoints
        .iter()
        .filter(|e| e["conditions"]["ready"] != true && e["conditions"]["terminating"] != true)
        .map(address)
        .collect();
    let mut subsets = json!([]);
    if !ready.is_empty() || !unready.is_empty() {
        let mut subset = json!({ "ports": with_ports });
        for (field, list) in [("addresses", ready), ("notReadyAddresses", unready)] {
            if !list.is_empty() {
                subset[field] = list.into();
            }
        }
        subsets = json!([subset]);
    }
    let object = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": service.labels()}, "subsets": subsets});
    write(&all, &key.name, object, &["subsets"]).await
}

/// Creates an object, or brings the named parts of the one that is there up to date.
async fn write<K>(api: &Api<K>, name: &str, object: Value, parts: &[&str]) -> Result
where
    K: kube::Resource<DynamicType = ()> + serde::Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut patch = json!({"metadata": {"labels": object["metadata"]["labels"]}});
    for part in parts {
        patch[*part] = object[*part].clone();
    }
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            // Without its namespace the object can't be made; then there is nothing to make.
            crate::ignore(api.create(&PostParams::default(), &object).await, &[403, 404, 409])
        }
        other => other.map(|_| ()),
    }
}
