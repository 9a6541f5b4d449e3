//! Images: an index of what is here, layers unpacked once and shared by all containers.
//!
//! On disk, below one folder: `layers/DIFF-ID/` (unpacked), `index.json` (all images), `incoming/` (what is being
//! unpacked; emptied at start), `fetched/` (what has been fetched of layers, so that it needn't be again),
//! `cleared/` (what is being removed because no pull has gone on with it for a day). A layer folder exists
//! only when it is whole. Its files may be in memory alone for some seconds, though; an image says so in the index until they
//! are on the disk, and after a power cut it is forgotten.

mod archive;
mod built_in;
mod layers;
mod pull;
mod registries;
mod registry;

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci_spec::distribution::Reference;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::boot_id;
use crate::keyed_mutex::KeyedMutex;

pub use built_in::{BUILT_IN_REGISTRY, BuiltIn};
pub use layers::unpack_layer;
pub use pull::Progress;
pub use registries::{Credentials, Registries};
pub use registry::{Challenge, Descriptor, Found, Manifest, read_challenge, read_manifest};

/// Why an image can't be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// Its name isn't one: the name, and what is wrong with it.
    #[error("couldn't parse image name {0:?}: {1}")]
    Name(String, String),
    /// In the registry's words.
    #[error("failed to pull image {image:?}: {reason}")]
    Pull {
        /// Its full name.
        image: String,
        /// Why.
        reason: String,
    },
    /// A file isn't an image archive.
    #[error("{path} is no image archive: {reason}")]
    Archive {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer has more than it may, or isn't what its digest says.
    #[error("the layer {digest} is refused: {reason}")]
    Layer {
        /// Its digest.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of images can't be read or written.
    #[error("the image store failed: {0}")]
    Store(String),
}

impl From<std::io::Error> for ImageError {
    fn from(error: std::io::Error) -> Self {
        ImageError::Store(error.to_string())
    }
}

/// What of an image's configuration a container needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// `ENTRYPOINT`
    pub entrypoint: Vec<String>,
    /// `CMD`
    pub cmd: Vec<String>,
    /// `KEY=value`
    pub env: Vec<String>,
    /// `WORKDIR`
    pub working_dir: String,
    /// `USER`
    pub user: String,
    /// `STOPSIGNAL`
    pub stop_signal: String,
}

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration.
    pub id: String,
    /// Full names with tags.
    pub names: Vec<String>,
    /// Full names with the manifest's digest.
    pub digests: Vec<String>,
    /// Diff ids, lowest first.
    pub layers: Vec<String>,
    /// Of its layers as they were pulled, in bytes.
    pub size: u64,
    /// What its configuration says of containers.
    pub defaults: Defaults,
    /// While its files may not be on the disk yet: the boot id of the machine that has them in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<String>,
}

impl Image {
    /// The image by digest, as a container's status tells it: under the repository of the name that was `asked` for if
    /// it came from there, and by its configuration if it came from no registry.
    pub fn reference(&self, asked: &str) -> String {
        let repository = parse(asked).map(|r| format!("{}/{}@", r.registry(), r.repository())).unwrap_or_default();
        let own = self.digests.iter().find(|d| d.starts_with(&repository));
        own.or(self.digests.first()).unwrap_or(&self.id).clone()
    }
}

/// The images of this machine: a folder with their layers, and an index.
pub struct ImageStore {
    folder: PathBuf,
    registries: Registries,
    images: Mutex<BTreeMap<String, Image>>,
    /// Layers that are being fetched (by their digest) and unpacked (by their diff id): of several that want one, one does it.
    keyed_mutex: KeyedMutex,
    /// Layers that are unpacked at a time: each takes memory for its decompression.
    unpacking: Arc<tokio::sync::Semaphore>,
    arrived: tokio::sync::watch::Sender<()>,
}

/// How many layers are unpacked at a time.
const MAX_PARALLEL_LAYERS: usize = 4;

/// The full form of a name: `nginx` → `docker.io/library/nginx:latest`.
///
/// # Errors
/// When the name is malformed.
pub fn normalize(name: &str) -> Result<String, ImageError> {
    parse(name).map(|r| r.whole())
}

fn parse(name: &str) -> Result<Reference, ImageError> {
    let refuse = |why: String| ImageError::Name(name.into(), why);
    let reference = name.parse::<Reference>().map_err(|e| refuse(e.to_string()))?;
    // The library takes `A/b` apart as `docker.io` and `A/b`, which it doesn't take for a name any more. Names are kept in full, so they must
    // lead back to themselves.
    if reference.whole().parse::<Reference>().ok().as_ref() != Some(&reference) {
        return Err(refuse("repository name must be lowercase".into()));
    }
    Ok(reference)
}

/// The folder of a layer in that of all images.
fn layer_in(folder: &Path, diff_id: &str) -> PathBuf {
    folder.join("layers").join(diff_id.replace(':', "-"))
}

/// How long the layers of a pull that came to no end wait for it to be tried again.
const PARTIAL_PULL_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Puts aside, in a folder for removal, what interrupted pulls have left and no later one has resumed. Only for when no pull is under way.
fn put_aside(folder: &Path, images: &BTreeMap<String, Image>, now: SystemTime) -> PathBuf {
    let cleared = folder.join("cleared");
    let _ = std::fs::create_dir_all(&cleared);
    let used: HashSet<PathBuf> = images.values().flat_map(|i| &i.layers).map(|layer| layer_in(folder, layer)).collect();
    let entries = ["layers", "fetched"].map(|part| std::fs::read_dir(folder.join(part)));
    for entry in entries.into_iter().flatten().flatten().flatten() {
        // When it came here. Not when it was modified: for a layer's folder that is what the image says.
        let came = entry.metadata().map_or(0, |meta| u64::try_from(meta.ctime()).unwrap_or(0));
        let came = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(came));
        let age = came.and_then(|came| now.duration_since(came).ok());
        if !used.contains(&entry.path()) && age.is_some_and(|age| age > PARTIAL_PULL_TTL) {
            #[expect(clippy::disallowed_methods, reason = "it is on its way out")]
            let _ = std::fs::rename(entry.path(), cleared.join(entry.file_name()));
        }
    }
    cleared
}

impl ImageStore {
    /// # Errors
    /// When the folder can't be made or its index read.
    pub fn open(folder: &Path, registries: Registries) -> Result<Arc<Self>, ImageError> {
        let _ = crate::remove_tree(&folder.join("incoming"));
        for part in ["incoming", "layers", "fetched"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let mut images: BTreeMap<String, Image> =
            match bounded::bytes(folder.join("index.json"), bounded::MAX_OWN_FILE_BYTES) {
                Ok(text) => serde_json::from_slice(&text).map_err(|e| ImageError::Store(format!("index.json: {e}")))?,
                Err(_) => BTreeMap::new(),
            };
        let boot = boot_id();
        let lost = |image: &Image| image.unsettled.as_ref().is_some_and(|of| *of != boot);
        for image in images.values().filter(|image| lost(image)) {
            tracing::warn!(
                image = image.names.join(", "),
                "removed an image whose layers weren't on the disk when the machine stopped"
            );
            for layer in &image.layers {
                let _ = crate::remove_tree(&layer_in(folder, layer));
            }
        }
        // Others that had a layer in common with them have lost it, too.
        images.retain(|_, image| image.layers.iter().all(|l| layer_in(folder, l).exists()));
        let cleared = put_aside(folder, &images, SystemTime::now());
        if let Err(error) = tasks::thread("image-leftovers", move || crate::remove_tree(&cleared)) {
            tracing::warn!(%error, "what images have left is removed at the next start");
        }
        Ok(Arc::new(ImageStore {
            folder: folder.into(),
            registries,
            images: Mutex::new(images),
            keyed_mutex: KeyedMutex::default(),
            unpacking: Arc::new(tokio::sync::Semaphore::new(MAX_PARALLEL_LAYERS)),
            arrived: tokio::sync::watch::Sender::new(()),
        }))
    }

    /// The image that `name` (tag, digest or id) stands for.
    pub fn find(&self, name: &str) -> Option<Image> {
        let images = self.images.lock();
        if let Some(image) = images.get(name) {
            return Some(image.clone());
        }
        let full = normalize(name).ok()?;
        images.values().find(|i| i.names.contains(&full) || i.digests.contains(&full)).cloned()
    }

    /// Changes whenever an image has come or got another name.
    pub fn arrivals(&self) -> tokio::sync::watch::Receiver<()> {
        self.arrived.subscribe()
    }

    /// Where images are on the disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        self.images.lock().values().cloned().collect()
    }

    /// The folder of a layer.
    pub fn layer_path(&self, diff_id: &str) -> PathBuf {
        layer_in(&self.folder, diff_id)
    }

    /// The folders of an image's layers, lowest first.
    pub fn layer_paths(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().map(|l| self.layer_path(l)).collect()
    }

    /// Adds an image whose layers are unpacked, and sees to it that they come to the disk.
    fn add(self: &Arc<Self>, image: Image) -> Result<Image, ImageError> {
        // An archive is loaded at each start: what was settled then is so still.
        let settled = self.images.lock().get(&image.id).is_some_and(|present| present.unsettled.is_none());
        if settled {
            return self.put(image);
        }
        let image = self.put(Image { unsettled: Some(boot_id()), ..image })?;
        let (store, id) = (self.clone(), image.id.clone());
        // Nobody waits for it: the kernel writes what everybody has written, and that may be much.
        let settle = move || {
            let Ok(folder) = std::fs::File::open(&store.folder) else { return };
            if nix::unistd::syncfs(folder).is_err() {
                return;
            }
            let mut images = store.images.lock();
            if let Some(image) = images.get_mut(&id) {
                image.unsettled = None;
            }
            if let Err(error) = store.save(&images) {
                tracing::warn!(%error, "failed to write the image index");
            }
        };
        if let Err(error) = tasks::thread("image-sync", settle) {
            tracing::warn!(%error, "an image is looked at again at the next start");
        }
        Ok(image)
    }

    /// Writes down an image; its names are taken from whatever had them.
    fn put(&self, mut image: Image) -> Result<Image, ImageError> {
        let mut images = self.images.lock();
        for other in images.values_mut() {
            other.names.retain(|n| !image.names.contains(n));
        }
        if let Some(present) = images.get(&image.id) {
            for (own, theirs) in [(&mut image.names, &present.names), (&mut image.digests, &present.digests)] {
                own.extend(theirs.iter().cloned());
                own.sort();
                own.dedup();
            }
        }
        images.insert(image.id.clone(), image.clone());
        self.save(&images)?;
        drop(images);
        self.arrived.send_replace(());
        Ok(image)
    }

    fn save(&self, images: &BTreeMap<String, Image>) -> Result<(), ImageError> {
        let text = serde_json::to_vec(images).map_err(|e| ImageError::Store(e.to_string()))?;
        Ok(bounded::durable::replace(&self.folder.join("index.json"), &text)?)
    }

    /// Forgets an image and removes the layers that no other image has. The caller knows that no container uses it.
    ///
    /// # Errors
    /// When the index can't be written.
    pub fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let Some(image) = self.find(name) else { return Ok(false) };
        let orphans: Vec<String> = {
            let mut images = self.images.lock();
            images.remove(&image.id);
            self.save(&images)?;
            let used = |l: &String| images.values().any(|i| i.layers.contains(l));
            image.layers.into_iter().filter(|l| !used(l)).collect()
        };
        for layer in orphans {
            let _ = crate::remove_tree(&self.layer_path(&layer));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_full_are_names_of_the_same_image() {
        for (name, full) in [
            ("nginx", Some("docker.io/library/nginx:latest")),
            ("quay.io:443/a/b:1", Some("quay.io:443/a/b:1")),
            ("localhost/a", Some("localhost/a:latest")),
            ("8J/o", None),
            ("docker.io/A/b", None),
            ("../../etc/passwd", None),
        ] {
            assert_eq!(normalize(name).ok().as_deref(), full, "{name}");
            if let Some(full) = full {
                assert_eq!(normalize(full).ok().as_deref(), Some(full));
            }
        }
    }

    #[test]
    fn what_pulls_have_left_waits_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |diff_id| layer_in(folder.path(), diff_id);
        let fetched = folder.path().join("fetched/sha256-c");
        for path in [&layer("sha256:a"), &layer("sha256:b"), &fetched] {
            std::fs::create_dir_all(path).unwrap();
        }
        let image = serde_json::json!({
            "id": "i", "names": [], "digests": [], "layers": ["sha256:a"], "size": 1, "defaults": Defaults::default()
        });
        let images = BTreeMap::from([("i".to_string(), serde_json::from_value(image).unwrap())]);
        let present = || [layer("sha256:a"), layer("sha256:b"), fetched.clone()].map(|path| path.exists());
        let now = SystemTime::now();
        put_aside(folder.path(), &images, now + PARTIAL_PULL_TTL / 2);
        assert_eq!(present(), [true, true, true]);
        let cleared = put_aside(folder.path(), &images, now + PARTIAL_PULL_TTL * 2);
        assert_eq!(present(), [true, false, false]);
        assert_eq!(std::fs::read_dir(cleared).unwrap().count(), 2);
    }
}
