//! Image garbage collection: when their disk fills up, images are removed that no container uses and that can be pulled again, those first that were
//! used longest ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Observation;
use crate::container_runtime::ImageService;
use crate::pod::manager::PodManager;

/// Images that were in use less than this ago stay (upstream's `imageMinimumGCAge`).
const MIN_IMAGE_AGE: Duration = Duration::from_secs(120);
/// Images are removed when more than this share of their disk is used, until no more than the other is (upstream's `imageGCHighThresholdPercent` and
/// `imageGCLowThresholdPercent`).
const HIGH_THRESHOLD_PERCENT: u64 = 85;
const LOW_THRESHOLD_PERCENT: u64 = 80;

/// How much of a disk images have to free; nothing while it isn't too full.
pub fn bytes_to_free(disk: Option<&Observation>) -> u64 {
    let Some(disk) = disk else { return 0 };
    let share = |percent: u64| (u128::from(disk.capacity) * u128::from(percent) / 100) as u64;
    let used = disk.capacity.saturating_sub(disk.available);
    if used > share(HIGH_THRESHOLD_PERCENT) { used.saturating_sub(share(LOW_THRESHOLD_PERCENT)) } else { 0 }
}

/// An image that may be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unused {
    last_used: Instant,
    id: String,
    name: String,
    size: u64,
}

/// The images to remove, so that so much is freed.
fn to_remove(mut unused: Vec<Unused>, wanted: u64) -> Vec<Unused> {
    unused.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    let mut freed = 0_u64;
    let is_needed = |image: &Unused| {
        let is_needed = freed < wanted;
        freed = freed.saturating_add(image.size);
        is_needed
    };
    unused.into_iter().take_while(is_needed).collect()
}

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

    /// Removes images that no pod uses, until so much is freed; whether there were any.
    pub async fn collect(&mut self, pods: &PodManager, wanted: u64) -> bool {
        let in_use: Vec<String> = pods.images_in_use();
        let mut unused = Vec::new();
        for image in self.images.list().await {
            let is_used = image.names.iter().chain(&image.digests).chain([&image.id]).any(|name| in_use.contains(name));
            let last = self.last_used.entry(image.id.clone()).or_insert_with(Instant::now);
            if is_used {
                *last = Instant::now();
            }
            if !(is_used || image.digests.is_empty() || last.elapsed() < MIN_IMAGE_AGE) {
                let name = image.names.first().unwrap_or(&image.id).clone();
                unused.push(Unused { last_used: *last, id: image.id, name, size: image.size });
            }
        }
        let mut removed = false;
        for Unused { id, name, .. } in to_remove(unused, wanted) {
            match self.images.remove(&id).await {
                Ok(true) => {
                    tracing::info!(image = name, "image garbage collection removed an unused image");
                    removed = true;
                }
                Err(error) => {
                    tracing::warn!(%error, image = id, "image garbage collection failed to remove an image");
                }
                Ok(false) => {}
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_freed_than_a_disk_that_is_too_full_needs() {
        let disk = |available| Observation { available, capacity: 1000 };
        assert_eq!([1000, 150, 149, 0].map(|left| bytes_to_free(Some(&disk(left)))), [0, 0, 51, 200]);
        assert_eq!(bytes_to_free(None), 0);
        assert_eq!(bytes_to_free(Some(&Observation { available: 0, capacity: u64::MAX })), u64::MAX / 5);
    }

    #[test]
    fn images_that_were_used_longest_ago_go_first() {
        let now = Instant::now();
        let image = |id: &str, ago: u64, size: u64| Unused {
            last_used: now - Duration::from_secs(ago),
            id: id.into(),
            name: id.into(),
            size,
        };
        let all = vec![image("new", 1, 50), image("old", 9, 30), image("older", 10, 30)];
        let removed = |wanted| to_remove(all.clone(), wanted).into_iter().map(|image| image.id).collect::<Vec<_>>();
        assert_eq!(removed(10), ["older"]);
        assert_eq!(removed(31), ["older", "old"]);
        assert_eq!(removed(u64::MAX), ["older", "old", "new"]);
    }
}
