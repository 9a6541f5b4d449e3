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

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = &o["spec"]["parameters"];
    let parameters = match (of.str_at(&["kind"]), of.str_at(&["apiGroup"])) {
        ("", _) => or_none(""),
        (kind, "") => format!("{kind}/{}", of.str_at(&["name"])).into(),
        (kind, group) => format!("{kind}.{group}/{}", of.str_at(&["name"])).into(),
    };
    let is_default = o.at(&["metadata", "annotations", DEFAULT_CLASS]) == "true";
    let shown = if is_default { format!("{} (default)", o.name()).into() } else { name(o) };
    vec![shown, o.str_at(&["spec", "controller"]).into(), parameters, age(o, now)]
}
