//! `ClusterTrustBundle`: authorities that pods may trust (KEP-3257).

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{NAME, Printer, name, or_none, text};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field, too_long};
use crate::validate::signer;

/// The most bytes of a bundle.
const MOST: usize = 1 << 20;

pub static KIND: Kind = Kind {
    selectable: &["spec.signerName"],
    strategy: Strategy {
        // What a name may be depends on the signer.
        name: |_| Ok(()),
        updates_name_version: true,
        validate,
        printer: Printer { columns: &[NAME, text("SignerName")], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ClusterTrustBundle", "clustertrustbundles")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = Field::root(object);
    let (signer, bundle) = (root.at("spec").at("signerName"), root.at("spec").at("trustBundle"));
    if old.is_none()
        && let Err(why) = signer::trust_bundle_name(signer.text(), object.name())
    {
        causes.push(Cause::invalid("metadata.name", &json!(object.name()), &why));
    }
    if !signer.text().is_empty() {
        signer::name(&signer, causes);
    }
    signer.immutable(old, causes);
    // What was accepted stays so, however the rules of certificates change.
    if old.is_some_and(|old| old.at(&["spec", "trustBundle"]) == bundle.value) {
        return;
    }
    if bundle.text().len() > MOST {
        causes.push(too_long(&bundle.path, MOST));
    } else if let Err(faults) = pki::trust_anchors(bundle.text()) {
        let told = faults.iter().map(|why| Cause::invalid(&bundle.path, &json!("<value omitted>"), why));
        causes.extend(told);
    }
}

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(o), or_none(o.str_at(&["spec", "signerName"]))]
}
