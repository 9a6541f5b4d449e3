//! `Ingress`: HTTP from outside to Services.

use apimachinery::{Cause, ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, balancers, name, or_none, shortened, text};
use crate::defaults::set;
use crate::kinds::{Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["ing"],
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults: |object| set(object.as_object_mut(), "status", json!({"loadBalancer": {}})),
        validate,
        validate_status: Some(|object, _, causes| status::load_balancer(&status::of(object), causes)),
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Ingress", "ingresses")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    if spec.at("rules").is_empty() && !spec.at("defaultBackend").is_set() {
        spec.invalid("either `defaultBackend` or `rules` must be specified", causes);
    }
    if spec.at("defaultBackend").is_set() {
        backend(&spec.at("defaultBackend"), causes);
    }
    spec.at("ingressClassName").is_if_said(names::dns1123_subdomain, causes);
    for tls in spec.at("tls").items() {
        for name in tls.at("hosts").items() {
            host(&name, causes);
        }
    }
    for rule in spec.at("rules").items() {
        host(&rule.at("host"), causes);
        if rule.at("http").is_set() {
            rule.at("http").at("paths").require("", causes);
        }
        for path in rule.at("http").at("paths").items() {
            if path.at("pathType").require("pathType must be specified", causes) {
                path.at("pathType").one_of(&["Exact", "ImplementationSpecific", "Prefix"], causes);
            }
            check_path(&path, causes);
            backend(&path.at("backend"), causes);
        }
    }
}

fn host(field: &Field<'_>, causes: &mut Causes) {
    if field.is_empty() {
        return;
    }
    if field.text().parse::<std::net::IpAddr>().is_ok() {
        field.invalid("must be a DNS name, not an IP address", causes);
        return;
    }
    let name = field.text().strip_prefix("*.").unwrap_or(field.text());
    if let Err(why) = names::dns1123_subdomain(name) {
        field.invalid(&why, causes);
    }
}

fn backend(backend: &Field<'_>, causes: &mut Causes) {
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    match (service.is_set(), resource.is_set()) {
        (false, false) => causes.push(Cause::required(&backend.path, "must specify a service or a resource backend")),
        (true, true) => backend.invalid("cannot set both resource and service backends", causes),
        (true, false) => {
            if service.at("name").require("", causes) {
                service.at("name").is(names::dns1123_label, causes);
            }
            let (name, number) = (service.at("port").at("name"), service.at("port").at("number"));
            let has_number = number.value.as_i64().unwrap_or(0) != 0;
            match (name.is_empty(), has_number) {
                (true, false) => causes.push(Cause::required(service.path, "port name or number is required")),
                (false, true) => service.invalid("cannot set both port name & port number", causes),
                (false, false) => name.is(names::port_name, causes),
                (true, true) => number.port(causes),
            }
        }
        (false, true) => {
            resource.at("kind").require("", causes);
            resource.at("name").require("", causes);
        }
    }
}

fn check_path(path: &Field<'_>, causes: &mut Causes) {
    let text = path.at("path");
    let free = path.at("pathType").text() == "ImplementationSpecific";
    let may_lack = free && text.is_empty();
    if !may_lack && !text.text().starts_with('/') {
        text.invalid("must be an absolute path", causes);
    }
    if free {
        return;
    }
    for bad in ["//", "/./", "/../", "%2f", "%2F"] {
        if text.text().contains(bad) {
            text.invalid(&format!("must not contain '{bad}'"), causes);
        }
    }
    for bad in ["/..", "/."] {
        if text.text().ends_with(bad) {
            text.invalid(&format!("cannot end with '{bad}'"), causes);
        }
    }
}

const COLUMNS: &[Column] = &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let rules = o.array_at(&["spec", "rules"]).iter();
    let hosts: Vec<String> = rules.map(|r| r.str_at(&["host"])).filter(|h| !h.is_empty()).map(String::from).collect();
    let ports = if o.array_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(o),
        or_none(o.str_at(&["spec", "ingressClassName"])),
        shortened(&hosts, "*"),
        balancers(o).into(),
        ports.into(),
        age(o, now),
    ]
}
