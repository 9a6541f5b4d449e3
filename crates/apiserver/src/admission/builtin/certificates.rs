//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: to approve or sign takes the right to do so for
//! the signer, and no certificate for the group `system:masters` can be requested.

use api::{Subresource, kinds};
use apimachinery::{Cause, ObjectExt as _, Status};
use base64::Engine as _;
use serde_json::{Value, json};

use super::super::{AdmissionAttributes, Operation};
use crate::ApiServer;
use crate::authentication::{MASTERS, User};
use crate::authorization::{self, Attributes};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// CertificateSubjectRestriction for new requests, CertificateApproval and CertificateSigning for their changes.
///
/// # Errors
/// 403 without the right to approve or sign for the signer, or for a request of the group `system:masters`; 422 when `status` is used to
/// decide about a request.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind;
    if kind != kinds::CERTIFICATE_SIGNING_REQUESTS {
        return Ok(());
    }
    let signer = object.str_at(&["spec", "signerName"]);
    let refuse = |why: &str| Err(kind.forbidden(object.name(), why));
    let may = |verb: &str| may_for_signer(server, attributes.user, verb, signer);
    let same = |path: &[&str]| attributes.old.is_some_and(|old| old.at(path) == object.at(path));
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, _) if signer == CLIENT => {
            let request = base64::engine::general_purpose::STANDARD.decode(object.str_at(&["spec", "request"]));
            let pem = request.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            match pki::parse_certificate_request(&pem) {
                Ok(facts) if facts.organizations.iter().any(|o| o == MASTERS) => {
                    refuse(&format!("use of {CLIENT} signer with {MASTERS} group is not allowed"))
                }
                _ => Ok(()),
            }
        }
        (Operation::Update, Some(Subresource::Approval)) if !may("approve") => {
            refuse(&format!("user not permitted to approve requests with signerName {signer:?}"))
        }
        (Operation::Update, Some(Subresource::Status))
            if attributes.old.is_some_and(|old| decision(old) != decision(object)) =>
        {
            let why = "updates may not add or remove a condition of type \"Approved\" or \"Denied\"";
            let cause = Cause::forbidden("status.conditions", why);
            Err(kind.invalid(object.name(), vec![cause]))
        }
        (Operation::Update, Some(Subresource::Status)) if !same(&["status", "certificate"]) && !may("sign") => {
            refuse(&format!("user not permitted to sign requests with signerName {signer:?}"))
        }
        _ => Ok(()),
    }
}

/// Whether a user may do something in a signer's name: one of its own, or all of its domain.
pub fn may_for_signer(server: &ApiServer, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    let group = kinds::CERTIFICATE_SIGNING_REQUESTS.group;
    [signer.to_string(), format!("{domain}/*")].iter().any(|name| {
        let wanted = Attributes { verb, group, resource: "signers", namespace: "", name, path: "" };
        authorization::allows(server, user, &wanted)
    })
}

/// Sets `spec.username`, `groups`, `uid` and `extra` of a new request to those of the user who sends it.
pub fn set_user(user: &User, request: &mut Value) {
    let spec = request.child_mut("spec");
    spec.retain(|field, _| !matches!(field.as_str(), "uid" | "extra"));
    spec.insert("username".into(), user.name.as_str().into());
    spec.insert("groups".into(), json!(user.groups));
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.extra.is_empty() {
        let extra: serde_json::Map<_, _> =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        spec.insert("extra".into(), extra.into());
    }
}

/// What was decided about a request: by `approval` alone, for which the right to approve is asked about.
fn decision(request: &Value) -> Vec<&Value> {
    let conditions = request.array_at(&["status", "conditions"]).iter();
    conditions.filter(|c| c["type"] == "Approved" || c["type"] == "Denied").collect()
}
