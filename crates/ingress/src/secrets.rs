//! Certificates from the TLS secrets of Ingresses and Gateways. Each secret is watched by name, since the Node authorizer lets a node read
//! only those that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use informer::{Selection, Trigger};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, Resource as _};
use parking_lot::RwLock;
use rustls::sign::CertifiedKey;
use tasks::AbortOnDrop;

/// How many are watched of a namespace, and how many of all: each is a stream of the node's one connection, and who may write an Ingress decides
/// how many it names.
const MAX_SECRETS_PER_NAMESPACE: usize = 1000;
const MAX_SECRETS: usize = 5000;

/// Namespace and name.
pub type Name = (String, String);
type Key = Arc<CertifiedKey>;

pub struct Secrets {
    client: Client,
    /// Fires when a certificate has changed.
    changed: Trigger,
    watched: BTreeMap<Name, Watched>,
}

struct Watched {
    key: Arc<RwLock<Option<Key>>>,
    _watching: AbortOnDrop,
}

impl Secrets {
    pub fn new(client: Client, changed: Trigger) -> Self {
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
        if *share <= MAX_SECRETS_PER_NAMESPACE && chosen.len() < MAX_SECRETS {
            chosen.insert(name);
        }
    }
    chosen
}

/// Keeps `key` as the Secret says. A Secret that isn't valid leaves the certificate before it in use.
async fn watch(client: Client, (namespace, name): Name, key: Arc<RwLock<Option<Key>>>, changed: Trigger) {
    let selection = Selection::named(Secret::url_path(&(), Some(&namespace)), &name);
    let secret = format!("{namespace}/{name}");
    informer::follow_object::<Secret>(client, selection, move |object| {
        let now = match object.as_ref().map(gateway::certificate::from_secret) {
            Some(Ok(read)) => Some(read),
            Some(Err(why)) => return tracing::warn!(secret, why, "a Secret holds a certificate that can't be used"),
            None => {
                tracing::debug!(secret, "the Secret of a certificate is missing");
                None
            }
        };
        *key.write() = now;
        changed.fire();
    })
    .await;
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
        assert_eq!((count("calm"), count("wild")), (900, MAX_SECRETS_PER_NAMESPACE));
        let wanted: BTreeSet<Name> = (0..20).flat_map(|n| of(&format!("n{n}"), 900)).collect();
        assert_eq!(bounded(&wanted).len(), MAX_SECRETS);
    }
}
