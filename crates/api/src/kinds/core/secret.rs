//! `Secret`: a ConfigMap that is kept apart.

use apimachinery::{Cause, ObjectExt as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use super::config_map::data_keys;
use crate::columns::{AGE, NAME, Printer, age, name, number, text};
use crate::defaults::default_text;
use crate::kinds::quota::count;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::Causes;
use crate::validate::immutable;

pub static KIND: Kind = Kind {
    selectable: &["type"],
    strategy: Strategy {
        defaults: |secret| {
            if let Some(secret) = secret.as_object_mut() {
                default_text(secret, "type", "Opaque");
            }
        },
        prepare_create: fold_string_data,
        prepare_update: |new, _, _| fold_string_data(new),
        validate,
        printer: Printer { columns: &[NAME, text("Type"), number("Data"), AGE], row },
        usage: |_, usage| count(usage, KIND.plural),
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Secret", "secrets")
};

/// Secrets may be written with plain text, which is kept encoded like the rest.
fn fold_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|m| m.remove("stringData")) else { return };
    let data = secret.child_mut("data");
    for (key, value) in plain {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    data_keys(object, old, &["data"], causes);
    immutable(object, old, &["type"], "type", causes);
    let needs = |key: &'static str, causes: &mut Vec<Cause>| {
        if object["data"].get(key).is_none() {
            causes.push(Cause::required(format!("data[{key}]"), ""));
        }
    };
    match object.str_at(&["type"]) {
        "kubernetes.io/tls" => {
            needs("tls.crt", causes);
            needs("tls.key", causes);
        }
        "kubernetes.io/dockerconfigjson" => {
            needs(".dockerconfigjson", causes);
            is_json(object, ".dockerconfigjson", causes);
        }
        "kubernetes.io/dockercfg" => {
            needs(".dockercfg", causes);
            is_json(object, ".dockercfg", causes);
        }
        "kubernetes.io/basic-auth" if object["data"]["username"].is_null() && object["data"]["password"].is_null() => {
            needs("username", causes);
            needs("password", causes);
        }
        "kubernetes.io/ssh-auth" => match object["data"]["ssh-privatekey"].as_str() {
            Some("") => causes.push(Cause::required("data[ssh-privatekey]", "")),
            _ => needs("ssh-privatekey", causes),
        },
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"][ACCOUNT].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
        _ => {}
    }
}

/// A value that is to be a JSON object. What is wrong with it isn't shown, as it is secret.
fn is_json(object: &Value, key: &str, causes: &mut Causes) {
    let Some(text) = object["data"][key].as_str() else { return };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
        let hidden = json!("<secret contents redacted>");
        causes.push(Cause::invalid(format!("data[{key}]"), &hidden, "must be a JSON object"));
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let data = o["data"].as_object().map_or(0, serde_json::Map::len);
    vec![name(o), o.str_at(&["type"]).into(), json!(data), age(o, now)]
}
