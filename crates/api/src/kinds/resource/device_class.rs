//! `DeviceClass`: devices that fit the same claims.

use super::GROUP;
use crate::defaults::spec;
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    has_generation: true,
    strategy: Strategy {
        defaults: |object| {
            spec(object);
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "DeviceClass", "deviceclasses")
};
