//! `NetworkPolicy`: who may talk to Pods.

use apimachinery::Cause;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, selector, text};
use crate::defaults::{default, default_list, items, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field, too_many};

pub static KIND: Kind = Kind {
    short_names: &["netpol"],
    has_generation: true,
    strategy: Strategy {
        defaults,
        validate,
        printer: Printer { columns: &[NAME, text("Pod-Selector"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "NetworkPolicy", "networkpolicies")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "podSelector", || json!({}));
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    default_list(spec, "policyTypes", || if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                default(port, "protocol", || json!("TCP"));
            }
        }
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("podSelector").selector(causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(direction).items() {
            for port in rule.at("ports").items() {
                check_port(&port, causes);
            }
            for peer in rule.at(peers).items() {
                check_peer(&peer, causes);
            }
        }
    }
    too_many(&spec.at("policyTypes"), 2, causes);
    for kind in spec.at("policyTypes").items() {
        kind.one_of(&["Egress", "Ingress"], causes);
    }
}

fn check_port(of: &Field<'_>, causes: &mut Causes) {
    of.at("protocol").one_of(&["TCP", "UDP", "SCTP"], causes);
    let (port, end) = (of.at("port"), of.at("endPort"));
    if port.is_set() {
        port.port_or_name(causes);
    }
    if !end.is_set() {
        return;
    }
    match port.value.as_i64() {
        None if port.is_set() => end.invalid("may not be specified when `port` is non-numeric", causes),
        None => causes.push(Cause::required(port.path, "must be specified when `endPort` is specified")),
        Some(from) if end.value.as_i64().is_some_and(|to| to < from) => {
            end.invalid("must be greater than or equal to `port`", causes);
        }
        Some(_) => end.port(causes),
    }
}

fn check_peer(peer: &Field<'_>, causes: &mut Causes) {
    let block = peer.at("ipBlock");
    let selectors = ["podSelector", "namespaceSelector"].map(|s| peer.at(s));
    for selector in selectors.iter().filter(|s| s.is_set()) {
        selector.selector(causes);
    }
    let any_selector = selectors.iter().any(Field::is_set);
    if !block.is_set() {
        if !any_selector {
            causes.push(Cause::required(&peer.path, "must specify a peer"));
        }
        return;
    }
    if any_selector {
        peer.forbid("may not specify both ipBlock and another peer", causes);
    }
    let Some(network) = block.at("cidr").network(causes) else { return };
    for except in block.at("except").items() {
        if let Some(inner) = except.network(causes)
            && (!network.contains(&inner) || network == inner)
        {
            let why = format!("must be a strict subset of `cidr`: {network}");
            except.invalid(&why, causes);
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), selector(&o["spec"]["podSelector"]), age(o, now)]
}
