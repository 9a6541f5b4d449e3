//! `ValidatingWebhookConfiguration`: who is asked about objects on their way in.

use super::GROUP;
use super::webhooks::{PRINTER, check, default_webhooks};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        updates_name_version: true,
        printer: PRINTER,
        defaults: |object| default_webhooks(object, |_| {}),
        validate: check,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
};
