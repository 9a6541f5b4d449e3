//! Kinds of `flowcontrol.apiserver.k8s.io`.

pub(crate) mod flow_schema;
pub(crate) mod priority_level_configuration;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

table! {
    FLOW_SCHEMAS = flow_schema;
    PRIORITY_LEVEL_CONFIGURATIONS = priority_level_configuration;
}
