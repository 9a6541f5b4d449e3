//! Admission that a cluster's users bring (`admissionregistration.k8s.io/v1`): policies, which are expressions that the
//! server evaluates itself, and webhooks, which are programs that it asks.

mod conditions;
mod matching;
mod policies;
mod webhooks;

use std::sync::Arc;

use api::{Kind, Subresource};
use apimachinery::Status;
use serde_json::Value;

use crate::ApiServer;
use crate::auth::User;

pub use conditions::Expressions;
pub use webhooks::post;

/// What is about to happen.
pub struct Attempt<'a> {
    pub user: &'a User,
    pub kind: &'a Kind,
    pub subresource: Option<Subresource>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'static str,
    pub name: &'a str,
    pub namespace: &'a str,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
}

impl Attempt<'_> {
    /// The subresource as rules name it; empty for the object itself.
    fn subresource_name(&self) -> &'static str {
        self.subresource.map_or("", Subresource::name)
    }

    /// Those who decide about admission must not be decided about by it, else nobody could mend them.
    fn is_exempt(&self) -> bool {
        self.kind.group == "admissionregistration.k8s.io"
    }
}

/// Lets policies, then webhooks, change an object; returns what the client should know.
pub async fn mutate(server: &Arc<ApiServer>, attempt: &Attempt<'_>, object: &mut Value) -> Result<Vec<String>, Status> {
    if attempt.is_exempt() {
        return Ok(Vec::new());
    }
    policies::mutate(server, attempt, object, false)?;
    let before = object.clone();
    let warnings = webhooks::mutate(server, attempt, object).await?;
    if *object != before {
        policies::mutate(server, attempt, object, true)?;
    }
    Ok(warnings)
}

/// Asks about something that isn't kept: a stream, an eviction, a binding. Whoever would change it is asked too, and what
/// he changes is of no effect.
pub async fn admit(server: &Arc<ApiServer>, attempt: &Attempt<'_>, object: &Value) -> Result<Vec<String>, Status> {
    let mut object = object.clone();
    let mut warnings = mutate(server, attempt, &mut object).await?;
    warnings.extend(validate(server, attempt, &object).await?);
    Ok(warnings)
}

/// Asks policies, then webhooks, whether an object may be as it is; returns what the client should know.
pub async fn validate(server: &Arc<ApiServer>, attempt: &Attempt<'_>, object: &Value) -> Result<Vec<String>, Status> {
    if attempt.is_exempt() {
        return Ok(Vec::new());
    }
    let mut warnings = policies::validate(server, attempt, object)?;
    warnings.extend(webhooks::validate(server, attempt, object).await?);
    Ok(warnings)
}
