//! Kinds of `certificates.k8s.io`.

pub(crate) mod certificate_signing_request;

const GROUP: &str = "certificates.k8s.io";

table! {
    CERTIFICATE_SIGNING_REQUESTS = certificate_signing_request;
}
