//! When an image is pulled, and how failures are told.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use runtime::image::{Credentials, Progress};
use runtime::{Image, ImageError};
use tokio::time::Instant;

use crate::Agent;

/// Why a container has no image yet, in the words of a container's waiting state.
#[derive(Debug, Clone)]
pub struct NoImage {
    pub reason: &'static str,
    pub message: String,
    /// When to try again.
    pub again: Instant,
}

/// First and longest wait between pulls of an image that can't be pulled.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// When a pull that goes on is told of for the first time; each time later the wait is twice as long.
const TELL: Duration = Duration::from_secs(5);

/// Pulls that failed: how often, when the next may be, and the message.
#[derive(Default)]
pub struct Pulls {
    failed: Mutex<HashMap<String, (u32, Instant, String)>>,
}

impl Agent {
    /// The image of a container: the local one or a pulled one, as the policy says.
    pub async fn image(&self, pod: &Pod, container: &Container) -> Result<Image, NoImage> {
        let name = container.image.as_deref().unwrap_or("");
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let soon = Instant::now() + BACKOFF.0;
        if let Err(error) = runtime::image::normalize(name) {
            return Err(NoImage {
                reason: "InvalidImageName",
                message: error.to_string(),
                again: Instant::now() + BACKOFF.1,
            });
        }
        let local = self.images.find(name).await;
        if policy != "Always"
            && let Some(image) = local
        {
            let message = format!("Container image {name:?} already present on machine");
            self.tell(pod, &container.name, "Normal", "Pulled", message);
            return Ok(image);
        }
        if policy == "Never" {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            return Err(NoImage { reason: "ErrImageNeverPull", message, again: soon });
        }
        if let Some((_, next, message)) = self.pulls.failed.lock().get(name)
            && *next > Instant::now()
        {
            let message = format!("Back-off pulling image {name:?}: {message}");
            self.tell(pod, &container.name, "Normal", "BackOff", format!("Back-off pulling image {name:?}"));
            return Err(NoImage { reason: "ImagePullBackOff", message, again: *next });
        }
        self.tell(pod, &container.name, "Normal", "Pulling", format!("Pulling image {name:?}"));
        let started = Instant::now();
        match self.pull(pod, container, name).await {
            Ok(image) => {
                self.pulls.failed.lock().remove(name);
                let took = started.elapsed().as_millis();
                self.tell(
                    pod,
                    &container.name,
                    "Normal",
                    "Pulled",
                    format!("Successfully pulled image {name:?} in {took}ms. Image size: {} bytes.", image.size),
                );
                Ok(image)
            }
            // A tag that can't be renewed is no reason not to run what is here, when it came from an archive.
            Err(error) => match self.images.find(name).await.filter(|i| i.digests.is_empty()) {
                Some(image) => Ok(image),
                None => {
                    let message = error.to_string();
                    let next = {
                        let mut failed = self.pulls.failed.lock();
                        let count = failed.get(name).map_or(0, |f| f.0) + 1;
                        let wait = (BACKOFF.0 * 2u32.pow(count.min(8) - 1)).min(BACKOFF.1);
                        failed.insert(name.into(), (count, Instant::now() + wait, message.clone()));
                        Instant::now() + wait
                    };
                    self.tell(
                        pod,
                        &container.name,
                        "Warning",
                        "Failed",
                        format!("Failed to pull image {name:?}: {message}"),
                    );
                    self.tell(pod, &container.name, "Warning", "Failed", "Error: ErrImagePull");
                    // Looked at again soon, to tell of the back-off for as long as it lasts.
                    Err(NoImage {
                        reason: "ErrImagePull",
                        message,
                        again: next.min(Instant::now() + Duration::from_secs(1)),
                    })
                }
            },
        }
    }

    /// Pulls an image, and says how far that has come, less and less often.
    async fn pull(&self, pod: &Pod, container: &Container, name: &str) -> Result<Image, ImageError> {
        let progress = Arc::<Progress>::default();
        let mut pulling = pin!(self.images.pull(name, self.pull_credentials(pod, name).await, &progress));
        let mut wait = TELL;
        loop {
            match tokio::time::timeout(wait, &mut pulling).await {
                Ok(outcome) => return outcome,
                Err(_) => wait *= 2,
            }
            if let Some((here, all)) = progress.now() {
                let (here, all) = (here as f64 / 1e6, all as f64 / 1e6);
                let message = format!("Pulling image {name:?}: {here:.1} of {all:.1} MB");
                self.tell(pod, &container.name, "Normal", "Pulling", message);
            }
        }
    }

    /// Credentials from the pod's pull secrets for the image's registry.
    async fn pull_credentials(&self, pod: &Pod, image: &str) -> Option<Credentials> {
        let registry = runtime::image::normalize(image).ok()?.split('/').next()?.to_string();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &pod.namespace()?);
        for reference in pod.spec.as_ref()?.image_pull_secrets.as_deref().unwrap_or_default() {
            let Ok(secret) = secrets.get(&reference.name).await else { continue };
            let Some(bytes) = secret.data.and_then(|mut d| d.remove(".dockerconfigjson")) else { continue };
            if let Some(found) = from_docker_config(&bytes.0, &registry) {
                return Some(found);
            }
        }
        None
    }
}

/// Reads `~/.docker/config.json`'s format.
fn from_docker_config(bytes: &[u8], registry: &str) -> Option<Credentials> {
    use base64::Engine as _;
    let config: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let (_, entry) = config["auths"].as_object()?.iter().find(|(host, _)| {
        let host = host.trim_start_matches("https://").trim_start_matches("http://");
        host.split('/').next() == Some(registry) || (registry == "docker.io" && host.starts_with("index.docker.io"))
    })?;
    if let (Some(user), Some(password)) = (entry["username"].as_str(), entry["password"].as_str()) {
        return Some(Credentials::Basic(user.into(), password.into()));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry["auth"].as_str()?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Basic(user.into(), password.into()))
}
