//! Kinds of `certificates.k8s.io`.

pub(crate) mod certificate_signing_request;
pub(crate) mod cluster_trust_bundle;
pub(crate) mod pod_certificate_request;

const GROUP: &str = "certificates.k8s.io";

table! {
    CERTIFICATE_SIGNING_REQUESTS = certificate_signing_request;
    CLUSTER_TRUST_BUNDLES = cluster_trust_bundle;
    POD_CERTIFICATE_REQUESTS = pod_certificate_request;
}
