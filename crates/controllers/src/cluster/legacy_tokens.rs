//! Tokens in Secrets that an account lists and that no client has used for a year are refused, and a year later deleted (upstream's legacy service
//! account token cleaner, KEP-2799). The API server writes down when a token is used.

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::jiff::{SignedDuration, Timestamp, civil::Date};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Where the API server says since when it writes down which tokens are used.
const TRACKING: &str =
    "metadata.namespace=kube-system,metadata.name=kube-apiserver-legacy-service-account-token-tracking";
/// The day, in what is kept there.
const SINCE: &str = "since";
/// How long a token must have been unused (upstream's `--legacy-service-account-token-clean-up-period`), and then been refused.
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How often all tokens are looked through.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

struct LegacyTokenCleaner {
    context: Context,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    tracking: Informer<ConfigMap>,
}

pub fn start(context: Context) {
    let cleaner = LegacyTokenCleaner {
        context: context.clone(),
        accounts: context.informers.of(),
        secrets: context.informers.selected("type=kubernetes.io/service-account-token"),
        tracking: context.informers.selected(TRACKING),
    };
    let mut controller = Controller::of_keys();
    // Without it there is no record of which tokens are used.
    controller.watch_all(&cleaner.tracking);
    controller.needs(&cleaner.accounts);
    controller.needs(&cleaner.secrets);
    controller.run("legacy-service-account-token-cleaner", 1, cleaner);
}

/// A day as the labels write it; they are compared as texts.
fn day(text: &str) -> Option<&str> {
    text.parse::<Date>().ok().filter(|_| text.len() == 10).map(|_| text)
}

fn day_of(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Refuse it from now on; a client that still needs it shows by failing.
    Invalidate,
    Delete,
}

/// What becomes of a Secret; `limit` is the day since which a token counts as used.
fn judge(secret: &Secret, limit: &str) -> Verdict {
    let label = |key: &str| secret.labels().get(key).map(String::as_str);
    let is_new = secret.metadata.creation_timestamp.as_ref().is_none_or(|at| *day_of(at.0) >= *limit);
    let used = match label(LAST_USED) {
        // What isn't a day says nothing: it may be used.
        Some(text) => day(text).is_none_or(|day| day >= limit),
        None => false,
    };
    if is_new || used || secret.metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).and_then(day) {
        None => Verdict::Invalidate,
        Some(since) if since >= limit => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

impl Reconcile for LegacyTokenCleaner {
    async fn reconcile(&self, _: &Key) -> Result<Option<Duration>> {
        let now = apimachinery::clock::now();
        let limit = day_of(apimachinery::clock::moved(now, -UNUSED));
        let since = self.tracking.list().first().and_then(|map| map.data.as_ref()?.get(SINCE).cloned());
        if since.as_deref().and_then(day).is_none_or(|since| since > limit.as_str()) {
            return Ok(Some(PERIOD));
        }
        for secret in self.secrets.list() {
            let verdict = judge(&secret, &limit);
            if verdict == Verdict::Keep || !self.is_listed(&secret) || self.is_mounted(&secret).await? {
                continue;
            }
            let api: Api<Secret> =
                Api::namespaced(self.context.client.clone(), &secret.namespace().unwrap_or_default());
            let name = secret.name_any();
            let done = if verdict == Verdict::Invalidate {
                let labels = json!({INVALID_SINCE: day_of(now)});
                let change = json!({"metadata": {"resourceVersion": secret.resource_version(), "labels": labels}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await.map(|_| ())
            } else {
                let this = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
                let delete = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
                api.delete(&name, &delete).await.map(|_| ())
            };
            // Who was faster is seen tomorrow.
            ignore(done, &[404, 409])?;
            tracing::info!(secret = %secret.key(), ?verdict, "a token of a Secret was not used for a year");
        }
        Ok(Some(PERIOD))
    }
}

impl LegacyTokenCleaner {
    /// Whether the account of a token lists it: such are those that once were made by themselves.
    fn is_listed(&self, secret: &Arc<Secret>) -> bool {
        let Some(name) = secret.annotations().get(ACCOUNT) else { return false };
        let account = self.accounts.get(&Key::new(&secret.namespace().unwrap_or_default(), name));
        account.is_some_and(|account| {
            account.uid().as_ref() == secret.annotations().get(ACCOUNT_UID)
                && account.secrets.iter().flatten().any(|of| of.name.as_deref() == Some(&secret.name_any()))
        })
    }

    /// Whether a pod has the Secret, by a volume or a variable.
    async fn is_mounted(&self, secret: &Secret) -> Result<bool> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &secret.namespace().unwrap_or_default());
        let pods = api.list(&ListParams::default()).await?;
        let name = secret.name_any();
        Ok(pods.iter().any(|pod| mentions(&json!(pod.spec), &name)))
    }
}

fn mentions(pod: &Value, secret: &str) -> bool {
    let each = |of: &Value, list: &str| of[list].as_array().cloned().unwrap_or_default();
    let volumes = each(pod, "volumes").into_iter().any(|volume| {
        let projected = each(&volume["projected"], "sources");
        volume["secret"]["secretName"] == secret || projected.iter().any(|of| of["secret"]["name"] == secret)
    });
    let containers = ["containers", "initContainers", "ephemeralContainers"].map(|list| each(pod, list));
    let variables = containers.iter().flatten().any(|container| {
        each(container, "env").iter().any(|of| of["valueFrom"]["secretKeyRef"]["name"] == secret)
            || each(container, "envFrom").iter().any(|of| of["secretRef"]["name"] == secret)
    });
    volumes || variables || each(pod, "imagePullSecrets").iter().any(|of| of["name"] == secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_tokens_are_refused_and_then_deleted() {
        for (created, used, invalid, want) in [
            ("2025-06-01", "", "", Verdict::Keep),
            ("2024-06-01", "2025-06-01", "", Verdict::Keep),
            ("2024-06-01", "yesterday", "", Verdict::Keep),
            ("2024-06-01", "2024-12-31", "", Verdict::Invalidate),
            ("2024-06-01", "", "", Verdict::Invalidate),
            ("2024-06-01", "", "whenever", Verdict::Invalidate),
            ("2024-06-01", "", "2025-01-01", Verdict::Keep),
            ("2024-06-01", "", "2024-12-31", Verdict::Delete),
            ("2024-06-01", "2025-01-01", "2024-12-31", Verdict::Keep),
        ] {
            let labels: serde_json::Map<String, Value> = [(LAST_USED, used), (INVALID_SINCE, invalid)]
                .into_iter()
                .filter(|(_, day)| !day.is_empty())
                .map(|(key, day)| (key.into(), day.into()))
                .collect();
            let meta = json!({"name": "s", "creationTimestamp": format!("{created}T12:00:00Z"), "labels": labels});
            let secret = serde_json::from_value(json!({ "metadata": meta })).unwrap();
            assert_eq!(judge(&secret, "2025-01-01"), want, "{created} {used} {invalid}");
        }
    }
}
