//! Kinds of `rbac.authorization.k8s.io`.

pub(crate) mod cluster_role;
pub(crate) mod cluster_role_binding;
pub(crate) mod role;
pub(crate) mod role_binding;

const GROUP: &str = "rbac.authorization.k8s.io";

table! {
    CLUSTER_ROLE_BINDINGS = cluster_role_binding;
    CLUSTER_ROLES = cluster_role;
    ROLE_BINDINGS = role_binding;
    ROLES = role;
}
