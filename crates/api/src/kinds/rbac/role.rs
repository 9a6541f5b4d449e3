//! `Role`: rules about a namespace.

use apimachinery::names;

use super::{GROUP, check_role};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        made_by_updates: true,
        name: names::path_segment,
        validate: |object, _, causes| check_role(object, true, causes),
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Role", "roles")
};
