//! `CustomResourceDefinition`: a kind that somebody adds.

use super::GROUP;
use crate::custom;
use crate::kinds::{API_EXTENSIONS, Kind, Strategy, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["crd", "crds"],
    categories: API_EXTENSIONS,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy { defaults: custom::default, validate: custom::check, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "CustomResourceDefinition", "customresourcedefinitions")
};
