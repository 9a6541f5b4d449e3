//! The certificates in those secrets that Ingresses and Gateways name. Each is watched alone, as a node may read no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use parking_lot::RwLock;
use rustls::sign::CertifiedKey;
use tasks::AbortOnDrop;
use tokio::sync::Notify;

/// Namespace and name.
pub type Name = (String, String);
type Key = Arc<CertifiedKey>;

pub struct Secrets {
    client: Client,
    /// Woken when a certificate changed.
    changed: Arc<Notify>,
    watched: BTreeMap<Name, Watched>,
}

struct Watched {
    key: Arc<RwLock<Option<Key>>>,
    _watching: AbortOnDrop,
}

impl Secrets {
    pub fn new(client: Client, changed: Arc<Notify>) -> Self {
        Secrets { client, changed, watched: BTreeMap::new() }
    }

    /// Watches these and no others.
    pub fn keep(&mut self, wanted: &BTreeSet<Name>) {
        self.watched.retain(|name, _| wanted.contains(name));
        for name in wanted {
            if !self.watched.contains_key(name) {
                let key = Arc::new(RwLock::new(None));
                let (client, of, to, changed) = (self.client.clone(), name.clone(), key.clone(), self.changed.clone());
                let watching = tasks::supervise("ingress-secret", move || {
                    watch(client.clone(), of.clone(), to.clone(), changed.clone())
                });
                self.watched.insert(name.clone(), Watched { key, _watching: AbortOnDrop(watching) });
            }
        }
    }

    /// The certificate, if it is there and good.
    pub fn get(&self, name: &Name) -> Option<Key> {
        self.watched.get(name)?.key.read().clone()
    }
}

async fn watch(client: Client, (namespace, name): Name, key: Arc<RwLock<Option<Key>>>, changed: Arc<Notify>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let secret = format!("{namespace}/{name}");
    let mut states = watch_object(api, &name).default_backoff().boxed();
    while let Some(state) = states.next().await {
        let now = match state {
            Ok(Some(object)) => match gateway::certificate::read(&object) {
                Ok(read) => Some(read),
                Err(why) => {
                    // Who replaces a good one by a bad one is served with the good one until he has another.
                    tracing::warn!(secret, why, "a Secret holds a certificate that can't be used");
                    continue;
                }
            },
            Ok(None) => {
                tracing::debug!(secret, "the Secret of a certificate is missing");
                None
            }
            Err(error) => {
                tracing::debug!(%error, secret, "failed to read the Secret of a certificate");
                continue;
            }
        };
        *key.write() = now;
        changed.notify_one();
    }
}
