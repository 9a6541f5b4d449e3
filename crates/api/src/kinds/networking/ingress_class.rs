//! `IngressClass`: which controller serves an Ingress.

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, or_none, text};
use crate::defaults::{child, default, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    has_generation: true,
    strategy: Strategy {
        defaults: |object| {
            if let Some(parameters) = spec(object).and_then(|spec| child(spec, "parameters")) {
                default(parameters, "scope", || json!("Cluster"));
            }
        },
        validate,
        printer: Printer { columns: &[NAME, text("Controller"), text("Parameters"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "IngressClass", "ingressclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let controller = object.at("spec").at("controller");
    controller.immutable(old, causes);
    if controller.text().len() > 250 {
        controller.invalid("must be no more than 250 characters", causes);
    }
    let prefixed = controller
        .text()
        .split_once('/')
        .is_some_and(|(domain, path)| names::dns1123_subdomain(domain).is_ok() && !path.is_empty());
    if controller.require("", causes) && !prefixed {
        controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")", causes);
    }
    let parameters = object.at("spec").at("parameters");
    if parameters.is_set() {
        parameters.at("kind").require("kind is required", causes);
        parameters.at("name").require("name is required", causes);
        parameters.at("scope").one_of(&["Cluster", "Namespace"], causes);
        if parameters.at("scope").text() == "Namespace" {
            parameters.at("namespace").require("`parameters.scope` is set to 'Namespace'", causes);
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match o.str_at(&["spec", "parameters", "kind"]) {
        "" => or_none(""),
        kind => format!("{kind}/{}", o.str_at(&["spec", "parameters", "name"])).into(),
    };
    vec![name(o), o.str_at(&["spec", "controller"]).into(), parameters, age(o, now)]
}
