//! Certificate signing requests: those of nodes are approved and signed by themselves, others once somebody approved.

use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::SignedDuration;
use kube::api::DeleteParams;
use kube::{Api, Client};
use pki::Usage;
use serde_json::{Value, json};

use crate::{Context, Result};

const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub fn start(context: Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = Queue::default();
    let add = queue.clone();
    requests.on_change(move |change| add.add(change.object().key()));
    queue.work("certificates", 1, move |key| {
        let (context, requests) = (context.clone(), requests.clone());
        async move {
            if let Some(request) = requests.get(&key) {
                let left = left(&request);
                if left <= SignedDuration::ZERO {
                    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
                    crate::ignore(api.delete(&key.name, &DeleteParams::default()).await, &[404])?;
                    return Ok(None);
                }
                reconcile(&context, &requests, &key).await?;
                return Ok(Duration::try_from(left).ok());
            }
            Ok::<_, kube::Error>(None)
        }
    });
}

/// How long a request is still kept: an hour after it was decided about, a day if nobody does (upstream's
/// `certificates/cleaner`).
fn left(request: &CertificateSigningRequest) -> SignedDuration {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let decided = conditions.iter().any(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"));
    let since = conditions.iter().filter_map(|c| c.last_update_time.as_ref()).max();
    let since = since.or(request.metadata.creation_timestamp.as_ref());
    let age = since.map_or(SignedDuration::ZERO, |t| apimachinery::clock::now().duration_since(t.0));
    SignedDuration::from_hours(if decided { 1 } else { 24 }) - age
}

/// Whether a node may have this certificate without a person looking: a joining machine a client certificate, and a
/// node one to serve with, for its own name only.
fn is_own(
    spec: &k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec,
    subject: &pki::RequestFacts,
) -> bool {
    let is_node = subject.common_name.starts_with("system:node:") && subject.organizations == ["system:nodes"];
    let user = spec.username.as_deref().unwrap_or("");
    let groups = spec.groups.clone().unwrap_or_default();
    let bootstrapper = groups.iter().any(|g| g == "system:bootstrappers");
    match spec.signer_name.as_str() {
        NODE_CLIENT => is_node && (bootstrapper || user == subject.common_name),
        NODE_SERVING => is_node && user == subject.common_name,
        _ => false,
    }
}

async fn reconcile(context: &Context, requests: &Informer<CertificateSigningRequest>, key: &Key) -> Result {
    let Some(request) = requests.get(key) else { return Ok(()) };
    let status = request.status.clone().unwrap_or_default();
    if status.certificate.is_some() {
        return Ok(());
    }
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind);
    if has("Denied") || has("Failed") {
        return Ok(());
    }
    let usage = match request.spec.signer_name.as_str() {
        NODE_CLIENT | CLIENT => Usage::Client,
        NODE_SERVING => Usage::Server,
        _ => return Ok(()),
    };
    let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
    let facts = match pki::request_facts(&pem) {
        Ok(facts) => facts,
        Err(error) => {
            return set(&context.client, key, "status", "Failed", "SigningFailed", &error.to_string(), None).await;
        }
    };
    if !has("Approved") {
        if !is_own(&request.spec, &facts) {
            return Ok(());
        }
        let text = "Auto approving kubelet certificate after SubjectAccessReview.";
        return set(&context.client, key, "approval", "Approved", "AutoApproved", text, None).await;
    }
    match context.config.authority.sign(&pem, usage) {
        Ok(certificate) => set(&context.client, key, "status", "", "", "", Some(&certificate)).await,
        Err(error) => set(&context.client, key, "status", "Failed", "SigningFailed", &error.to_string(), None).await,
    }
}

async fn set(
    client: &Client,
    key: &Key,
    part: &str,
    kind: &str,
    reason: &str,
    message: &str,
    certificate: Option<&str>,
) -> Result {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let Some(present) = api.get_opt(&key.name).await? else { return Ok(()) };
    let mut value = serde_json::to_value(&present).map_err(kube::Error::SerdeError)?;
    if !kind.is_empty() {
        let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": apimachinery::clock::now_rfc3339()});
        match value["status"]["conditions"].as_array_mut() {
            Some(list) => list.push(condition),
            None => value["status"]["conditions"] = json!([condition]),
        }
    }
    if let Some(pem) = certificate {
        use base64::Engine as _;
        value["status"]["certificate"] = base64::engine::general_purpose::STANDARD.encode(pem).into();
    }
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{}/{part}", key.name);
    let request =
        http::Request::put(path).header("Content-Type", "application/json").body(value.to_string().into_bytes());
    crate::ignore(client.request::<Value>(request.map_err(kube::Error::HttpError)?).await, &[404])
}
