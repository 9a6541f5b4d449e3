//! The token cleaner: bootstrap tokens are deleted when they expire.

use std::time::Duration;

use informer::{Informer, Key};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

/// The Secrets that are bootstrap tokens, as a field selector.
pub const BOOTSTRAP_TOKENS: &str = "metadata.namespace=kube-system,type=bootstrap.kubernetes.io/token";

pub fn start(context: Context) {
    let secrets = context.informers.selected::<Secret>(BOOTSTRAP_TOKENS);
    let controller = Controller::of(&context, &secrets);
    controller.run("token-cleaner", 1, TokenCleaner { context, secrets });
}

struct TokenCleaner {
    context: Context,
    secrets: Informer<Secret>,
}

impl Reconcile for TokenCleaner {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(secret) = self.secrets.get(key) else { return Ok(None) };
        expire(&self.context, &secret).await
    }
}

/// Deletes a token that has expired; else returns when it will.
async fn expire(context: &Context, secret: &Secret) -> Result<Option<Duration>> {
    let at = secret.data.as_ref().and_then(|d| String::from_utf8(d.get("expiration")?.0.clone()).ok());
    // The API accepts no token whose time can't be read.
    let Some(at) = at.and_then(|text| text.parse::<Timestamp>().ok()) else { return Ok(None) };
    let left = at.duration_since(apimachinery::clock::now());
    if left > SignedDuration::ZERO {
        return Ok(Duration::try_from(left).ok());
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &secret.namespace().unwrap_or_default());
    ignore(api.delete(&secret.name_any(), &DeleteParams::default()).await, &[404]).map(|()| None)
}
