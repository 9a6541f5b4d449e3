//! The pod's status, written to the API.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::Worker;
use crate::pod::status;

/// How long the API may take to take a status in.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

impl Worker {
    /// Writes the pod's status if it changed.
    pub(super) async fn publish(&mut self) -> Result<(), ()> {
        if status::was_over(&self.pod, &self.saved) {
            return Ok(());
        }
        let mut status =
            status::compute(&self.pod, &self.saved, &self.context.config, &self.context.runtime.version().name);
        status::set_devices(&mut status, |container| self.context.devices.status(&self.uid, container));
        let Some(uid) = self.uid_in_api() else { return Ok(()) };
        let news = (uid, status);
        if self.published.as_ref() == Some(&news) {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.pod.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": news.0}, "status": news.1});
        let (name, how, patch) = (self.pod.name_any(), PatchParams::default(), Patch::Merge(patch));
        // Containers aren't kept waiting for an API that doesn't answer.
        let why = match tokio::time::timeout(PUBLISH_TIMEOUT, api.patch_status(&name, &how, &patch)).await {
            Ok(Ok(_)) => {
                self.published = Some(news);
                self.is_failure_logged = false;
                return Ok(());
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 && self.is_replaced(&api).await => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PUBLISH_TIMEOUT:?}"),
        };
        if !std::mem::replace(&mut self.is_failure_logged, true) {
            tracing::warn!(pod = self.key(), why, "failed to update a pod's status; retrying");
        }
        Err(())
    }
}
