//! `RoleBinding`: who has a role in a namespace.

use apimachinery::names;

use super::{BINDING_PRINTER, GROUP, check_binding, default_binding};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        made_by_updates: true,
        name: names::path_segment,
        defaults: default_binding,
        validate: |object, old, causes| check_binding(object, old, &["Role", "ClusterRole"], true, causes),
        printer: BINDING_PRINTER,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "RoleBinding", "rolebindings")
};
