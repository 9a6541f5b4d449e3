//! Signs `cluster-info` in `kube-public` with every bootstrap token that is for signing, so that a client with a token can check
//! that the addresses and the authority in it are the cluster's (upstream's "bootstrap signer").

use std::collections::BTreeMap;
use std::time::Duration;

use informer::{Informer, Key};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::cluster::token_cleaner::BOOTSTRAP_TOKENS;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const PREFIX: &str = "jws-kubeconfig-";

pub fn start(context: Context) {
    let named = format!("metadata.namespace={NAMESPACE},metadata.name={NAME}");
    let maps = context.informers.selected::<ConfigMap>(&named);
    let secrets = context.informers.selected::<Secret>(BOOTSTRAP_TOKENS);
    let mut controller = Controller::of_keys();
    controller.watch(&maps, |_| Some(Key::new(NAMESPACE, NAME)));
    controller.watch(&secrets, |_| Some(Key::new(NAMESPACE, NAME)));
    controller.run("bootstrap-signer", 1, BootstrapSigner { context, maps, secrets });
}

struct BootstrapSigner {
    context: Context,
    maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
}

impl Reconcile for BootstrapSigner {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(map) = self.maps.get(key) else { return Ok(None) };
        let now = apimachinery::clock::now();
        let keys: Vec<_> = self.secrets.list().iter().filter_map(|s| signing_key(s, now)).collect();
        let Some(change) = change(&map, &keys) else { return Ok(None) };
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), NAMESPACE);
        let meta = json!({"resourceVersion": map.metadata.resource_version});
        let patch = Patch::Merge(json!({"metadata": meta, "data": change}));
        ignore(api.patch(NAME, &Default::default(), &patch).await, &[404]).map(|()| None)
    }
}

/// A token's ID and secret, if it may sign.
fn signing_key(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    let over = text("expiration").is_some_and(|at| at.parse::<Timestamp>().map_or(true, |at| at <= now));
    let (id, key) = (text("token-id")?, text("token-secret")?);
    let is_named = secret.metadata.name.as_deref() == Some(&format!("bootstrap-token-{id}"));
    let may = text("usage-bootstrap-signing").is_some_and(|usage| usage == "true");
    (is_named && may && !over && !key.is_empty()).then_some((id, key))
}

/// The signatures that are missing, wrong, or of tokens that are no more (`null`).
fn change(map: &ConfigMap, keys: &[(String, String)]) -> Option<Value> {
    let none = BTreeMap::new();
    let data = map.data.as_ref().unwrap_or(&none);
    let content = data.get("kubeconfig")?;
    let mut change = serde_json::Map::new();
    for (id, secret) in keys {
        match pki::detached_signature(content.as_bytes(), id, secret.as_bytes()) {
            Ok(signature) => {
                change.insert(format!("{PREFIX}{id}"), signature.into());
            }
            Err(error) => tracing::error!(%error, token = id, "failed to sign ConfigMap {NAME}"),
        }
    }
    for old in data.keys().filter(|key| key.starts_with(PREFIX)) {
        change.entry(old.clone()).or_insert(Value::Null);
    }
    change.retain(|key, value| data.get(key).map(String::as_str) != value.as_str());
    (!change.is_empty()).then_some(Value::Object(change))
}
