//! What the ingress controller needs of the control plane: its class, the addresses in the status of Ingresses, and a word to
//! people where an Ingress names what isn't there. (The traffic is served by every node's agent.)

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{Node, Secret, Service, ServicePort};
use k8s_openapi::api::networking::v1::{
    Ingress, IngressClass, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressServiceBackend, IngressStatus,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::network::service_lb::addresses;
use crate::toolkit::controller::{Controller, Reconcile, all_keys};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

const CONTROLLER: &str = "timonel.io/ingress";
const CLASS: &str = "timonel";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

struct IngressController {
    context: Context,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    nodes: Informer<Node>,
    services: Informer<Service>,
    restless: Mutex<HashMap<Key, Seen>>,
}

/// How long an Ingress must have been left alone before its status is written. Upstream has no controller of its own for Ingresses; people
/// and programs that create one and go on to update it don't expect another client's write in between, and the traffic doesn't wait for it.
const QUIET: Duration = Duration::from_secs(1);

/// A version of an Ingress, and since when it is the latest.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl IngressController {
    /// How long the Ingress must still be left alone.
    fn restless_for(&self, key: &Key, ingress: &Ingress) -> Option<Duration> {
        let version = &ingress.metadata.resource_version;
        let mut restless = self.restless.lock();
        let seen = restless.get(key).filter(|seen| seen.version == *version).map(|seen| seen.since);
        let since = seen.unwrap_or_else(Instant::now);
        let left = QUIET.saturating_sub(since.elapsed());
        if left.is_zero() {
            restless.remove(key);
            return None;
        }
        restless.insert(key.clone(), Seen { version: version.clone(), since });
        Some(left)
    }
}

pub fn start(context: Context) {
    let state = IngressController {
        context: context.clone(),
        ingresses: context.informers.of(),
        classes: context.informers.of(),
        nodes: context.informers.of(),
        services: context.informers.of(),
        restless: Mutex::default(),
    };
    let mut controller = Controller::of(&context, &state.ingresses);
    // Classes and nodes are about all of them.
    let ingresses = state.ingresses.clone();
    controller.watch(&state.classes, move |_| all_keys(&ingresses));
    let ingresses = state.ingresses.clone();
    controller
        .watch(&state.nodes, move |change| if addresses_changed(change) { all_keys(&ingresses) } else { Vec::new() });
    // Ingresses that name a service get an event when it is deleted.
    let ingresses = state.ingresses.clone();
    controller.watch(&state.services, move |change| {
        let informer::Change::Deleted(service) = change else { return Vec::new() };
        let names = |i: &&Arc<Ingress>| backends(i).any(|b| b.name == service.name_any());
        let all = ingresses.list_in(&service.namespace().unwrap_or_default());
        all.iter().filter(names).map(|ingress| ingress.key()).collect()
    });
    let making = context.clone();
    tasks::spawn("ingress-class", async move {
        if let Err(error) = ensure_class(&making).await {
            tracing::warn!(%error, "failed to create the IngressClass");
        }
    });
    controller.run("ingress", 1, state);
}

pub fn addresses_changed(change: &informer::Change<Node>) -> bool {
    match change {
        informer::Change::Applied { old: Some(old), new } => addresses(old) != addresses(new),
        _ => true,
    }
}

/// Creates the class. Its annotation may be removed to make another class the default; it isn't written again.
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

/// The services that an Ingress names.
fn backends(ingress: &Ingress) -> impl Iterator<Item = &IngressServiceBackend> {
    let spec = ingress.spec.iter();
    let default = spec.clone().filter_map(|s| s.default_backend.as_ref());
    let rules = spec.flat_map(|s| s.rules.iter().flatten()).flat_map(|r| &r.http).flat_map(|h| &h.paths);
    default.chain(rules.map(|path| &path.backend)).filter_map(|backend| backend.service.as_ref())
}

impl Reconcile for IngressController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(ingress) = self.ingresses.get(key) else {
            self.restless.lock().remove(key);
            return Ok(None);
        };
        if !is_ours(&ingress, &self.classes.list()) {
            return Ok(None);
        }
        let mut addresses: Vec<String> = self.nodes.list().iter().flat_map(|n| addresses(n)).collect();
        addresses.sort();
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let present: Vec<&str> =
            balancer.iter().flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_deref()).collect();
        let is_written = present == addresses;
        let restless_for = if is_written { None } else { self.restless_for(key, &ingress) };
        if let Some(left) = restless_for {
            return Ok(Some(left));
        }
        for (reason, text) in self.complaints(&ingress).await? {
            self.context.events.warning(ingress.as_ref(), reason, text);
        }
        if is_written {
            return Ok(None);
        }
        let wanted = addresses.into_iter().map(|ip| IngressLoadBalancerIngress { ip: Some(ip), ..Default::default() });
        let status =
            IngressStatus { load_balancer: Some(IngressLoadBalancerStatus { ingress: Some(wanted.collect()) }) };
        patch_status_if_changed(&self.context, ingress.as_ref(), ingress.status.as_ref(), &status).await?;
        Ok(None)
    }
}

impl IngressController {
    /// What an Ingress names that isn't there, or is of no use.
    async fn complaints(&self, ingress: &Ingress) -> Result<Vec<(&'static str, String)>> {
        let namespace = ingress.namespace().unwrap_or_default();
        let mut found: Vec<_> = gateway::nginx::read(ingress.annotations())
            .1
            .into_iter()
            .map(|fault| (fault.reason(), fault.to_string()))
            .collect();
        for backend in backends(ingress) {
            let (name, port) = (&backend.name, backend.port.clone().unwrap_or_default());
            let Some(service) = self.services.get(&Key::new(&namespace, name)) else {
                found
                    .push(("BackendNotFound", format!("there is no service {namespace}/{name}: its requests get 503")));
                continue;
            };
            let fits = |p: &ServicePort| match &port.name {
                Some(named) => p.name.as_ref() == Some(named),
                None => Some(p.port) == port.number,
            };
            if !service.spec.iter().flat_map(|s| s.ports.iter().flatten()).any(fits) {
                let port = port.name.unwrap_or_else(|| port.number.unwrap_or_default().to_string());
                let text = format!("service {namespace}/{name} has no port {port}: its requests get 503");
                found.push(("BackendNotFound", text));
            }
        }
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
        for name in ingress.spec.iter().flat_map(|s| s.tls.iter().flatten()).filter_map(|tls| tls.secret_name.as_ref())
        {
            let secret = secrets.get_opt(name).await?;
            let usable = secret.ok_or_else(|| "it isn't there".to_string());
            if let Err(why) = usable.and_then(|secret| gateway::certificate::from_secret(&secret).map(|_| ())) {
                let text = format!(
                    "secret {namespace}/{name} can't be served: {why}; the one before it, or a self-signed certificate, stands for it"
                );
                found.push(("InvalidCertificate", text));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}
