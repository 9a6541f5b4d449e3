//! `PodCertificateRequest`: a kubelet's request of a certificate for a pod (KEP-4317).

use apimachinery::{Cause, ObjectExt as _, clock, names};
use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{Column, NAME, Printer, name, text, wide};
use crate::defaults::{default_number, spec};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field, too_long};
use crate::validate::{signer, status};

/// Seconds.
const DEFAULT_LIFE: i64 = 24 * 60 * 60;
const MOST_REQUEST: usize = 10 << 10;
const MOST_CHAIN: usize = 100 << 10;
const MOST_UID: usize = 128;
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

pub static KIND: Kind = Kind {
    selectable: &["spec.signerName", "spec.podName", "spec.nodeName"],
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        defaults: |object| {
            if let Some(spec) = spec(object) {
                default_number(spec, "maxExpirationSeconds", DEFAULT_LIFE);
            }
        },
        status_keeps: StatusKeeps::All,
        validate,
        validate_status: Some(validate_status),
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "PodCertificateRequest", "podcertificaterequests")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let root = Field::root(object);
    let spec = root.at("spec");
    if old.is_some() {
        spec.immutable(old, causes);
        return;
    }
    signer::name(&spec.at("signerName"), causes);
    signer::user_annotations(&spec.at("unverifiedUserAnnotations"), causes);
    for (of, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        let (of, uid) = (spec.at(of), spec.at(uid));
        if let Err(why) = names::dns1123_subdomain(of.text()) {
            causes.push(Cause::invalid(&of.path, &json!(of.text()), &why));
        }
        if uid.text().is_empty() {
            causes.push(Cause::invalid(&uid.path, &json!(""), "must not be empty"));
        } else if uid.text().len() > MOST_UID {
            causes.push(too_long(&uid.path, MOST_UID));
        }
    }
    let seconds = spec.at("maxExpirationSeconds");
    let Some(wanted) = seconds.value.as_i64() else {
        causes.push(Cause::required(&seconds.path, "must be set"));
        return;
    };
    let (least, most) = (signer::MIN_VALIDITY_SECONDS, signer::max_validity_seconds(spec.at("signerName").text()));
    if !(least..=most).contains(&wanted) {
        seconds.invalid(&format!("must be in the range [{least}, {most}]"), causes);
    }
    check_request(&spec, causes);
}

/// Text of base64, which the decoder has checked already.
fn bytes(field: &Field<'_>) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(field.text()).unwrap_or_default()
}

fn check_request(spec: &Field<'_>, causes: &mut Causes) {
    let field = spec.at("stubPKCS10Request");
    let request = bytes(&field);
    // Upstream leaves the value out of these messages.
    let mut told = |path: &str, why: &str| {
        causes.push(Cause {
            reason: "FieldValueInvalid",
            field: path.into(),
            message: format!("Invalid value: {why}"),
        });
    };
    if request.is_empty() {
        let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        return told(&spec.path, why);
    }
    if request.len() > MOST_REQUEST {
        causes.push(too_long(&field.path, MOST_REQUEST));
        return;
    }
    let value = |text: String, why: &str, causes: &mut Causes| {
        causes.push(Cause::invalid(&field.path, &json!(text), why));
    };
    match pki::key_of_request(&request) {
        Ok(_) => {}
        Err(pki::KeyFault::Malformed) => told(&field.path, "must be a valid PKCS#10 CSR"),
        Err(pki::KeyFault::UnknownType) => {
            told(&field.path, "unknown public key type; supported types are Ed25519, ECDSA, and RSA");
        }
        Err(pki::KeyFault::Signature) => told(&field.path, "invalid signature"),
        Err(pki::KeyFault::Curve(name)) => {
            value(format!("curve {name}"), "elliptic public keys must use curve P256, P384, or P521", causes);
        }
        Err(pki::KeyFault::Modulus(bits)) => {
            value(format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096", causes);
        }
    }
}

fn validate_status(object: &Value, old: &Value, causes: &mut Causes) {
    let before = causes.len();
    let (now, was) = (status::of(object), status::of(old));
    let listed = now.at("conditions");
    let mut known = 0;
    for condition in listed.items() {
        let kind = condition.at("type");
        if !ENDS.contains(&kind.text()) {
            causes.push(Cause::not_supported(&kind.path, kind.value, &ENDS));
            continue;
        }
        known += 1;
        if known > 1 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            kind.invalid(why, causes);
        }
        if condition.at("status").text() != "True" {
            let state = condition.at("status");
            causes.push(Cause::not_supported(&state.path, state.value, &["True"]));
        }
    }
    status::conditions(&listed, causes);
    if causes.len() > before {
        return;
    }
    let refuse = |why: &str, causes: &mut Causes| {
        let message = format!("Invalid value: {why}");
        causes.push(Cause { reason: "FieldValueInvalid", field: "status".into(), message });
    };
    let ended = |of: &Field<'_>| ENDS.iter().find(|end| status::is_true(&of.at("conditions"), end)).copied();
    let differs = content(now.value) != content(was.value);
    if ended(&was).is_some() {
        if differs {
            refuse("immutable after PodCertificateRequest is issued, denied, or failed", causes);
        }
        return;
    }
    match ended(&now) {
        Some("Issued") => check_chain(&object["spec"], &now, causes),
        Some(_) if content(now.value).into_iter().any(|(key, _)| key != "conditions") => {
            refuse(
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
                causes,
            );
        }
        None if differs => {
            refuse("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"", causes);
        }
        _ => {}
    }
}

/// What a status says: of what is empty, nothing.
fn content(status: &Value) -> Vec<(&String, &Value)> {
    let empty = |value: &Value| Field::root(value).is_empty();
    status.as_object().into_iter().flatten().filter(|(_, value)| !empty(value)).collect()
}

/// What a signer gave back: the first fault that it has.
fn check_chain(spec: &Value, status: &Field<'_>, causes: &mut Causes) {
    let chain = status.at("certificateChain");
    if chain.text().len() > MOST_CHAIN {
        causes.push(too_long(&chain.path, MOST_CHAIN));
        return;
    }
    let mut blocks = pki::pem_blocks(chain.text());
    let fault = |why: &str, causes: &mut Causes| chain.invalid(why, causes);
    let Some(first) = blocks.next() else {
        return fault("issued certificate chain must contain at least one certificate", causes);
    };
    if first.label != "CERTIFICATE" {
        return fault("issued certificate chain must consist entirely of CERTIFICATE PEM blocks", causes);
    }
    let Some(leaf) = pki::leaf(&first.contents) else {
        return fault("leaf certificate does not parse as valid X.509", causes);
    };
    check_names(&leaf, &chain.path, causes);
    let asked = pki::key_of_request(&bytes(&Field::root(spec).at("stubPKCS10Request")));
    if asked.as_ref() != Ok(&leaf.key) {
        return fault("leaf certificate was not issued to the requested public key", causes);
    }
    if !check_times(spec, status, &leaf, causes) {
        return;
    }
    for block in blocks {
        if block.label != "CERTIFICATE" {
            return fault("issued certificate chain must consist entirely of CERTFICATE PEM blocks", causes);
        }
        if !pki::is_certificate(&block.contents) {
            return fault("intermediate certificate does not parse as valid X.509", causes);
        }
    }
}

fn check_names(leaf: &pki::Leaf, path: &str, causes: &mut Causes) {
    for name in &leaf.dns_names {
        let mut told = |why: &str| causes.push(Cause::invalid(path, &json!(name), why));
        if name.is_empty() {
            told("leaf certificate should not contain empty DNSName");
        }
        if name.contains("..") {
            told("leaf certificate's DNSName should not contain '..'");
        }
        if name.starts_with('.') || name.ends_with('.') {
            told("leaf certificate's DNSName should not start or end with '.'");
        }
    }
    for address in &leaf.emails {
        let parts = address.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
        if !parts || address.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let why = "leaf certificate should not contain invalid EmailAddress";
            causes.push(Cause::invalid(path, &json!(address), why));
        }
    }
}

/// The times that a status says must be those of the certificate. Returns whether they are.
fn check_times(spec: &Value, status: &Field<'_>, leaf: &pki::Leaf, causes: &mut Causes) -> bool {
    const MOST_SKEW: i64 = 5 * 60;
    const FROM_THE_ENDS: i64 = 10 * 60;
    let before = causes.len();
    let fields = ["notBefore", "notAfter", "beginRefreshAt"].map(|key| status.at(key));
    for (field, why) in fields.iter().zip([
        "must be present and consistent with the issued certificate",
        "must be present and consistent with the issued certificate",
        "must be present and in the range [notbefore+10min, notafter-10min]",
    ]) {
        field.require(why, causes);
    }
    if causes.len() > before {
        return false;
    }
    let [begin, end, refresh] = &fields;
    let at = |field: &Field<'_>| field.text().parse::<Timestamp>().map_or(0, Timestamp::as_second);
    let (from, until) = (leaf.not_before, leaf.not_after);
    let life = until.saturating_sub(from);
    let most = spec["maxExpirationSeconds"].as_i64().unwrap_or(0);
    let chain = status.at("certificateChain");
    let of_chain = |why: &str, causes: &mut Causes| causes.push(Cause::invalid(&chain.path, &json!(life), why));
    if at(begin) != from {
        begin.invalid("must be set to the NotBefore time encoded in the leaf certificate", causes);
    } else if from.abs_diff(clock::now().as_second()) >= MOST_SKEW as u64 {
        begin.invalid("must be set to within 5 minutes of kube-apiserver's current time", causes);
    } else if at(end) != until {
        end.invalid("must be set to the NotAfter time encoded in the leaf certificate", causes);
    } else if life < signer::MIN_VALIDITY_SECONDS {
        of_chain("leaf certificate lifetime must be >= 1 hour", causes);
    } else if life > most {
        of_chain(&format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})"), causes);
    } else if at(refresh) < from.saturating_add(FROM_THE_ENDS) {
        refresh.invalid("must be at least 10 minutes after status.notBefore", causes);
    } else if at(refresh) > until.saturating_sub(FROM_THE_ENDS) {
        refresh.invalid("must be at least 10 minutes before status.notAfter", causes);
    }
    causes.len() == before
}

const COLUMNS: &[Column] = &[
    NAME,
    text("PodName"),
    text("ServiceAccountName"),
    text("NodeName"),
    text("SignerName"),
    text("State"),
    wide("UnverifiedUserAnnotations"),
];

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    let of = |field: &str| Value::from(o.str_at(&["spec", field]));
    let conditions = o.array_at(&["status", "conditions"]).iter();
    let state = conditions.map(|c| c.str_at(&["type"])).rfind(|kind| ENDS.contains(kind));
    let told = o.at(&["spec", "unverifiedUserAnnotations"]).as_object().into_iter().flatten();
    let told: Vec<String> = told.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    vec![
        name(o),
        of("podName"),
        of("serviceAccountName"),
        of("nodeName"),
        of("signerName"),
        state.unwrap_or("Pending").into(),
        if told.is_empty() { "<none>".into() } else { told.join(",").into() },
    ]
}
