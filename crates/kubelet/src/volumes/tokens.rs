//! Tokens of the pod's service account, for projected volumes and for CSI drivers.

use std::path::Path;

use apimachinery::clock;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};

/// The life of a token whose volume names none, in seconds (upstream's default).
const DEFAULT_EXPIRATION: i64 = 3600;
/// A token is renewed when this share of its life is over, as upstream does.
const RENEW_AFTER: f64 = 0.8;

/// A token for the pod: the one in the file `present` while it is fresh, else a new one. `seconds` is its life.
///
/// # Errors
/// When the API refuses.
pub async fn current(
    client: &Client,
    pod: &Pod,
    audience: Option<&str>,
    seconds: Option<i64>,
    present: &Path,
) -> Result<Vec<u8>, kube::Error> {
    let seconds = seconds.unwrap_or(DEFAULT_EXPIRATION);
    let age = std::fs::metadata(present).and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
    if let (Some(age), Ok(token)) = (age, bounded::bytes(present, bounded::MAX_OWN_FILE_BYTES))
        && age < clock::seconds(seconds).mul_f64(RENEW_AFTER)
    {
        return Ok(token);
    }
    Ok(request(client, pod, audience, Some(seconds)).await?.token.unwrap_or_default().into_bytes())
}

/// Requests a new token of the pod's account, bound to this pod.
///
/// # Errors
/// When the API refuses.
pub async fn request(
    client: &Client,
    pod: &Pod,
    audience: Option<&str>,
    seconds: Option<i64>,
) -> Result<TokenRequestStatus, kube::Error> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            attestations: None,
            audiences: audience.map(|a| vec![a.into()]),
            expiration_seconds: seconds,
            bound_object_ref: Some(bound),
        }),
        ..TokenRequest::default()
    };
    let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.unwrap_or_default())
}
