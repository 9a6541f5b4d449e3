//! `CertificateSigningRequest`: what asks for a certificate.

use apimachinery::{ObjectExt as _, clock, names};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, name, text};
use crate::kinds::{Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["csr"],
    selectable: &["spec.signerName"],
    subresources: &[Subresource::Status, Subresource::Approval],
    strategy: Strategy {
        name: names::path_segment,
        validate,
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "CertificateSigningRequest", "certificatesigningrequests")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("request").require("", causes);
    if spec.at("signerName").require("", causes)
        && !spec.at("signerName").text().split_once('/').is_some_and(|(domain, path)| {
            names::dns1123_subdomain(domain).is_ok() && domain.contains('.') && !path.is_empty()
        })
    {
        spec.at("signerName")
            .invalid("must be a fully qualified domain and path of the form \"example.com/signer-name\"", causes);
    }
    let seconds = spec.at("expirationSeconds");
    if seconds.value.as_i64().is_some_and(|n| n < 600) {
        seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)", causes);
    }
    spec.immutable(old, causes);
}

const COLUMNS: &[Column] =
    &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| o.array_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut condition = if has("Denied") {
        "Denied".to_string()
    } else if has("Approved") {
        "Approved".into()
    } else {
        "Pending".into()
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        condition.push_str(",Issued");
    }
    let duration = o.i64_at(&["spec", "expirationSeconds"]);
    let duration =
        duration.map(|s| clock::human_duration(SignedDuration::from_secs(s))).unwrap_or_else(|| "<none>".into());
    vec![
        name(o),
        age(o, now),
        o.str_at(&["spec", "signerName"]).into(),
        o.str_at(&["spec", "username"]).into(),
        duration.into(),
        condition.into(),
    ]
}
