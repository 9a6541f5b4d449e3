//! Controllers of the cluster as a whole: namespaces, garbage, quotas, identities, kinds and policies.

pub mod account_tokens;
pub mod bootstrap_signer;
pub mod certificates;
pub mod cluster_roles;
pub mod custom_resources;
pub mod garbage;
pub mod legacy_tokens;
pub mod namespace;
pub mod policies;
pub mod resource_quota;
pub mod service_account;
pub mod storage_migration;
pub mod token_cleaner;
