//! Certificates of pods and trust bundles: who may ask, sign and attest (NodeRestriction and ClusterTrustBundleAttest; the right to sign is
//! asked about by upstream's strategy of the status).

use api::{Kind, Subresource, kinds, static_pods};
use apimachinery::{Cause, ObjectExt as _, Status};
use serde_json::Value;

use super::super::{AdmissionAttributes, Operation};
use super::certificates::may_for_signer;
use super::escalation::differs_for_collector;
use crate::ApiServer;
use crate::authentication::NODES;
use crate::authorization::{self, Attributes};
use crate::registry::object_key;

/// # Errors
/// 403 without the right to attest for the signer of a bundle, and for a node's request that isn't about its own pods; 422 without the right to
/// sign.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.kind == kinds::CLUSTER_TRUST_BUNDLES {
        return attest(server, attributes, object);
    }
    if attributes.kind != kinds::POD_CERTIFICATE_REQUESTS {
        return Ok(());
    }
    if let Some(old) = attributes.old.filter(|_| attributes.subresource == Some(Subresource::Status)) {
        return sign(server, attributes, object, old);
    }
    let user = attributes.user;
    match user.name.strip_prefix("system:node:").filter(|_| user.is_in(NODES)) {
        Some(node) => of_node(server, attributes, node, object),
        None => Ok(()),
    }
}

fn attest(server: &ApiServer, attributes: &AdmissionAttributes<'_>, bundle: &Value) -> Result<(), Status> {
    let signer = bundle.str_at(&["spec", "signerName"]);
    let by_collector = attributes.old.is_some_and(|old| differs_for_collector(old, bundle));
    if signer.is_empty() || by_collector || may_for_signer(server, attributes.user, "attest", signer) {
        return Ok(());
    }
    let why = format!("user not permitted to attest for signerName {signer:?}");
    Err(attributes.kind.forbidden(bundle.name(), &why))
}

fn sign(server: &ApiServer, attributes: &AdmissionAttributes<'_>, request: &Value, old: &Value) -> Result<(), Status> {
    let (signer, user) = (old.str_at(&["spec", "signerName"]), attributes.user);
    if old["status"] == request["status"] || may_for_signer(server, user, "sign", signer) {
        return Ok(());
    }
    let why = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", user.name);
    let cause = Cause::forbidden("spec.signerName", &why);
    Err(attributes.kind.invalid(request.name(), vec![cause]))
}

/// A kubelet asks for its own pods alone, for what they mount, and says of them what is true.
fn of_node(
    server: &ApiServer,
    attributes: &AdmissionAttributes<'_>,
    node: &str,
    request: &Value,
) -> Result<(), Status> {
    let kind = attributes.kind;
    let refuse = |why: String| Err(kind.forbidden(request.name(), &why));
    if attributes.operation != Operation::Create {
        return refuse(format!("unexpected operation {}", attributes.operation.as_str()));
    }
    let of = |field: &str| request.str_at(&["spec", field]);
    let named = of("nodeName");
    if named != node {
        return refuse(format!(
            "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
        ));
    }
    let namespace = attributes.namespace;
    let pod_key = format!("{namespace}/{}", of("podName"));
    let (found, said) = (uid(server, kinds::NODES, "", node), of("nodeUID"));
    if found != said {
        return refuse(format!(
            "PodCertificateRequest for pod {pod_key:?} names node UID {said:?}, inconsistent with the running node ({found:?})"
        ));
    }
    let Some(pod) = object(server, kinds::PODS, namespace, of("podName")) else {
        return refuse(format!("while retrieving pod {pod_key:?} named in the PodCertificateRequest: not found"));
    };
    if let Some(why) = contradicts(&pod, node, &pod_key, request) {
        return refuse(why);
    }
    let account = of("serviceAccountName");
    let (found, said) = (uid(server, kinds::SERVICE_ACCOUNTS, namespace, account), of("serviceAccountUID"));
    if found != said {
        return refuse(format!(
            "PodCertificateRequest for pod {pod_key:?} names service account UID {said:?}, which differs from the running service account ({found:?})"
        ));
    }
    let signer = of("signerName");
    if mounts(&pod, signer) || may_request(server, attributes, signer, account) {
        return Ok(());
    }
    refuse(format!("pod {pod_key:?} does not mount a podCertificate projected volume for signer {signer:?}"))
}

/// What a request says of a pod, and isn't so.
fn contradicts(pod: &Value, node: &str, pod_key: &str, request: &Value) -> Option<String> {
    let (said, is) = (request.str_at(&["spec", "podUID"]), pod.uid());
    if said != is {
        return Some(format!(
            "PodCertificateRequest for pod {pod_key:?} contains pod UID ({said:?}) which differs from running pod {is:?}"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Some(format!("pod {pod_key:?} is not running on node {node:?} named in the PodCertificateRequest"));
    }
    if static_pods::is_mirror(pod) {
        return Some(format!("pod {pod_key:?} is a mirror pod"));
    }
    let (said, is) = (request.str_at(&["spec", "serviceAccountName"]), pod.str_at(&["spec", "serviceAccountName"]));
    (said != is).then(|| {
        format!(
            "PodCertificateRequest for pod {pod_key:?} contains serviceAccountName ({said:?}) that differs from running pod ({is:?})"
        )
    })
}

fn object(server: &ApiServer, kind: &'static Kind, namespace: &str, name: &str) -> Option<Value> {
    server.cache.of(kind).get(&object_key(namespace, name)).map(|entry| entry.parse())
}

/// The uid of an object; empty if it isn't there, which none is.
fn uid(server: &ApiServer, kind: &'static Kind, namespace: &str, name: &str) -> String {
    object(server, kind, namespace, name).map(|object| object.uid().to_string()).unwrap_or_default()
}

fn mounts(pod: &Value, signer: &str) -> bool {
    let volumes = pod.array_at(&["spec", "volumes"]).iter();
    let mut sources = volumes.flat_map(|volume| volume.array_at(&["projected", "sources"]));
    sources.any(|source| source.at(&["podCertificate", "signerName"]) == signer)
}

/// CSI drivers that ask through the kubelet are allowed it by a rule of their own.
fn may_request(server: &ApiServer, attributes: &AdmissionAttributes<'_>, signer: &str, account: &str) -> bool {
    let resource = signer.replace('/', ":");
    let wanted = Attributes {
        verb: "request-serviceaccounts-podcertificate-signer",
        group: "",
        resource: &resource,
        namespace: attributes.namespace,
        name: account,
        path: "",
    };
    authorization::allows(server, attributes.user, &wanted)
}
