//! Every namespace gets a service account `default` and the cluster's CA certificate.

use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const ROOT_CA: &str = "kube-root-ca.crt";
/// What it is good for, where people look for it (upstream's words).
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal \
     service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

pub fn start(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    // Only those with the certificate, as there may be very many others.
    let maps = context.informers.selected::<ConfigMap>(&format!("metadata.name={ROOT_CA}"));
    let mut controller = Controller::of(&context, &namespaces);
    controller.watch(&accounts, |change| Some(Key::new("", &change.object().key().namespace)));
    controller.watch(&maps, |change| Some(Key::new("", &change.object().key().namespace)));
    controller.run("service-account", 2, ServiceAccountController { context, namespaces, accounts, maps });
}

struct ServiceAccountController {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    maps: Informer<ConfigMap>,
}

impl Reconcile for ServiceAccountController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let name = key.name.as_str();
        let alive = self.namespaces.get(&Key::new("", name)).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
        if !alive {
            return Ok(None);
        }
        if self.accounts.get(&Key::new(name, "default")).is_none() {
            let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), name);
            let account = ServiceAccount {
                metadata: kube::api::ObjectMeta { name: Some("default".into()), ..Default::default() },
                ..ServiceAccount::default()
            };
            ignore(api.create(&PostParams::default(), &account).await, &[403, 404, 409])?;
        }
        let ca = self.context.config.authority.certificate_pem();
        let present = self.maps.get(&Key::new(name, ROOT_CA));
        let wanted = std::collections::BTreeMap::from([("ca.crt".to_string(), ca.to_string())]);
        // Nothing else belongs there: keys that others add are removed (upstream's root CA publisher).
        let is_described = |m: &ConfigMap| m.annotations().get(DESCRIPTION.0).is_some_and(|text| !text.is_empty());
        if present.as_ref().is_none_or(|m| m.data.as_ref() != Some(&wanted) || !is_described(m)) {
            let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), name);
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT_CA, "annotations": {DESCRIPTION.0: DESCRIPTION.1}}, "data": {"ca.crt": ca}});
            if let Some(present) = present {
                let others = present.data.iter().flatten().filter(|(key, _)| !wanted.contains_key(*key));
                let mut data: serde_json::Map<String, Value> =
                    others.map(|(key, _)| (key.clone(), Value::Null)).collect();
                data.insert("ca.crt".into(), ca.into());
                let meta = json!({"annotations": {DESCRIPTION.0: DESCRIPTION.1}});
                let patch = kube::api::Patch::Merge(json!({"metadata": meta, "data": data}));
                ignore(api.patch(ROOT_CA, &Default::default(), &patch).await, &[404])?;
            } else {
                let map: ConfigMap = serde_json::from_value(map).map_err(kube::Error::SerdeError)?;
                ignore(api.create(&PostParams::default(), &map).await, &[403, 404, 409])?;
            }
        }
        Ok(None)
    }
}
