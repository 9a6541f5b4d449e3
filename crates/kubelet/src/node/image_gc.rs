//! Image garbage collection: images that no container uses, and that can be pulled again, are removed when their disk fills up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Observation;
use crate::container_runtime::ImageService;
use crate::pod::manager::PodManager;

/// Images that were in use less than this ago stay (upstream's `imageMinimumGCAge`).
const MIN_IMAGE_AGE: Duration = Duration::from_secs(120);
/// Images are removed when less than this share of their disk is available.
const LOW_THRESHOLD: f64 = 0.10;

/// Removes unused images.
pub struct ImageCollector {
    images: Arc<dyn ImageService>,
    /// When each image was in use last, by id.
    last_used: HashMap<String, Instant>,
}

impl ImageCollector {
    /// A collector that knows of no use yet: images stay for [`MIN_IMAGE_AGE`] from now on.
    pub fn new(images: Arc<dyn ImageService>) -> Self {
        ImageCollector { images, last_used: HashMap::new() }
    }

    /// Whether the disk is so full that images have to go.
    pub fn is_due(disk: Option<&Observation>) -> bool {
        disk.is_some_and(|disk| (disk.available as f64) < disk.capacity as f64 * LOW_THRESHOLD)
    }

    /// Removes the images that no pod uses; whether there were any.
    pub async fn collect(&mut self, pods: &PodManager) -> bool {
        let in_use: Vec<String> = pods.images_in_use();
        let mut removed = false;
        for image in self.images.list().await {
            let mut names = image.names.iter().chain(&image.digests).chain([&image.id]);
            let is_used = names.any(|name| in_use.contains(name));
            let last = self.last_used.entry(image.id.clone()).or_insert_with(Instant::now);
            if is_used {
                *last = Instant::now();
            }
            if is_used || image.digests.is_empty() || last.elapsed() < MIN_IMAGE_AGE {
                continue;
            }
            match self.images.remove(&image.id).await {
                Ok(true) => {
                    let name = image.names.first().unwrap_or(&image.id);
                    tracing::info!(image = name, "image garbage collection removed an unused image");
                    removed = true;
                }
                Err(error) => {
                    tracing::warn!(%error, image = image.id, "image garbage collection failed to remove an image");
                }
                Ok(false) => {}
            }
        }
        removed
    }
}
