//! Kinds of `storagemigration.k8s.io`.

pub(crate) mod storage_version_migration;

const GROUP: &str = "storagemigration.k8s.io";

table! {
    STORAGE_VERSION_MIGRATIONS = storage_version_migration;
}
