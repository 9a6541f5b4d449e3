//! What the ingress controller needs of the control plane: its class, and the addresses in the status of Ingresses. (The
//! traffic is served by every node's agent.)

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::service_lb::addresses;
use crate::{Context, Result, ignore};

const CONTROLLER: &str = "timonel.io/ingress";
const CLASS: &str = "timonel";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

#[derive(Clone)]
struct Caches {
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    nodes: Informer<Node>,
}

pub fn start(context: Context) {
    let caches =
        Caches { ingresses: context.informers.of(), classes: context.informers.of(), nodes: context.informers.of() };
    let queue = Queue::default();
    let add = queue.clone();
    caches.ingresses.on_change(move |change| add.add(change.object().key()));
    // Classes and nodes are about all of them.
    let all = |queue: &Queue, ingresses: &Informer<Ingress>| ingresses.list().iter().for_each(|i| queue.add(i.key()));
    let (add, ingresses) = (queue.clone(), caches.ingresses.clone());
    caches.classes.on_change(move |_| all(&add, &ingresses));
    let (add, ingresses) = (queue.clone(), caches.ingresses.clone());
    caches.nodes.on_change(move |change| {
        if addresses_changed(change) {
            all(&add, &ingresses);
        }
    });
    let making = context.clone();
    tokio::spawn(async move {
        if let Err(error) = ensure_class(&making).await {
            tracing::warn!(%error, "the ingress class could not be made");
        }
    });
    queue.work("ingress", 1, move |key| {
        let (context, caches) = (context.clone(), caches.clone());
        async move {
            informer::synced!(caches.ingresses, caches.classes, caches.nodes);
            reconcile(&context, &caches, &key).await
        }
    });
}

pub fn addresses_changed(change: &informer::Change<Node>) -> bool {
    match change {
        informer::Change::Applied { old: Some(old), new } => addresses(old) != addresses(new),
        _ => true,
    }
}

/// Whoever wants another class to be the default takes the mark off this one; it stays off.
async fn ensure_class(context: &Context) -> Result {
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": CLASS, "annotations": {DEFAULT_CLASS: "true"}}, "spec": {"controller": CONTROLLER}});
    let class: IngressClass = serde_json::from_value(class).map_err(kube::Error::SerdeError)?;
    let api: Api<IngressClass> = Api::all(context.client.clone());
    ignore(api.create(&PostParams::default(), &class).await, &[409])
}

fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let annotated = ingress.annotations().get("kubernetes.io/ingress.class").map(String::as_str);
    let name = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref()).or(annotated);
    let mut own = classes.iter().filter(|c| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER));
    match name {
        Some(name) => own.any(|c| c.name_any() == name),
        None => own.any(|c| c.annotations().get(DEFAULT_CLASS).is_some_and(|v| v == "true")),
    }
}

async fn reconcile(context: &Context, caches: &Caches, key: &Key) -> Result<Option<Duration>> {
    let Some(ingress) = caches.ingresses.get(key) else { return Ok(None) };
    if !is_ours(&ingress, &caches.classes.list()) {
        return Ok(None);
    }
    let mut addresses: Vec<String> = caches.nodes.list().iter().flat_map(|n| addresses(n)).collect();
    addresses.sort();
    let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let present: Vec<&str> =
        balancer.iter().flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_deref()).collect();
    if present == addresses {
        return Ok(None);
    }
    let wanted: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let api: Api<Ingress> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": wanted}}}));
    ignore(api.patch_status(&key.name, &PatchParams::default(), &patch).await, &[404])?;
    Ok(None)
}
