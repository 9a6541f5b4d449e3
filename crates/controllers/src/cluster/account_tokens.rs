//! Secrets of the type `kubernetes.io/service-account-token` get the token of the account that they name; they go with it.

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

pub fn start(context: Context) {
    let accounts = context.informers.of::<ServiceAccount>();
    let secrets = context.informers.selected::<Secret>(&format!("type={TYPE}"));
    let mut controller = Controller::of(&context, &secrets);
    let all = secrets.clone();
    controller.watch(&accounts, move |change| {
        let account = change.object().key();
        let theirs = all.list_in(&account.namespace).into_iter().filter(|s| named(s) == account.name);
        theirs.map(|secret| secret.key()).collect::<Vec<_>>()
    });
    controller.run("serviceaccount-token", 2, TokensController { context, secrets, accounts });
}

struct TokensController {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

impl Reconcile for TokensController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(secret) = self.secrets.get(key) else {
            return forget(&self.context, &self.accounts, key).await.map(|()| None);
        };
        let account = self.accounts.get(&Key::new(&key.namespace, named(&secret)));
        fill_in(&self.context, &secret, account).await.map(|()| None)
    }
}

/// Takes a token that is gone out of the lists of those accounts that name it, as upstream does: pods of an account that asks for it
/// (`kubernetes.io/enforce-mountable-secrets`) may mount what is listed there, also a Secret that later gets this name.
async fn forget(context: &Context, accounts: &Informer<ServiceAccount>, key: &Key) -> Result {
    let names =
        |account: &Arc<ServiceAccount>| account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(&key.name));
    let named: Vec<Arc<ServiceAccount>> = accounts.list_in(&key.namespace).into_iter().filter(names).collect();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    if named.is_empty() || secrets.get_metadata_opt(&key.name).await?.is_some() {
        return Ok(());
    }
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.namespace);
    for account in named {
        let left: Vec<_> = account.secrets.iter().flatten().filter(|s| s.name.as_deref() != Some(&key.name)).collect();
        let meta = json!({"resourceVersion": account.resource_version()});
        let change = json!({"metadata": meta, "secrets": if left.is_empty() { Value::Null } else { json!(left) }});
        ignore(api.patch(&account.name_any(), &Default::default(), &Patch::Merge(change)).await, &[404])?;
    }
    Ok(())
}

fn named(secret: &Secret) -> &str {
    secret.annotations().get(ACCOUNT).map_or("", String::as_str)
}

/// Whether it is the account that the Secret is for. One that says no UID is for any of that name.
fn is_for(secret: &Secret, account: &ServiceAccount) -> bool {
    secret.annotations().get(UID).is_none_or(|uid| uid.is_empty() || account.uid().as_ref() == Some(uid))
}

async fn fill_in(context: &Context, secret: &Secret, account: Option<Arc<ServiceAccount>>) -> Result {
    let namespace = secret.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    if let Some(account) = account.filter(|account| is_for(secret, account)) {
        let Some(change) = missing(context, secret, &account) else { return Ok(()) };
        return ignore(api.patch(&secret.name_any(), &Default::default(), &Patch::Merge(change)).await, &[404]);
    }
    // The cache may be behind: a token is taken away only when the API itself knows no such account.
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &namespace);
    if accounts.get_opt(named(secret)).await?.is_some_and(|account| is_for(secret, &account)) {
        return Ok(());
    }
    let this = Preconditions { uid: secret.uid(), resource_version: None };
    let delete = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    ignore(api.delete(&secret.name_any(), &delete).await, &[404, 409])
}

/// What is not yet, or not rightly, in the Secret. Its version guards against another writer.
fn missing(context: &Context, secret: &Secret, account: &ServiceAccount) -> Option<Value> {
    let namespace = account.namespace().unwrap_or_default();
    let held = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
    let mut data = serde_json::Map::new();
    let mut want = |key: &str, value: &str| {
        data.insert(key.into(), json!(k8s_openapi::ByteString(value.into())));
    };
    let ca = context.config.authority.certificate_pem();
    if held("ca.crt") != Some(ca.as_bytes()) {
        want("ca.crt", ca);
    }
    if held("namespace") != Some(namespace.as_bytes()) {
        want("namespace", &namespace);
    }
    if held("token").is_none_or(<[u8]>::is_empty) {
        match context.config.token_key.issue(&claims(secret, account)) {
            Ok(token) => want("token", &token),
            Err(error) => {
                tracing::error!(%error, secret = secret.name_any(), "failed to create the token of a Secret for a service account")
            }
        }
    }
    let uid = account.uid();
    if data.is_empty() && secret.annotations().get(UID) == uid.as_ref() {
        return None;
    }
    let meta = json!({"resourceVersion": secret.resource_version(), "annotations": {UID: uid}});
    Some(json!({"metadata": meta, "data": data}))
}

/// What such a token claims, as upstream writes it: it has no end but its Secret's.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name_any(),
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
    })
}
