//! Image pulls: policies, back-off, events.

mod keyring;
pub mod records;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::ExponentialBackoff;
use informer::Recorder;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use runtime::image::{Credentials, Progress};
use runtime::{Image, ImageError};
use tokio::time::Instant;

use crate::container_runtime::ImageService;
use crate::events::ContainerEvents as _;
use crate::state::WaitingReason;
use records::{PullRecords, PullSecret};

/// Why a container has no image yet, in the words of a container's waiting state.
#[derive(Debug, Clone)]
pub struct ImagePullError {
    /// The reason.
    pub reason: WaitingReason,
    /// The message of the waiting state.
    pub message: String,
    /// When to try again.
    pub again: Instant,
}

/// Back-off of pulls of an image.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(2), Duration::from_secs(300));

/// The most credentials that are tried for one image.
const MAX_CREDENTIALS: usize = 16;

/// How soon after a failed pull its back-off is reported.
const BACKOFF_REPORT_DELAY: Duration = Duration::from_secs(1);

/// When a pull that goes on is reported for the first time; each time later the wait is twice as long.
const PROGRESS_EVENT_PERIOD: Duration = Duration::from_secs(5);

/// Pulls that failed, by pod and image: one pod's failures keep no other from its image, as upstream has it.
#[derive(Default)]
pub struct PullBackoff {
    failed: Mutex<HashMap<(String, String), Failed>>,
}

#[derive(Debug, Clone)]
struct Failed {
    times: u32,
    /// When the next pull may be.
    next: Instant,
    message: String,
}

impl PullBackoff {
    /// The failure that is still to be waited for.
    fn waits(&self, pod: &str, image: &str, now: Instant) -> Option<Failed> {
        let failed = self.failed.lock();
        failed.get(&(pod.to_string(), image.to_string())).filter(|failed| failed.next > now).cloned()
    }

    /// Notes a failure and says when the next pull may be. Forgets those that are long past their back-off.
    fn failed(&self, pod: &str, image: &str, message: &str, now: Instant) -> Instant {
        let mut failed = self.failed.lock();
        failed.retain(|_, failed| now.saturating_duration_since(failed.next) < BACKOFF.max * 2);
        let key = (pod.to_string(), image.to_string());
        let times = failed.get(&key).map_or(0, |failed| failed.times).saturating_add(1);
        let next = now + BACKOFF.after(times);
        failed.insert(key, Failed { times, next, message: message.into() });
        next
    }

    fn succeeded(&self, pod: &str, image: &str) {
        self.failed.lock().remove(&(pod.to_string(), image.to_string()));
    }
}

/// The images that a pod asks for, for its containers and its volumes, by their full names.
pub fn image_names(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.filter_map(|container| container.image.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.as_deref());
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let names = containers.chain(ephemeral).chain(volumes);
    names.map(|name| runtime::image::normalize(name).unwrap_or_else(|_| name.into())).collect()
}

/// Gets images for pods, as their pull policies say.
pub struct ImageManager {
    client: Client,
    events: Recorder,
    images: Arc<dyn ImageService>,
    backoff: PullBackoff,
    records: PullRecords,
}

impl ImageManager {
    /// `records` say which pod may use which image.
    pub fn new(client: Client, events: Recorder, images: Arc<dyn ImageService>, records: PullRecords) -> Self {
        ImageManager { client, events, images, backoff: PullBackoff::default(), records }
    }

    /// The folders of an image's layers, lowest first, if the runtime shows them.
    pub fn layers(&self, image: &Image) -> Option<Vec<PathBuf>> {
        self.images.layers(image)
    }

    /// Returns once one of the images, for which a pod waits, has come without it, as from an archive: the name. Never, if none does.
    pub async fn wait_for_arrival(&self, pod: &Pod, awaited: &[Container]) -> String {
        let Some(mut arrivals) = self.images.arrivals().filter(|_| !awaited.is_empty()) else {
            return std::future::pending().await;
        };
        // An image that is here without a notification has come since it was asked for; but with the policy Always it may have been here before.
        let mut is_news = false;
        loop {
            for container in awaited {
                let name = container.image.as_deref().unwrap_or("");
                let counts = is_news || container.image_pull_policy.as_deref() != Some("Always");
                if counts
                    && let Some(image) = self.images.find(name).await
                    && !self.must_pull(pod, name, &image).await
                {
                    // Also a pull that is wanted in any case may be tried now.
                    self.backoff.succeeded(&pod.uid().unwrap_or_default(), name);
                    return name.into();
                }
            }
            if arrivals.changed().await.is_err() {
                return std::future::pending().await;
            }
            is_news = true;
        }
    }

    /// The image of a container: the local one or a pulled one, as the policy says.
    ///
    /// # Errors
    /// The name is none, the policy forbids a pull, the registry refuses one, or an earlier refusal's back-off isn't over: with the reason that the
    /// container waits for (`InvalidImageName`, `ErrImageNeverPull`, `ErrImagePull`, `ImagePullBackOff`).
    pub async fn ensure_image(&self, pod: &Pod, container: &Container) -> Result<Image, ImagePullError> {
        let name = container.image.as_deref().unwrap_or("");
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let soon = Instant::now() + BACKOFF.initial;
        if let Err(error) = runtime::image::normalize(name) {
            let message =
                format!("Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: {error}");
            self.events.container(pod, &container.name, "Warning", "InspectFailed", message.clone());
            let again = Instant::now() + BACKOFF.max;
            return Err(self.refused(pod, container, WaitingReason::InvalidImageName, message, again));
        }
        let mut what = "not present";
        if policy != "Always"
            && let Some(image) = self.images.find(name).await
        {
            if !self.must_pull(pod, name, &image).await {
                let message =
                    format!("Container image {name:?} already present on machine and can be accessed by the pod");
                self.events.container(pod, &container.name, "Normal", "Pulled", message);
                return Ok(image);
            }
            what = "present but can't be accessed by the pod";
        }
        if policy == "Never" {
            let message = format!("Container image {name:?} is {what} with pull policy of Never");
            self.events.container(pod, &container.name, "Warning", "ErrImageNeverPull", message.clone());
            return Err(self.refused(pod, container, WaitingReason::ErrImageNeverPull, message, soon));
        }
        let uid = pod.uid().unwrap_or_default();
        if let Some(Failed { next, message, .. }) = self.backoff.waits(&uid, name, Instant::now()) {
            let waits = format!("Back-off pulling image {name:?}");
            let message = format!("{waits}: {message}");
            self.events.container(pod, &container.name, "Normal", "BackOff", waits);
            return Err(self.refused(pod, container, WaitingReason::ImagePullBackOff, message, next));
        }
        self.events.container(pod, &container.name, "Normal", "Pulling", format!("Pulling image {name:?}"));
        let started = Instant::now();
        let error = match self.pull(pod, container, name).await {
            Ok(image) => {
                self.backoff.succeeded(&uid, name);
                let took = started.elapsed().as_millis();
                let size = image.size;
                let message = format!(
                    "Successfully pulled image {name:?} in {took}ms ({took}ms including waiting). Image size: {size} bytes."
                );
                self.events.container(pod, &container.name, "Normal", "Pulled", message);
                return Ok(image);
            }
            Err(error) => error,
        };
        // A tag that can't be renewed is no reason not to run what is present, when it came from an archive.
        match self.images.find(name).await.filter(|image| image.digests.is_empty()) {
            Some(image) => Ok(image),
            None => Err(self.pull_failed(pod, container, name, error.to_string())),
        }
    }

    /// Notes a failed pull, and records its events.
    fn pull_failed(&self, pod: &Pod, container: &Container, name: &str, message: String) -> ImagePullError {
        let next = self.backoff.failed(&pod.uid().unwrap_or_default(), name, &message, Instant::now());
        let failed = format!("Failed to pull image {name:?}: {message}");
        self.events.container(pod, &container.name, "Warning", "Failed", failed);
        // Looked at again soon, to report the back-off for as long as it lasts.
        let again = next.min(Instant::now() + BACKOFF_REPORT_DELAY);
        self.refused(pod, container, WaitingReason::ErrImagePull, message, again)
    }

    /// Records why a container has no image yet.
    fn refused(
        &self,
        pod: &Pod,
        container: &Container,
        reason: WaitingReason,
        message: String,
        again: Instant,
    ) -> ImagePullError {
        let why = format!("Error: {}", reason.as_str());
        self.events.container(pod, &container.name, "Warning", "Failed", why);
        ImagePullError { reason, message, again }
    }

    /// Pulls an image with the credentials that the pod has for it, one after the other until the registry accepts some; without any, anonymously.
    async fn pull(&self, pod: &Pod, container: &Container, name: &str) -> Result<Image, ImageError> {
        let known = self.pull_secrets(pod, name).await.into_iter().filter_map(usable).take(MAX_CREDENTIALS);
        let mut known: Vec<_> = known.map(|(credentials, secret)| (Some(credentials), Some(secret))).collect();
        if known.is_empty() {
            known.push((None, None));
        }
        let whole = runtime::image::normalize(name)?;
        let mut refused = None;
        for (credentials, secret) in known {
            let written = self.records.pulling(&whole).map_err(|e| ImageError::Store(e.to_string()))?;
            match self.pull_as(pod, container, name, credentials).await {
                Ok(image) => {
                    let here = self.images.list().await;
                    written.succeeded(&image.id, secret, |id| here.iter().any(|image| image.id == id));
                    return Ok(image);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| ImageError::Store("nobody asked for it".into())))
    }

    /// Pulls an image, and says how far that has come, less and less often.
    async fn pull_as(
        &self,
        pod: &Pod,
        container: &Container,
        name: &str,
        credentials: Option<Credentials>,
    ) -> Result<Image, ImageError> {
        let progress = Arc::<Progress>::default();
        let mut pulling = pin!(self.images.pull(name, credentials, &progress));
        let mut wait = PROGRESS_EVENT_PERIOD;
        loop {
            match tokio::time::timeout(wait, &mut pulling).await {
                Ok(pulled) => return pulled,
                Err(_) => wait *= 2,
            }
            if let Some((here, all)) = progress.now() {
                let (here, all) = (here as f64 / 1e6, all as f64 / 1e6);
                let message = format!("Pulling image {name:?}: {here:.1} of {all:.1} MB");
                self.events.container(pod, &container.name, "Normal", "Pulling", message);
            }
        }
    }

    /// Whether the registry must be asked if the pod may have an image that is here.
    async fn must_pull(&self, pod: &Pod, name: &str, image: &Image) -> bool {
        let Ok(whole) = runtime::image::normalize(name) else { return true };
        if !self.records.must_pull(&whole, &image.id, &[]) {
            return false;
        }
        let secrets: Vec<PullSecret> =
            self.pull_secrets(pod, name).await.into_iter().map(|(_, secret)| secret).collect();
        self.records.must_pull(&whole, &image.id, &secrets)
    }

    /// The pod's pull secrets for an image, each with its credentials if it can be read now; one may have several.
    async fn pull_secrets(&self, pod: &Pod, image: &str) -> Vec<(Option<Credentials>, PullSecret)> {
        let (Ok(whole), Some(namespace)) = (runtime::image::normalize(image), pod.namespace()) else {
            return Vec::new();
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let mut found = Vec::new();
        for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
            let secret = match secrets.get(&reference.name).await {
                Ok(secret) => secret,
                Err(kube::Error::Api(_)) => continue,
                Err(_) => {
                    found.push((None, PullSecret::unread(&namespace, &reference.name)));
                    continue;
                }
            };
            let uid = secret.uid().unwrap_or_default();
            for credentials in keyring::credentials(&secret, &whole) {
                let secret = PullSecret::new(&namespace, &reference.name, &uid, &credentials);
                found.push((Some(credentials), secret));
            }
        }
        found
    }
}

/// One whose credentials are known.
fn usable((credentials, secret): (Option<Credentials>, PullSecret)) -> Option<(Credentials, PullSecret)> {
    credentials.map(|credentials| (credentials, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_each_pods_own_and_are_forgotten() {
        let (pulls, begin) = (PullBackoff::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(pulls.failed("a", "image", "no", begin), begin + 2 * second);
        assert_eq!(pulls.failed("a", "image", "no", begin), begin + 4 * second);
        assert!(pulls.waits("a", "image", begin).is_some_and(|failed| failed.message == "no"));
        assert!(pulls.waits("b", "image", begin).is_none() && pulls.waits("a", "other", begin).is_none());
        assert!(pulls.waits("a", "image", begin + 4 * second).is_none());
        for _ in 0..100 {
            assert!(pulls.failed("c", "image", "no", begin) <= begin + BACKOFF.max);
        }
        pulls.succeeded("c", "image");
        assert!(pulls.waits("c", "image", begin).is_none());
        // Pods come and go with images that can't be pulled.
        for pod in 0..10_000u32 {
            pulls.failed(&pod.to_string(), "image", "no", begin + BACKOFF.max * pod);
        }
        assert!(pulls.failed.lock().len() < 10, "{}", pulls.failed.lock().len());
    }

    #[test]
    fn images_are_wanted_for_containers_of_all_kinds_and_for_volumes() {
        let pod = "{metadata: {name: p}, spec: {containers: [{name: a, image: one}], initContainers: [{name: b, image: 'two:2'}], \
                   ephemeralContainers: [{name: c, image: 'x.io/three'}], volumes: [{name: v, image: {reference: four}}, {name: w, emptyDir: {}}]}}";
        let pod: Pod = apimachinery::yaml::from_str(pod).unwrap();
        let names = [
            "docker.io/library/one:latest",
            "docker.io/library/two:2",
            "x.io/three:latest",
            "docker.io/library/four:latest",
        ];
        assert_eq!(image_names(&pod), names);
    }
}
