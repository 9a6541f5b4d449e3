//! Certificate signing requests: those of nodes are approved and signed here, others are signed once they are approved.

pub mod pod_requests;
pub mod serving_bundle;
mod signers;

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::SignedDuration;
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use signers::{Cluster, Signer};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, ignore};

/// The extra of a user that says which node's name it has claimed.
const NODE_NAME: &str = "timonel.io/node-name";

pub fn start(context: Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let nodes = context.informers.of::<Node>();
    let slices = context.informers.of::<EndpointSlice>();
    let mut controller = Controller::of(&context, &requests);
    // What a node may have a certificate for is what its Node says.
    let pending = requests.clone();
    controller.watch(&nodes, move |change| {
        let user = format!("system:node:{}", change.object().key().name);
        let of_node = |r: &Arc<CertificateSigningRequest>| r.spec.username.as_deref() == Some(&user);
        let open = pending.list().into_iter().filter(|r| of_node(r) && is_open(r));
        open.map(|request| request.key()).collect::<Vec<_>>()
    });
    controller.needs(&slices);
    controller.run("certificates", 1, CertificateController { context, requests, nodes, slices });
}

struct CertificateController {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
}

impl Reconcile for CertificateController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(request) = self.requests.get(key) else { return Ok(None) };
        let left = left(&request);
        if left <= SignedDuration::ZERO {
            let api: Api<CertificateSigningRequest> = Api::all(self.context.client.clone());
            ignore(api.delete(&key.name, &DeleteParams::default()).await, &[404])?;
            return Ok(None);
        }
        let api = self.slices.get(&Key::new("default", "kubernetes"));
        let cluster = Cluster { config: &self.context.config, nodes: &self.nodes.list(), api: api.as_deref() };
        sync(&self.context.client, &request, &cluster).await?;
        Ok(Duration::try_from(left).ok())
    }
}

/// How long a request stays: an hour after it was approved or denied, a day if it is neither (upstream's
/// `certificates/cleaner`).
fn left(request: &CertificateSigningRequest) -> SignedDuration {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let decided = conditions.iter().any(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"));
    let since = conditions.iter().filter_map(|c| c.last_update_time.as_ref()).max();
    let since = since.or(request.metadata.creation_timestamp.as_ref());
    let now = apimachinery::clock::now();
    let age = since.map_or(SignedDuration::ZERO, |t| now.duration_since(t.0));
    let left = SignedDuration::from_hours(if decided { 1 } else { 24 }).saturating_sub(age);
    // A certificate that has expired is of no use.
    let certificate = request.status.as_ref().and_then(|s| s.certificate.as_ref());
    let over =
        certificate.and_then(|c| pki::parse_certificate(&String::from_utf8_lossy(&c.0)).ok()).map(|f| f.not_after);
    match over {
        Some(over) => left.min(SignedDuration::from_secs(over.saturating_sub(now.as_second()))),
        None => left,
    }
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    let status = request.status.as_ref();
    status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().any(|c| c.type_ == condition)
}

/// Whether something may still become of a request.
fn is_open(request: &CertificateSigningRequest) -> bool {
    let signed = request.status.as_ref().is_some_and(|s| s.certificate.is_some());
    !signed && !has(request, "Denied") && !has(request, "Failed")
}

/// Whether a request is approved without a person looking: a joining machine's for a client certificate, and a node's
/// for its own name.
fn is_own(
    signer: Signer,
    spec: &CertificateSigningRequestSpec,
    facts: &pki::CertificateRequest,
    nodes: &[Arc<Node>],
) -> bool {
    let is_in = |group: &str| spec.groups.iter().flatten().any(|g| g == group);
    let own = is_in("system:nodes") && spec.username.as_deref() == Some(&facts.common_name);
    match signer {
        Signer::NodeClient => own || (is_in("system:bootstrappers") && may_take_name(spec, &facts.common_name, nodes)),
        Signer::NodeServing => own,
        Signer::Client => false,
    }
}

/// Whether a client that only has the join token may have a certificate with this user's name: a name that it has
/// claimed (`apiserver::joining`), or one of no node, as it would get the secrets of that node.
fn may_take_name(spec: &CertificateSigningRequestSpec, user: &str, nodes: &[Arc<Node>]) -> bool {
    let Some(name) = user.strip_prefix("system:node:") else { return false };
    match spec.extra.as_ref().and_then(|extra| extra.get(NODE_NAME)) {
        Some(claimed) => claimed.iter().any(|claimed| claimed == name),
        None => !nodes.iter().any(|node| node.metadata.name.as_deref() == Some(name)),
    }
}

async fn sync(client: &Client, request: &CertificateSigningRequest, cluster: &Cluster<'_>) -> Result {
    let Some(signer) = Signer::of(&request.spec.signer_name).filter(|_| is_open(request)) else { return Ok(()) };
    let key = request.key();
    let fail = |reason: &'static str, why: String| async move {
        set(client, &request.key(), "status", "Failed", reason, &why, None).await
    };
    let pem = String::from_utf8_lossy(&request.spec.request.0);
    let facts = match pki::parse_certificate_request(&pem) {
        Ok(facts) => facts,
        Err(error) => return fail("SigningFailed", error.to_string()).await,
    };
    let checked = signer.check(&request.spec, &facts, cluster);
    if !has(request, "Approved") {
        if checked.is_err() || !is_own(signer, &request.spec, &facts, cluster.nodes) {
            return Ok(());
        }
        let own = request.spec.groups.iter().flatten().any(|group| group == "system:nodes");
        let what = match signer {
            Signer::NodeServing => "kubelet serving",
            _ if own => "self kubelet client",
            _ => "kubelet client",
        };
        let text = &format!("Auto approving {what} certificate after SubjectAccessReview.");
        return set(client, &key, "approval", "Approved", "AutoApproved", text, None).await;
    }
    // Also of a request that a user approved: the rules of a signer hold for all of its certificates.
    let terms = match checked {
        Ok(terms) => terms,
        Err(why) => return fail("SignerValidationFailure", why).await,
    };
    match cluster.config.authority.sign(&facts, terms) {
        Ok(certificate) => set(client, &key, "status", "", "", "", Some(&certificate)).await,
        Err(error) => fail("SigningFailed", error.to_string()).await,
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
    ignore(client.request::<Value>(request.map_err(kube::Error::HttpError)?).await, &[404])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
        let node = |name: &&str| Node {
            metadata: kube::api::ObjectMeta { name: Some((*name).into()), ..Default::default() },
            ..Default::default()
        };
        names.iter().map(|name| Arc::new(node(name))).collect()
    }

    #[test]
    fn requests_are_kept_as_long_as_upstream_keeps_them() {
        use base64::Engine as _;
        let folder = tempfile::tempdir().unwrap();
        let authority = pki::Authority::load_or_create(folder.path(), "ca").unwrap();
        let pem = pki::create_certificate_request(&pki::new_key().unwrap(), "x", "x", &[]).unwrap();
        let facts = pki::parse_certificate_request(&pem).unwrap();
        let certificate = |seconds: i64| {
            let terms =
                pki::SigningProfile { usage: pki::Usage::Client, key_encipherment: false, seconds: Some(seconds) };
            authority.sign(&facts, terms).unwrap()
        };
        let (good, over) = (certificate(600), certificate(-60));
        let (good, over) = (good.as_str(), over.as_str());
        let now = apimachinery::clock::now();
        let ago = |minutes: i64| apimachinery::clock::format_rfc3339(now - SignedDuration::from_mins(minutes));
        let request = |created: i64,
                       conditions: &[(&str, i64)],
                       certificate: Option<&str>|
         -> CertificateSigningRequest {
            let condition = |(kind, minutes): &(&str, i64)| json!({"type": kind, "status": "True", "lastUpdateTime": ago(*minutes)});
            let conditions: Vec<Value> = conditions.iter().map(condition).collect();
            let certificate = certificate.map(|pem| base64::engine::general_purpose::STANDARD.encode(pem));
            let meta = json!({"name": "r", "creationTimestamp": ago(created)});
            serde_json::from_value(json!({"metadata": meta, "spec": {"request": "", "signerName": "s", "usages": []},
                "status": {"conditions": conditions, "certificate": certificate}}))
            .unwrap()
        };
        for (created, conditions, certificate, goes) in [
            (1, vec![("Approved", 50)], Some(good), false),
            (1, vec![("Approved", 50)], None, false),
            (1, vec![("Approved", 50)], Some(over), true),
            (1, vec![("Approved", 120)], Some(good), true),
            (1, vec![("Denied", 50)], None, false),
            (1, vec![("Denied", 120)], None, true),
            (1, vec![("Approved", 120), ("Failed", 50)], None, false),
            (1, vec![("Approved", 120), ("Failed", 120)], None, true),
            (5 * 60, vec![], None, false),
            (25 * 60, vec![], None, true),
            (1, vec![("Approved", 120)], Some("garbage"), true),
            (1, vec![("Approved", 50)], Some("garbage"), false),
        ] {
            let left = left(&request(created, &conditions, certificate));
            assert_eq!(left <= SignedDuration::ZERO, goes, "{created} {conditions:?}: {left:?}");
            assert!(
                certificate != Some(good) || left <= SignedDuration::from_secs(600),
                "no longer than it is good for"
            );
        }
    }

    #[test]
    fn a_node_renews_its_own_and_who_joins_takes_a_free_name() {
        for (signer, user, group, name, own) in [
            (Signer::NodeClient, "system:bootstrap:abcdef", "system:bootstrappers", "system:node:new", true),
            (Signer::NodeClient, "system:bootstrap:abcdef", "system:bootstrappers", "system:node:old", false),
            (Signer::NodeClient, "system:node:old", "system:nodes", "system:node:old", true),
            (Signer::NodeClient, "system:node:old", "system:nodes", "system:node:new", false),
            (Signer::NodeClient, "system:node:old", "dev", "system:node:old", false),
            (Signer::NodeServing, "system:node:old", "system:nodes", "system:node:old", true),
            (Signer::NodeServing, "system:bootstrap:abcdef", "system:bootstrappers", "system:node:new", false),
            (Signer::Client, "system:node:old", "system:nodes", "system:node:old", false),
        ] {
            let spec = CertificateSigningRequestSpec {
                username: Some(user.into()),
                groups: Some(vec![group.into(), "system:authenticated".into()]),
                ..Default::default()
            };
            let facts = pki::CertificateRequest { common_name: name.into(), ..Default::default() };
            assert_eq!(is_own(signer, &spec, &facts, &nodes(&["old"])), own, "{signer:?} {user} {name}");
        }
    }

    #[test]
    fn a_claimed_name_is_its_machines() {
        for (claimed, name, may) in [
            (Some("old"), "system:node:old", true),
            (Some("old"), "system:node:new", false),
            (Some("new"), "system:node:old", false),
            (Some("new"), "system:node:new", true),
            (None, "system:node:old", false),
            (None, "system:node:new", true),
        ] {
            let spec = CertificateSigningRequestSpec {
                username: Some("system:bootstrap:timonel".into()),
                groups: Some(vec!["system:bootstrappers".into()]),
                extra: claimed.map(|name| [(NODE_NAME.to_string(), vec![name.to_string()])].into()),
                ..Default::default()
            };
            let facts = pki::CertificateRequest { common_name: name.into(), ..Default::default() };
            let own = is_own(Signer::NodeClient, &spec, &facts, &nodes(&["old"]));
            assert_eq!(own, may, "{claimed:?} {name}");
        }
    }
}
