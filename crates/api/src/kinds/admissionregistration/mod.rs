//! Kinds of `admissionregistration.k8s.io`.

pub(crate) mod mutating_admission_policy;
pub(crate) mod mutating_admission_policy_binding;
pub(crate) mod mutating_webhook_configuration;
pub(crate) mod validating_admission_policy;
pub(crate) mod validating_admission_policy_binding;
pub(crate) mod validating_webhook_configuration;

const GROUP: &str = "admissionregistration.k8s.io";

table! {
    MUTATING_ADMISSION_POLICIES = mutating_admission_policy;
    MUTATING_ADMISSION_POLICY_BINDINGS = mutating_admission_policy_binding;
    MUTATING_WEBHOOK_CONFIGURATIONS = mutating_webhook_configuration;
    VALIDATING_WEBHOOK_CONFIGURATIONS = validating_webhook_configuration;
    VALIDATING_ADMISSION_POLICIES = validating_admission_policy;
    VALIDATING_ADMISSION_POLICY_BINDINGS = validating_admission_policy_binding;
}
