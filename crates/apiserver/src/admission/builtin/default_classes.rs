//! DefaultStorageClass and DefaultIngressClass.

use std::cmp::Reverse;

use api::{Kind, kinds};
use apimachinery::ObjectExt as _;
use serde_json::Value;

use crate::ApiServer;
use crate::registry::Filter;

/// The newest object of a resource that one of these annotations marks as default.
fn marked_default(server: &ApiServer, kind: &'static Kind, annotations: &[&str]) -> Option<String> {
    let objects = server.cache.of(kind).list(&Filter::default()).0;
    let is_marked = |o: &Value| annotations.iter().any(|key| o.at(&["metadata", "annotations", *key]) == "true");
    let marked = objects.iter().map(|e| e.parse()).filter(is_marked);
    let newest = marked.max_by(|a, b| {
        let key = |o: &Value| (o.meta("creationTimestamp").to_string(), Reverse(o.name().to_string()));
        key(a).cmp(&key(b))
    })?;
    Some(newest.name().into())
}

/// DefaultStorageClass: a claim that names no class gets the default one.
pub fn set_storage_class(server: &ApiServer, claim: &mut Value) {
    if kinds::names_storage_class(claim) {
        return;
    }
    const MARKS: [&str; 2] =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = marked_default(server, kinds::STORAGE_CLASSES, &MARKS) {
        claim["spec"]["storageClassName"] = class.into();
    }
}

/// DefaultIngressClass: an Ingress that names no class gets the default one.
pub fn set_ingress_class(server: &ApiServer, ingress: &mut Value) {
    let by_annotation = !ingress.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_null();
    if !ingress["spec"]["ingressClassName"].is_null() || by_annotation {
        return;
    }
    let mark = "ingressclass.kubernetes.io/is-default-class";
    if let Some(class) = marked_default(server, kinds::INGRESS_CLASSES, &[mark]) {
        ingress["spec"]["ingressClassName"] = class.into();
    }
}
