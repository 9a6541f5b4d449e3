//! Logs that the runtime writes: put aside when they are large, as it doesn't do that itself.

use std::sync::Arc;
use std::time::Duration;

use ::cri::v1;

use super::{CONTAINER_NAME, Cri, POD_UID};
use crate::config::Config;
use crate::state::PodDirs;

/// How often their sizes are looked at, as upstream does.
const ROTATION_PERIOD: Duration = Duration::from_secs(10);

/// Looks after the logs of all running containers until the process ends.
pub async fn rotate(cri: Cri, config: Arc<Config>) {
    loop {
        tokio::time::sleep(ROTATION_PERIOD).await;
        let filter = v1::ContainerFilter { label_selector: cri.owned(), ..v1::ContainerFilter::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let Ok(answer) = cri.client().list_containers(request).await else { continue };
        let containers = answer.into_inner().containers;
        for container in containers.iter().filter(|c| c.state() == v1::ContainerState::ContainerRunning) {
            let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
            let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt as i32);
            let log = PodDirs::of(&config, &label(POD_UID)).log(&label(CONTAINER_NAME), attempt);
            if std::fs::metadata(&log).is_ok_and(|meta| meta.len() >= runtime::MAX_LOG_BYTES) {
                let request = v1::ReopenContainerLogRequest { container_id: container.id.clone() };
                let aside = runtime::rotate_log(&log).map_err(|e| e.to_string());
                let reopened = cri.client().reopen_container_log(request).await.map_err(|s| s.message().to_string());
                if let Err(error) = aside.and(reopened.map(|_| ())) {
                    tracing::warn!(log = %log.display(), error, "failed to rotate a container log");
                }
            }
        }
    }
}
