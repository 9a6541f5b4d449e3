//! Certificates from the TLS secrets of Ingresses and Gateways. Each secret is watched by name, since the Node authorizer lets a node read
//! only those that it needs.

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

/// How many are watched of a namespace, and how many of all: each is a stream of the node's one connection, and who may write an Ingress decides
/// how many it names.
const MOST_OF_NAMESPACE: usize = 1000;
const MOST: usize = 5000;

/// Namespace and name.
pub type Name = (String, String);
type Key = Arc<CertifiedKey>;

pub struct Secrets {
    client: Client,
    /// Notified when a certificate has changed.
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

    /// Starts and stops watches, so that exactly these secrets are watched.
    pub fn keep(&mut self, wanted: &BTreeSet<Name>) {
        let chosen = bounded(wanted);
        if chosen.len() < wanted.len() {
            tracing::warn!(
                count = wanted.len(),
                served = chosen.len(),
                "ignored certificates: Ingresses name more than are watched"
            );
        }
        self.watched.retain(|name, _| chosen.contains(name));
        for name in chosen {
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

    /// The certificate, if the secret exists and is valid.
    pub fn get(&self, name: &Name) -> Option<Key> {
        self.watched.get(name)?.key.read().clone()
    }
}

/// Those that are watched, of those that are named.
fn bounded(wanted: &BTreeSet<Name>) -> BTreeSet<&Name> {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    for name in wanted {
        let share = shares.entry(&name.0).or_default();
        *share = share.saturating_add(1);
        if *share <= MOST_OF_NAMESPACE && chosen.len() < MOST {
            chosen.insert(name);
        }
    }
    chosen
}

async fn watch(client: Client, (namespace, name): Name, key: Arc<RwLock<Option<Key>>>, changed: Arc<Notify>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let secret = format!("{namespace}/{name}");
    let mut states = watch_object(api, &name).default_backoff().boxed();
    while let Some(state) = states.next().await {
        let now = match state {
            Ok(Some(object)) => match gateway::certificate::from_secret(&object) {
                Ok(read) => Some(read),
                Err(why) => {
                    // The previous valid certificate stays in use.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_does_not_have_any_number_of_secrets_watched() {
        let of = |namespace: &str, count: usize| {
            (0..count).map(|n| (namespace.to_string(), format!("s{n}"))).collect::<Vec<_>>()
        };
        let wanted: BTreeSet<Name> = of("calm", 900).into_iter().chain(of("wild", 50_000)).collect();
        let chosen = bounded(&wanted);
        let count = |namespace: &str| chosen.iter().filter(|(of, _)| of == namespace).count();
        assert_eq!((count("calm"), count("wild")), (900, MOST_OF_NAMESPACE));
        let wanted: BTreeSet<Name> = (0..20).flat_map(|n| of(&format!("n{n}"), 900)).collect();
        assert_eq!(bounded(&wanted).len(), MOST);
    }
}
