//! Kinds of `v1`.

pub(crate) mod binding;
pub(crate) mod component_status;
pub(crate) mod config_map;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod limit_range;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod pod;
pub(crate) mod pod_template;
pub(crate) mod replication_controller;
pub(crate) mod resource_quota;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod service_account;

const GROUP: &str = "";

table! {
    BINDINGS = binding;
    COMPONENT_STATUSES = component_status;
    CONFIG_MAPS = config_map;
    ENDPOINTS = endpoints;
    EVENTS = event;
    LIMIT_RANGES = limit_range;
    NAMESPACES = namespace;
    NODES = node;
    PERSISTENT_VOLUME_CLAIMS = persistent_volume_claim;
    PERSISTENT_VOLUMES = persistent_volume;
    PODS = pod;
    POD_TEMPLATES = pod_template;
    REPLICATION_CONTROLLERS = replication_controller;
    RESOURCE_QUOTAS = resource_quota;
    SECRETS = secret;
    SERVICE_ACCOUNTS = service_account;
    SERVICES = service;
}
