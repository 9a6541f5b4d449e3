//! `EndpointSlice`: a part of the addresses behind a Service.

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, shortened, text};
use crate::defaults::{default, items};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field, too_many};

pub static KIND: Kind = Kind {
    has_generation: true,
    strategy: Strategy {
        defaults,
        validate,
        printer: Printer { columns: &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "EndpointSlice", "endpointslices")
};

fn defaults(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for port in items(map, "ports") {
        default(port, "name", || json!(""));
        default(port, "protocol", || json!("TCP"));
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let kind = object.at("addressType");
    kind.must_be(&["FQDN", "IPv4", "IPv6"], causes);
    kind.immutable(old, causes);
    too_many(&object.at("endpoints"), 1000, causes);
    for endpoint in object.at("endpoints").items() {
        endpoint.at("hostname").is_if_said(names::dns1123_label, causes);
        endpoint.at("nodeName").is_if_said(names::dns1123_subdomain, causes);
        let addresses = endpoint.at("addresses");
        addresses.require("must contain at least 1 address", causes);
        too_many(&addresses, 100, causes);
        for address in addresses.items() {
            match kind.text() {
                "IPv4" if address.text().parse::<std::net::Ipv4Addr>().is_err() => {
                    address.invalid("must be a valid IPv4 address", causes);
                }
                "IPv6" if address.text().parse::<std::net::Ipv6Addr>().is_err() => {
                    address.invalid("must be a valid IPv6 address", causes);
                }
                "FQDN" => address.is(names::dns1123_subdomain, causes),
                _ => address.not_special(causes),
            }
        }
    }
    object.at("ports").unique("name", causes);
    too_many(&object.at("ports"), 100, causes);
    for port in object.at("ports").items() {
        port.at("name").is(names::dns1123_label, causes);
        port.at("protocol").must_be(&["SCTP", "TCP", "UDP"], causes);
        port.at("appProtocol").is_if_said(names::qualified_name, causes);
        if port.at("port").is_set() {
            port.at("port").port(causes);
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    // A port without a number stands for all.
    let port = |port: &Value| match (port.i64_at(&["port"]), port.str_at(&["name"])) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".into(),
        (None, name) => name.into(),
    };
    let ports: Vec<String> = o.array_at(&["ports"]).iter().map(port).collect();
    let endpoints = o.array_at(&["endpoints"]).iter().flat_map(|e| e.strings_at(&["addresses"]));
    let addresses: Vec<String> = endpoints.map(String::from).collect();
    let (ports, addresses) = (shortened(&ports, "<unset>"), shortened(&addresses, "<unset>"));
    vec![name(o), o.str_at(&["addressType"]).into(), ports, addresses, age(o, now)]
}
