//! Kinds of `policy`.

pub(crate) mod pod_disruption_budget;

const GROUP: &str = "policy";

table! {
    POD_DISRUPTION_BUDGETS = pod_disruption_budget;
}
