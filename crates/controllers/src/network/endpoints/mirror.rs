//! Endpoints of a service without a selector, which a user or another program wrote: they are mirrored into EndpointSlices, as the data
//! path reads nothing else (upstream's endpointslicemirroring controller).

use std::time::Duration;

use apimachinery::ObjectExt as _;
use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::plan::{Group, group, plan};
use super::{SERVICE, carry_out, has_selector, owned_by, present, relabel};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, pods};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints whose slices are made by others.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations that are about the Endpoints alone.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of a subset that are mirrored.
const MAX_ENDPOINTS_PER_SUBSET: usize = 1000;

pub fn start(context: Context) {
    let (written, services) = (context.informers.of::<Endpoints>(), context.informers.of::<Service>());
    let slices = context.informers.of::<EndpointSlice>();
    let mut controller = Controller::of(&context, &written);
    controller.watch(&services, |change| Some(change.object().key()));
    controller.watch(&slices, |change| owned_by(change.object(), MANAGER));
    controller.run(
        "endpoint-slice-mirroring",
        1,
        EndpointSliceMirroringController { context, written, services, slices },
    );
}

struct EndpointSliceMirroringController {
    context: Context,
    written: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl Reconcile for EndpointSliceMirroringController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let there = present(&self.slices, key, MANAGER);
        let wanted = self
            .services
            .get(key)
            .filter(|s| !has_selector(s))
            .and_then(|_| self.written.get(key))
            .filter(|e| is_mirrored(e));
        let Some(endpoints) = wanted else {
            let gone = there.into_iter().map(|slice| super::plan::Action::Delete(slice.name)).collect();
            return carry_out(&self.context, &self.slices, key, json!({}), gone).await.map(|()| None);
        };
        let value = serde_json::to_value(endpoints.as_ref()).map_err(kube::Error::SerdeError)?;
        let base = format!("{}-{}", key.name, pods::content_hash(&format!("{}/mirror", key.name)));
        let mut labels = endpoints.labels().clone();
        labels.insert(SERVICE.into(), key.name.clone());
        labels.insert(super::MANAGED_BY.into(), MANAGER.into());
        let owner = pods::owner(endpoints.as_ref());
        let mut annotations = endpoints.annotations().clone();
        annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
        let metadata = json!({"namespace": key.namespace, "labels": labels, "annotations": annotations, "ownerReferences": [owner]});
        let groups = groups(&value);
        let families: &[&str] = if groups.is_empty() { &["IPv4"] } else { &[] };
        let mut actions = plan(&base, families, groups, there.clone(), MAX_ENDPOINTS_PER_SUBSET);
        relabel(&self.slices, key, there, &metadata, &mut actions);
        carry_out(&self.context, &self.slices, key, metadata, actions).await.map(|()| None)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true") && !endpoints.annotations().contains_key(LEADER)
}

/// The subsets as groups of endpoints.
fn groups(endpoints: &Value) -> Vec<Group> {
    let mut all = Vec::new();
    for subset in endpoints.array_at(&["subsets"]) {
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in subset.array_at(&[list]).iter().take(MAX_ENDPOINTS_PER_SUBSET) {
                let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
                for field in ["hostname", "nodeName", "targetRef"] {
                    if !address[field].is_null() {
                        endpoint[field] = address[field].clone();
                    }
                }
                all.push((ports(subset), endpoint));
            }
        }
    }
    group(all)
}

/// The ports of a subset, with everything said that slices say.
fn ports(subset: &Value) -> Vec<Value> {
    let whole = |port: &Value| {
        let protocol = if port["protocol"].is_null() { "TCP" } else { port.str_at(&["protocol"]) };
        let mut whole = json!({"name": port.str_at(&["name"]), "port": port["port"], "protocol": protocol});
        if !port["appProtocol"].is_null() {
            whole["appProtocol"] = port["appProtocol"].clone();
        }
        whole
    };
    subset.array_at(&["ports"]).iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_become_groups_by_family_and_ports() {
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "192.0.2.7", "nodeName": "n"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 5432}]},
            {"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 80}]}]});
        let found: Vec<(&str, usize)> = groups(&endpoints).iter().map(|g| (g.family, g.endpoints.len())).collect();
        assert_eq!(found, [("IPv4", 2), ("IPv6", 1), ("IPv4", 1)]);
        let first = &groups(&endpoints)[0].endpoints;
        assert_eq!(first[0], json!({"addresses": ["192.0.2.7"], "conditions": {"ready": true}, "nodeName": "n"}));
        assert_eq!(first[1]["conditions"]["ready"], false);
    }
}
