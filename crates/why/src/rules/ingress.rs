//! Ingresses that lead nowhere.

use std::collections::BTreeSet;

use serde_json::Value;

use super::admission::answers;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, nearest, pairs, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of Ingresses without a class, a Service, a port or a certificate.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for ingress in s.all(Kind::Ingress).filter(|ingress| !object::is_deleted(ingress)) {
        out.extend(class(s, ingress));
        let mut told = BTreeSet::new();
        for (place, backend) in backends(ingress) {
            if let Some(finding) = lead(s, ingress, &place, backend).filter(|f| told.insert(f.says.clone())) {
                out.push(finding);
            }
        }
        for tls in items(ingress, "/spec/tls") {
            out.extend(certificate(s, ingress, text(tls, "/secretName")));
        }
    }
}

fn class(s: &Snapshot, ingress: &Value) -> Option<Finding> {
    const OLD: &str = "kubernetes.io/ingress.class";
    if !s.knows(Kind::IngressClass, "") {
        return None;
    }
    let annotations = pairs(ingress, "/metadata/annotations");
    let wanted = text(ingress, "/spec/ingressClassName");
    let classes: Vec<&str> = s.all(Kind::IngressClass).map(name).collect();
    let object = ObjectRef::of(Kind::Ingress, ingress);
    let listed = if classes.is_empty() { "none".into() } else { classes.join(", ") };
    let says = if wanted.is_empty() {
        let default = s.all(Kind::IngressClass).any(|c| {
            pairs(c, "/metadata/annotations").get("ingressclass.kubernetes.io/is-default-class") == Some(&"true")
        });
        if default || annotations.contains_key(OLD) {
            return None;
        }
        "it names no class, and none is the default".to_string()
    } else if classes.contains(&wanted) {
        return None;
    } else {
        format!("its class {wanted:?} doesn't exist")
    };
    let near = nearest(wanted, classes.iter().copied())
        .map_or(String::new(), |near| format!("there is {near:?}: is that the one?"));
    let next = format!(
        "kubectl -n {} patch ingress {} -p '{{\"spec\":{{\"ingressClassName\":\"NAME\"}}}}'",
        namespace(ingress),
        name(ingress)
    );
    Some(
        Finding::new(&codes::INGRESS_CLASS, object, says)
            .detail(format!("ingress classes of this cluster: {listed}"))
            .detail(near)
            .follows("no controller serves it")
            .next(next),
    )
}

/// Where an Ingress leads: a place in words, and the backend.
fn backends(ingress: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    if let Some(backend) = ingress.pointer("/spec/defaultBackend") {
        all.push(("its default backend".to_string(), backend));
    }
    for rule in items(ingress, "/spec/rules") {
        for path in items(rule, "/http/paths") {
            if let Some(backend) = path.pointer("/backend") {
                all.push((format!("{}{}", text(rule, "/host"), text(path, "/path")), backend));
            }
        }
    }
    all
}

fn lead(s: &Snapshot, ingress: &Value, place: &str, backend: &Value) -> Option<Finding> {
    let (space, service) = (namespace(ingress), text(backend, "/service/name"));
    if service.is_empty() {
        return None;
    }
    let object = ObjectRef::of(Kind::Ingress, ingress);
    let edit = format!("kubectl -n {space} edit ingress {}", name(ingress));
    if s.lacks(Kind::Service, space, service) {
        let near = nearest(service, s.within(Kind::Service, space).map(name));
        let says = format!("{place} leads to Service {service:?}, which doesn't exist");
        return Some(
            Finding::new(&codes::INGRESS_SERVICE, object, says)
                .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
                .follows("requests are answered 503 (or 404)")
                .next(format!("kubectl -n {space} get services"))
                .next(edit),
        );
    }
    let found = s.get(Kind::Service, space, service)?;
    let ports = items(found, "/spec/ports");
    let (number, word) = (int(backend, "/service/port/number"), text(backend, "/service/port/name"));
    let fits = ports
        .iter()
        .any(|p| (number.is_some() && int(p, "/port") == number) || (!word.is_empty() && text(p, "/name") == word));
    if !fits {
        let wanted = number.map_or_else(|| format!("{word:?}"), |number| number.to_string());
        let listed: Vec<String> = ports
            .iter()
            .map(|p| format!("{} {}", text(p, "/name"), int(p, "/port").unwrap_or(0)).trim().to_string())
            .collect();
        let says = format!("{place} leads to port {wanted} of Service {service:?}, which it hasn't got");
        return Some(
            Finding::new(&codes::INGRESS_PORT, object, says)
                .detail(format!("its ports: {}", listed.join(", ")))
                .follows("requests are answered 503")
                .next(edit),
        );
    }
    if s.knows(Kind::EndpointSlice, space) && text(found, "/spec/type") != "ExternalName" && !answers(s, space, service)
    {
        let reference = ObjectRef::new(Kind::Service, space, service);
        let says = format!("{place} leads to Service {service:?}, where nobody answers");
        let next = format!("timonel why -n {space} service/{service}");
        let finding = Finding::new(&codes::INGRESS_BACKEND, object, says).because(reference);
        return Some(finding.follows("requests are answered 503").next(next));
    }
    None
}

fn certificate(s: &Snapshot, ingress: &Value, secret: &str) -> Option<Finding> {
    let space = namespace(ingress);
    if secret.is_empty() || !s.lacks(Kind::Secret, space, secret) {
        return None;
    }
    let says = format!("the Secret {secret:?} of its certificate doesn't exist");
    let next = format!("kubectl -n {space} create secret tls {secret} --cert=FILE --key=FILE");
    let finding = Finding::new(&codes::INGRESS_SECRET, ObjectRef::of(Kind::Ingress, ingress), says);
    Some(finding.follows("HTTPS is answered with another certificate, or not at all").next(next))
}
