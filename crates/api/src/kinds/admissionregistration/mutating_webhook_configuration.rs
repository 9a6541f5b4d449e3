//! `MutatingWebhookConfiguration`.

use super::GROUP;
use crate::kinds::{API_EXTENSIONS, Kind};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    ..Kind::cluster(GROUP, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
};
