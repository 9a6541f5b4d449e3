//! `MutatingWebhookConfiguration`: who is asked to change objects on their way in.

use serde_json::json;

use super::GROUP;
use super::webhooks::{PRINTER, check, default_webhooks};
use crate::defaults::default;
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        updates_name_version: true,
        printer: PRINTER,
        defaults: |object| default_webhooks(object, |hook| default(hook, "reinvocationPolicy", || json!("Never"))),
        validate: check,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
};
