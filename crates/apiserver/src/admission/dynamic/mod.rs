//! Admission that a cluster's users bring (`admissionregistration.k8s.io/v1`): policies, which are expressions that the
//! server evaluates itself, and webhooks, which are programs that it asks.

mod conditions;
mod matching;
mod policies;
mod webhooks;

use std::sync::Arc;

use apimachinery::Status;
use serde_json::Value;

use super::AdmissionAttributes;
use crate::ApiServer;

pub use conditions::Expressions;

/// What policies and webhooks did to an object.
#[derive(Debug, Default)]
pub struct Mutation {
    /// Whether it is another one than before.
    pub is_changed: bool,
    /// What the client is to be warned of.
    pub warnings: Vec<String>,
}

/// Lets policies, then webhooks, change an object.
///
/// # Errors
/// 403 of a policy that fails; the Status of a webhook that refuses the object, 500 of one that can't be asked.
pub async fn mutate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &mut Value,
) -> Result<Mutation, Status> {
    if attributes.is_exempt() {
        return Ok(Mutation::default());
    }
    let by_policies = policies::mutate(server, attributes, object, false).await?;
    let mut mutation = webhooks::mutate(server, attributes, object).await?;
    if mutation.is_changed {
        policies::mutate(server, attributes, object, true).await?;
    }
    mutation.is_changed |= by_policies;
    Ok(mutation)
}

/// Asks about an object that isn't stored: options of a connection, an Eviction, a Binding. Mutating policies and webhooks are asked,
/// too; what they change is of no effect.
///
/// # Errors
/// As of [`mutate`] and [`validate`].
pub async fn admit(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    let mut object = object.clone();
    let mut warnings = mutate(server, attributes, &mut object).await?.warnings;
    warnings.extend(validate(server, attributes, &object).await?);
    Ok(warnings)
}

/// Asks policies, then webhooks, whether an object may be stored; returns warnings.
///
/// # Errors
/// The Status of the policy or webhook that refuses the object; 500 for a webhook that can't be asked and isn't ignored.
pub async fn validate(
    server: &Arc<ApiServer>,
    attributes: &AdmissionAttributes<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    if attributes.is_exempt() {
        return Ok(Vec::new());
    }
    let mut warnings = policies::validate(server, attributes, object).await?;
    warnings.extend(webhooks::validate(server, attributes, object).await?);
    Ok(warnings)
}
