//! `Endpoints`: the addresses behind a Service, as they were before EndpointSlices.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, int, name, shortened, text};
use crate::defaults::{default_text, items};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["ep"],
    strategy: Strategy {
        made_by_updates: true,
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
    let subsets = o.array_at(&["subsets"]);
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut list = Vec::new();
    for subset in subsets {
        let (ports, addresses) = (subset.array_at(&["ports"]), subset.array_at(&["addresses"]));
        if ports.is_empty() {
            list.extend(addresses.iter().map(|a| a.str_at(&["ip"]).to_string()));
        }
        for port in ports {
            let number = int(port, &["port"]);
            list.extend(addresses.iter().map(|a| match a.str_at(&["ip"]) {
                v6 if v6.contains(':') => format!("[{v6}]:{number}"),
                ip => format!("{ip}:{number}"),
            }));
        }
    }
    shortened(&list, "")
}
