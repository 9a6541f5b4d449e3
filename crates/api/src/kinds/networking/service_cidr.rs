//! `ServiceCIDR`: a range of addresses for Services.

use super::GROUP;
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy { status_keeps: StatusKeeps::LabelsAndAnnotationsToo, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "ServiceCIDR", "servicecidrs")
};
