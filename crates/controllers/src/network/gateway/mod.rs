//! What the Gateway API needs of the control plane: its kinds, a class of ours, and statuses. (The traffic is served by every
//! node's agent, which decides by the same code which routes attach where.)

mod kinds;
mod plan;

use std::collections::HashMap;
use std::time::Duration;

use gateway::kinds::{Gateway, GatewayClass, GatewayClassStatus, HTTPRoute, ReferenceGrant};
use gateway::{CONTROLLER_NAME, GatewaySnapshot};
use informer::{Informer, Key};
use k8s_openapi::api::core::v1::{Namespace, Node, Secret, Service};
use kube::Api;
use kube::api::PostParams;

use crate::network::ingress::addresses_changed;
use crate::network::service_lb::addresses;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_of_version;
use crate::toolkit::{Context, Result, definitions, ignore};

const CLASS: &str = "timonel";
/// How often certificates are looked at again.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);

struct GatewayController {
    context: Context,
    classes: Informer<GatewayClass>,
    gateways: Informer<Gateway>,
    routes: Informer<HTTPRoute>,
    grants: Informer<ReferenceGrant>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    nodes: Informer<Node>,
}

/// Creates the kinds and the class, and then writes statuses. Definitions that are there already stay as they are.
pub fn start(context: Context) {
    tasks::until_done("gateway-controller", move || run(context.clone()));
}

async fn run(context: Context) {
    definitions::ensure(&context, kinds::kinds()).await;
    let class = GatewayClass {
        metadata: kube::core::ObjectMeta { name: Some(CLASS.into()), ..Default::default() },
        spec: gateway::kinds::GatewayClassSpec { controller_name: CONTROLLER_NAME.into() },
        status: None,
    };
    let classes: Api<GatewayClass> = Api::all(context.client.clone());
    if let Err(error) = ignore(classes.create(&PostParams::default(), &class).await, &[409]) {
        tracing::warn!(%error, "failed to create the GatewayClass");
    }
    let gateways = GatewayController {
        context: context.clone(),
        classes: context.informers.of(),
        gateways: context.informers.of(),
        routes: context.informers.of(),
        grants: context.informers.of(),
        namespaces: context.informers.of(),
        services: context.informers.of(),
        nodes: context.informers.of(),
    };
    // What one object says may matter to all others; so all are looked at, in one go for many changes.
    let mut controller = Controller::of_keys();
    controller.watch_all(&gateways.classes);
    controller.watch_all(&gateways.gateways);
    controller.watch_all(&gateways.routes);
    controller.watch_all(&gateways.grants);
    controller.watch_all(&gateways.namespaces);
    controller.watch_all(&gateways.services);
    controller.watch_for_all(&gateways.nodes, addresses_changed);
    controller.run("gateway", 1, gateways);
}

impl Reconcile for GatewayController {
    async fn reconcile(&self, _: &Key) -> Result<Option<Duration>> {
        let snapshot = GatewaySnapshot::new(
            &self.classes.list(),
            self.gateways.list(),
            self.routes.list(),
            self.grants.list(),
            &self.namespaces.list(),
        );
        let now = apimachinery::clock::now();
        for class in self.classes.list().iter().filter(|c| c.spec.controller_name == CONTROLLER_NAME) {
            let old = class.status.clone().unwrap_or_default();
            let status =
                GatewayClassStatus { conditions: plan::class_status(&old.conditions, class.metadata.generation, now) };
            patch_status_of_version(&self.context, class.as_ref(), class.status.as_ref(), &status).await?;
        }
        let certificates = self.certificates(&snapshot).await?;
        let mut addresses: Vec<String> = self.nodes.list().iter().flat_map(|n| addresses(n)).collect();
        addresses.sort();
        let around = plan::Around {
            addresses: &addresses,
            certificate: &|namespace, name| {
                certificates.get(&(namespace.to_string(), name.to_string())).cloned().unwrap_or(Ok(()))
            },
            service: &|namespace, name, port| {
                let service = self.services.get(&Key::new(namespace, name));
                let service = service.ok_or_else(|| format!("there is no service {namespace}/{name}"))?;
                let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
                let found = port.is_some_and(|port| ports.into_iter().any(|p| p.port == i32::from(port)));
                let missing =
                    || format!("service {namespace}/{name} has no port {}", port.map_or("0".into(), |p| p.to_string()));
                if found { Ok(()) } else { Err(missing()) }
            },
            now,
        };
        for gateway in &snapshot.gateways {
            let status = plan::gateway_status(&snapshot, gateway, &around);
            patch_status_of_version(&self.context, gateway.as_ref(), gateway.status.as_ref(), &status).await?;
        }
        for route in &snapshot.routes {
            let status = plan::route_status(&snapshot, route, &around);
            // Of those that never had to do with us nothing is said.
            if status.parents.is_empty() && !plan::has_our_status(route) {
                continue;
            }
            let written =
                patch_status_of_version(&self.context, route.as_ref(), route.status.as_ref(), &status).await?;
            for why in written.into_iter().flat_map(|_| plan::refusals(&status)) {
                self.context.events.warning(route.as_ref(), "NotServed", why);
            }
        }
        Ok((!certificates.is_empty()).then_some(RESYNC_PERIOD))
    }
}

impl GatewayController {
    /// What is wrong with each of the certificates that Gateways name.
    async fn certificates(&self, snapshot: &GatewaySnapshot) -> Result<HashMap<(String, String), Result<(), String>>> {
        let mut known = HashMap::new();
        for gateway in &snapshot.gateways {
            let references = gateway.spec.listeners.iter().flat_map(|l| &l.tls).flat_map(|tls| &tls.certificate_refs);
            for (namespace, name) in references.filter_map(|to| snapshot.certificate_secret(gateway, to).ok()) {
                let secret = Api::<Secret>::namespaced(self.context.client.clone(), &namespace).get_opt(&name).await?;
                let usable = secret.ok_or_else(|| "it isn't there".to_string());
                let usable = usable.and_then(|secret| gateway::certificate::from_secret(&secret).map(|_| ()));
                known.insert((namespace, name), usable);
            }
        }
        Ok(known)
    }
}
