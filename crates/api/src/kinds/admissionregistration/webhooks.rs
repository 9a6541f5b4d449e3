//! Configurations of webhooks.

use apimachinery::{Cause, ObjectExt as _, names};
use expressions::admission::Known;
use serde_json::{Map, Value, json};

use super::{check_rule, conditions, selection};
use crate::columns::{AGE, NAME, Printer, age, name, number};
use crate::defaults::{child, default, items};
use crate::validate::field::{Causes, Field};

pub const PRINTER: Printer = Printer {
    columns: &[NAME, number("Webhooks"), AGE],
    row: |o, now| vec![name(o), json!(o.array_at(&["webhooks"]).len()), age(o, now)],
};

/// Fills in what each webhook leaves out, and what `more` of its kind.
pub fn default_webhooks(object: &mut Value, more: fn(&mut Map<String, Value>)) {
    let Some(object) = object.as_object_mut() else { return };
    for hook in items(object, "webhooks") {
        default(hook, "failurePolicy", || json!("Fail"));
        default(hook, "timeoutSeconds", || json!(10));
        more(hook);
        selection(hook, "rules");
        if let Some(service) = child(hook, "clientConfig").and_then(|c| child(c, "service")) {
            default(service, "port", || json!(443));
        }
    }
}

pub fn check(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    for (i, hook) in object.array_at(&["webhooks"]).iter().enumerate() {
        let hook = Field::new(hook, format!("webhooks[{i}]"));
        conditions(&hook, &Known::of(None).authorizer(), causes);
        check_webhook(&hook, causes);
    }
    Field::new(&object["webhooks"], "webhooks").unique("name", causes);
}

fn check_webhook(hook: &Field<'_>, causes: &mut Causes) {
    let name = hook.at("name");
    if name.require("", causes) {
        name.is(names::dns1123_subdomain, causes);
        if name.text().split('.').count() < 3 {
            name.invalid("should be a domain with at least three segments separated by dots", causes);
        }
    }
    let client = hook.at("clientConfig");
    let (url, service) = (client.at("url"), client.at("service"));
    if url.is_set() == service.is_set() {
        causes.push(Cause::required(&client.path, "exactly one of url or service is required"));
    }
    if url.is_set() && !url.text().starts_with("https://") {
        url.invalid("'https' is the only allowed URL scheme; desired format: https://host[/path]", causes);
    }
    if service.is_set() {
        service.at("name").require("service name is required", causes);
        service.at("namespace").require("service namespace is required", causes);
        if service.at("port").is_set() {
            service.at("port").port(causes);
        }
    }
    hook.at("sideEffects").must_be(&["None", "NoneOnDryRun"], causes);
    let versions = hook.at("admissionReviewVersions");
    if versions.require("must specify one of v1, v1beta1", causes)
        && !versions.items().any(|v| matches!(v.text(), "v1" | "v1beta1"))
    {
        versions.invalid("must include at least one of v1, v1beta1", causes);
    }
    let seconds = hook.at("timeoutSeconds");
    if seconds.value.as_i64().is_some_and(|n| !(1..=30).contains(&n)) {
        seconds.invalid("the timeout value must be between 1 and 30 seconds", causes);
    }
    hook.at("failurePolicy").one_of(&["Fail", "Ignore"], causes);
    hook.at("matchPolicy").one_of(&["Equivalent", "Exact"], causes);
    hook.at("reinvocationPolicy").one_of(&["IfNeeded", "Never"], causes);
    for selector in ["namespaceSelector", "objectSelector"] {
        hook.at(selector).selector(causes);
    }
    for rule in hook.at("rules").items() {
        check_rule(&rule, causes);
    }
}
