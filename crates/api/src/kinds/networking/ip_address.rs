//! `IPAddress`: an address that a Service has.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind {
    short_names: &["ip"],
    selectable: &["spec.parentRef.name"],
    ..Kind::cluster(GROUP, "v1", "IPAddress", "ipaddresses")
};
