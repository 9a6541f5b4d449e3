//! Lifecycle hooks: `postStart` and `preStop`.

use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::LifecycleHandler;

use super::{PortError, Target, http, run};
use crate::container_runtime::{ExecError, PodContainers};

/// What a lifecycle hook came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// It ran to its end.
    Done,
    /// It asked by HTTP where its spec says HTTPS, as the server answered so; where.
    FellBack(String),
}

/// Why a lifecycle hook failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Its command failed, or couldn't be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Its HTTP request came to nothing.
    #[error(transparent)]
    Http(#[from] http::GetError),
    /// It names a port that the container hasn't.
    #[error(transparent)]
    Port(#[from] PortError),
    /// It has no handler that this version knows.
    #[error("the hook says nothing that can be done")]
    NoHandler,
    /// It ran longer than it may.
    #[error("the hook took too long")]
    TimedOut,
}

/// Runs a lifecycle hook to its end, or for `limit`.
///
/// # Errors
/// When its command fails, its server doesn't answer, it names nothing to do, or it takes longer than `limit`.
pub async fn run_hook(
    containers: &dyn PodContainers,
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<Hook, HookError> {
    let work = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            run(containers, &target.id, command, limit).await?;
        } else if let Some(get) = &hook.http_get {
            return http::hook(target, get).await;
        } else if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(clock::seconds(sleep.seconds)).await;
        } else {
            return Err(HookError::NoHandler);
        }
        Ok(Hook::Done)
    };
    tokio::time::timeout(limit, work).await.unwrap_or(Err(HookError::TimedOut))
}
