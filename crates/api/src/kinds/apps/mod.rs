//! Kinds of `apps`.

pub(crate) mod controller_revision;
pub(crate) mod daemon_set;
pub(crate) mod deployment;
pub(crate) mod replica_set;
pub(crate) mod stateful_set;

const GROUP: &str = "apps";

table! {
    CONTROLLER_REVISIONS = controller_revision;
    DAEMON_SETS = daemon_set;
    DEPLOYMENTS = deployment;
    REPLICA_SETS = replica_set;
    STATEFUL_SETS = stateful_set;
}
