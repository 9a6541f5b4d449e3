//! `ClusterRoleBinding`: who has a ClusterRole everywhere.

use apimachinery::names;

use super::{BINDING_PRINTER, GROUP, check_binding, default_binding};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        made_by_updates: true,
        name: names::path_segment,
        defaults: default_binding,
        validate: |object, old, causes| check_binding(object, old, &["ClusterRole"], false, causes),
        printer: BINDING_PRINTER,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings")
};
