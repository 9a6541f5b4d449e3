//! `ResourceClaimTemplate`: claims of devices that are made for each Pod.

use super::{GROUP, default_claim};
use crate::defaults::{child, spec};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        defaults: |object| {
            if let Some(claim) = spec(object).and_then(|spec| child(spec, "spec")) {
                default_claim(claim);
            }
        },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
};
