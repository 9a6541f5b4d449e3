//! `PriorityLevelConfiguration`: how many requests are served at once, and how the others wait.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, name, or_none, text};
use crate::defaults::{child, default, default_number, spec};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        status_keeps: StatusKeeps::All,
        validate,
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    if spec.get("type") == Some(&json!("Exempt")) {
        default(spec, "exempt", || json!({}));
        if let Some(exempt) = child(spec, "exempt") {
            default(exempt, "nominalConcurrencyShares", || json!(0));
            default(exempt, "lendablePercent", || json!(0));
        }
    }
    let Some(limited) = child(spec, "limited") else { return };
    default(limited, "nominalConcurrencyShares", || json!(30));
    default(limited, "lendablePercent", || json!(0));
    if let Some(queuing) = child(limited, "limitResponse").and_then(|r| child(r, "queuing")) {
        default_number(queuing, "queues", 64);
        default_number(queuing, "handSize", 8);
        default_number(queuing, "queueLengthLimit", 50);
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("type").must_be(&["Exempt", "Limited"], causes);
    let limited = spec.at("limited");
    match (spec.at("type").text(), limited.is_set()) {
        ("Exempt", true) => limited.forbid("must be nil if the type is not Limited", causes),
        ("Limited", false) => causes.push(Cause::required(&limited.path, "must not be empty when type is Limited")),
        _ => {}
    }
    limited.at("nominalConcurrencyShares").not_negative(causes);
    limited.at("lendablePercent").range(0, 100, causes);
    limited.at("borrowingLimitPercent").not_negative(causes);
    if !limited.is_set() {
        return;
    }
    let response = limited.at("limitResponse");
    response.at("type").must_be(&["Queue", "Reject"], causes);
    let queuing = response.at("queuing");
    match (response.at("type").text(), queuing.is_set()) {
        ("Reject", true) => queuing.forbid("must be nil if limited.limitResponse.type is not Limited", causes),
        ("Queue", false) => {
            causes.push(Cause::required(&queuing.path, "must not be empty if limited.limitResponse.type is Limited"));
        }
        _ => {}
    }
    for field in ["queues", "handSize", "queueLengthLimit"] {
        queuing.at(field).positive(causes);
    }
    let (queues, hand) = (queuing.at("queues").value.as_i64(), queuing.at("handSize").value.as_i64());
    if let (Some(queues), Some(hand)) = (queues, hand)
        && hand > queues
    {
        queuing.at("handSize").invalid(&format!("should not be greater than queues ({queues})"), causes);
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    text("Type"),
    text("NominalConcurrencyShares"),
    text("Queues"),
    text("HandSize"),
    text("QueueLengthLimit"),
    AGE,
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let kind = o.str_at(&["spec", "type"]);
    let of = if kind == "Exempt" { "exempt" } else { "limited" };
    let number = |path: &[&str]| match o.at(path).as_i64() {
        Some(n) => n.to_string().into(),
        None => or_none(""),
    };
    let queuing = |field| number(&["spec", "limited", "limitResponse", "queuing", field]);
    vec![
        name(o),
        kind.into(),
        number(&["spec", of, "nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(o, now),
    ]
}
