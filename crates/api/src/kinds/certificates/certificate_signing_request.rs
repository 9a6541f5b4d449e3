//! `CertificateSigningRequest`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["csr"],
    selectable: &["spec.signerName"],
    subresources: &[Subresource::Status, Subresource::Approval],
    ..Kind::cluster(GROUP, "v1", "CertificateSigningRequest", "certificatesigningrequests")
};
