//! Admission that a cluster's users bring (`admissionregistration.k8s.io/v1`): policies, which are expressions that the
//! server evaluates itself, and webhooks, which are programs that it asks.

mod conditions;
mod matching;
mod policies;
mod webhooks;

use std::sync::Arc;

use apimachinery::Status;
use serde_json::Value;

use super::AdmissionRequest;
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
    attempt: &AdmissionRequest<'_>,
    object: &mut Value,
) -> Result<Mutation, Status> {
    if attempt.is_exempt() {
        return Ok(Mutation::default());
    }
    let by_policies = policies::mutate(server, attempt, object, false)?;
    let mut mutation = webhooks::mutate(server, attempt, object).await?;
    if mutation.is_changed {
        policies::mutate(server, attempt, object, true)?;
    }
    mutation.is_changed |= by_policies;
    Ok(mutation)
}

/// Asks about something that isn't kept: a stream, an eviction, a binding. Whoever would change it is asked too, and what
/// he changes is of no effect.
pub async fn admit(
    server: &Arc<ApiServer>,
    attempt: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    let mut object = object.clone();
    let mut warnings = mutate(server, attempt, &mut object).await?.warnings;
    warnings.extend(validate(server, attempt, &object).await?);
    Ok(warnings)
}

/// Asks policies, then webhooks, whether an object may be as it is; returns what the client should know.
pub async fn validate(
    server: &Arc<ApiServer>,
    attempt: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<Vec<String>, Status> {
    if attempt.is_exempt() {
        return Ok(Vec::new());
    }
    let mut warnings = policies::validate(server, attempt, object)?;
    warnings.extend(webhooks::validate(server, attempt, object).await?);
    Ok(warnings)
}
