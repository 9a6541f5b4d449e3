//! `Endpoints`: the addresses behind a Service, as they were before EndpointSlices.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, int, name, or_none, text};
use crate::defaults::{default_text, items};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["ep"],
    strategy: Strategy {
        defaults,
        validate,
        printer: Printer { columns: &[NAME, text("Endpoints"), AGE], row },
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Endpoints", "endpoints")
};

fn defaults(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for subset in items(map, "subsets") {
        for port in items(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    for subset in object.at("subsets").items() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.at(list));
        if lists.iter().all(Field::is_empty) {
            causes.push(Cause::required(&subset.path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for address in lists.iter().flat_map(Field::items) {
            address.at("ip").address(causes);
            address.at("ip").not_special(causes);
        }
        for port in subset.at("ports").items() {
            port.at("port").port(causes);
            port.at("protocol").one_of(&["SCTP", "TCP", "UDP"], causes);
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), shown(o), age(o, now)]
}

fn shown(o: &Value) -> Value {
    const SHOWN: usize = 3;
    let mut list = Vec::new();
    for subset in o.array_at(&["subsets"]) {
        for address in subset.array_at(&["addresses"]) {
            let ip = address.str_at(&["ip"]);
            let ports = subset.array_at(&["ports"]);
            if ports.is_empty() {
                list.push(ip.to_string());
            }
            list.extend(ports.iter().map(|p| format!("{ip}:{}", int(p, &["port"]))));
        }
    }
    if list.len() > SHOWN {
        return format!("{} + {} more...", list[..SHOWN].join(","), list.len() - SHOWN).into();
    }
    or_none(&list.join(","))
}
