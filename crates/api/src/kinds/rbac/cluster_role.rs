//! `ClusterRole`: rules about the whole cluster, or for use in namespaces.

use apimachinery::names;

use super::{GROUP, check_role};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        made_by_updates: true,
        name: names::path_segment,
        validate: |object, _, causes| check_role(object, false, causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ClusterRole", "clusterroles")
};
