//! `FlowSchema`: which requests are of which flow.

use apimachinery::{Cause, ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, int, name, number, or_none, text};
use crate::defaults::{default_number, spec};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults: |object| {
            if let Some(spec) = spec(object) {
                default_number(spec, "matchingPrecedence", 1000);
            }
        },
        status_keeps: StatusKeeps::All,
        validate,
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "FlowSchema", "flowschemas")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let precedence = spec.at("matchingPrecedence");
    match precedence.value.as_i64().unwrap_or(0) {
        n if n < 1 => precedence.invalid("must be a positive value", causes),
        n if n > 10_000 => precedence.invalid("must not be greater than 10000", causes),
        1 if object.at("metadata").at("name").text() != "exempt" => {
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1", causes);
        }
        _ => {}
    }
    if spec.at("distinguisherMethod").is_set() {
        spec.at("distinguisherMethod").at("type").must_be(&["ByNamespace", "ByUser"], causes);
    }
    let level = spec.at("priorityLevelConfiguration").at("name");
    if level.require("must reference a priority level by name", causes) {
        level.is(names::dns1123_subdomain, causes);
    }
    for rule in spec.at("rules").items() {
        rule.at("subjects").require("subjects must contain at least one value", causes);
        for subject in rule.at("subjects").items() {
            subject.at("kind").must_be(&["Group", "ServiceAccount", "User"], causes);
            let of = match subject.at("kind").text() {
                "Group" => "group",
                "ServiceAccount" => "serviceAccount",
                "User" => "user",
                _ => continue,
            };
            subject
                .at(of)
                .require(&format!("{of} is required when subject kind is '{}'", subject.at("kind").text()), causes);
        }
        let lists = ["resourceRules", "nonResourceRules"].map(|l| rule.at(l));
        if lists.iter().all(Field::is_empty) {
            causes.push(Cause::required(
                &rule.path,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            ));
        }
        for of in lists[0].items() {
            of.at("verbs").require("verbs must contain at least one value", causes);
            of.at("apiGroups").require("resource rules must supply at least one api group", causes);
            of.at("resources").require("resource rules must supply at least one resource", causes);
            if of.at("namespaces").is_empty() && of.at("clusterScope").value != true {
                let why = "resource rules that are not cluster scoped must supply at least one namespace";
                causes.push(Cause::required(of.at("namespaces").path, why));
            }
        }
        for of in lists[1].items() {
            of.at("verbs").require("verbs must contain at least one value", causes);
            of.at("nonResourceURLs").require("nonResourceURLs must contain at least one value", causes);
        }
    }
}

const COLUMNS: &[Column] =
    &[NAME, text("PriorityLevel"), number("MatchingPrecedence"), text("DistinguisherMethod"), AGE, text("MissingPL")];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let missing = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
    vec![
        name(o),
        o.str_at(&["spec", "priorityLevelConfiguration", "name"]).into(),
        json!(int(o, &["spec", "matchingPrecedence"])),
        or_none(o.str_at(&["spec", "distinguisherMethod", "type"])),
        age(o, now),
        missing.map_or("?", |c| c.str_at(&["status"])).into(),
    ]
}
