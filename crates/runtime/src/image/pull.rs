//! Images from registries (distribution-spec), through mirrors if there are some.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::StatusCode;

use super::archive::Configuration;
use super::layers::Room;
use super::registries::Endpoint;
use super::registry::{Descriptor, Registry, RegistryError};
use super::{Credentials, Image, ImageError, ImageStore, Reference, parse};

/// How far a pull has come, told while it goes on.
#[derive(Debug, Default)]
pub struct Progress(parking_lot::Mutex<Fetched>);

#[derive(Debug, Default)]
struct Fetched {
    size: u64,
    /// By the layers' digests.
    layers: HashMap<String, u64>,
}

impl Progress {
    /// Bytes that are here and bytes in all, of the packed layers; nothing before the registry has said what there is to fetch.
    pub fn now(&self) -> Option<(u64, u64)> {
        let fetched = self.0.lock();
        (fetched.size > 0).then(|| (fetched.layers.values().sum(), fetched.size))
    }

    fn begin(&self, size: u64) {
        *self.0.lock() = Fetched { size, layers: HashMap::new() };
    }

    fn set(&self, layer: &str, bytes: u64) {
        let mut fetched = self.0.lock();
        match fetched.layers.get_mut(layer) {
            Some(present) => *present = bytes,
            None => drop(fetched.layers.insert(layer.into(), bytes)),
        }
    }
}

/// Layers that are fetched at a time.
const MAX_PARALLEL_DOWNLOADS: usize = 4;

/// Tries in a row that bring nothing, before a layer is given up.
const MAX_ATTEMPTS: u32 = 3;

/// Fetches the rest of a layer into a file that may have its beginning. What is there is checked when it is unpacked, by the
/// digest of the plain content.
async fn fetch(registry: &Registry, layer: &Descriptor, path: &Path, progress: &Progress) -> Result<(), String> {
    let size = layer.size;
    let mut tries = 0u32;
    loop {
        let before = tokio::fs::metadata(path).await.map_or(0, |m| m.len());
        let has = if before > size { 0 } else { before };
        if has == size && size > 0 {
            progress.set(&layer.digest, size);
            return Ok(());
        }
        let error = match fetch_from(registry, layer, path, has, progress).await {
            Ok(()) => String::from("the registry sent less than it promised"),
            Err(error) => error,
        };
        let now = tokio::fs::metadata(path).await.map_or(0, |m| m.len());
        if now == size {
            return Ok(());
        }
        tries = if now > has { 0 } else { tries.saturating_add(1) };
        if tries == MAX_ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(layer = layer.digest, now, size, error, "the download of a layer was interrupted; resuming it");
        tokio::time::sleep(std::time::Duration::from_millis(200u64.checked_shl(tries).unwrap_or(u64::MAX))).await;
    }
}

async fn fetch_from(
    registry: &Registry,
    layer: &Descriptor,
    path: &Path,
    has: u64,
    progress: &Progress,
) -> Result<(), String> {
    use tokio::io::AsyncWriteExt as _;
    let text = |e: std::io::Error| e.to_string();
    let mut options = tokio::fs::OpenOptions::new();
    let mut answer = registry.blob(&layer.digest, has).await.map_err(|e| e.told())?;
    // Some registries know no parts.
    let from = if answer.status() == StatusCode::PARTIAL_CONTENT { has } else { 0 };
    let mut room = Room::of(path);
    let file = options.create(true).write(true).truncate(false).open(path).await.map_err(text)?;
    file.set_len(from).await.map_err(text)?;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file);
    tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(from)).await.map_err(text)?;
    let limit = layer.size;
    let mut length = from;
    let copied = async {
        while let Some(bytes) = answer.chunk().await.map_err(|e| RegistryError::from(e).to_string())? {
            room.take(bytes.len() as u64, 0).map_err(text)?;
            length = length.saturating_add(bytes.len() as u64);
            if length > limit {
                return Err(format!("the registry sends more than the {limit} bytes of the layer"));
            }
            file.write_all(&bytes).await.map_err(text)?;
            progress.set(&layer.digest, length);
        }
        Ok(())
    }
    .await;
    // What came before an error is kept for the next try.
    file.flush().await.map_err(text)?;
    copied
}

impl ImageStore {
    /// Pulls an image, from the first endpoint that has it. `given` are credentials for the image's own registry, from
    /// a pull secret.
    ///
    /// # Errors
    /// With the words of each registry that was asked.
    pub async fn pull(
        self: &Arc<Self>,
        name: &str,
        given: Option<Credentials>,
        progress: &Arc<Progress>,
    ) -> Result<Image, ImageError> {
        let reference = parse(name)?;
        if reference.registry() == super::BUILT_IN_REGISTRY {
            return self.find(name).ok_or_else(|| super::built_in::refuse(&reference));
        }
        let mut reasons = Vec::new();
        for endpoint in self.registries.endpoints(reference.registry()) {
            // A pull secret is for the image's own registry and is shown to no mirror.
            let own = endpoint.host == reference.resolve_registry() || endpoint.host == reference.registry();
            let credentials = match (&given, self.registries.credentials(&endpoint.host)) {
                (Some(given), Credentials::Anonymous) if own => given.clone(),
                (_, configured) => configured,
            };
            match self.pull_from(&reference, &endpoint, credentials, progress).await {
                Ok(image) => return Ok(image),
                Err(reason) => reasons.push(format!("{}: {reason}", endpoint.host)),
            }
        }
        Err(ImageError::Pull { image: name.into(), reason: reasons.join("; ") })
    }

    async fn pull_from(
        self: &Arc<Self>,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: Credentials,
        progress: &Arc<Progress>,
    ) -> Result<Image, String> {
        let registry = Registry::new(endpoint, reference, credentials).map_err(|e| e.told())?;
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        let (manifest, found) = registry.manifest(wanted).await.map_err(|e| e.told())?;
        let config_bytes = registry.document(&manifest.config).await.map_err(|e| e.told())?;
        let config = Configuration::read(&config_bytes, manifest.layers.len()).map_err(|e| e.to_string())?;
        let sizes = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        let size = sizes.saturating_add(config_bytes.len() as u64);
        progress.begin(sizes);
        let layers = manifest.layers.into_iter().zip(config.diff_ids.clone());
        let registry = Arc::new(registry);
        let fetch = |(layer, diff_id)| self.clone().layer(registry.clone(), layer, diff_id, progress.clone());
        let work: Vec<_> = layers.map(fetch).collect();
        futures::stream::iter(work).buffer_unordered(MAX_PARALLEL_DOWNLOADS).try_collect::<()>().await?;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let digests = found.into_iter().map(|digest| format!("{repository}@{digest}")).collect();
        let names = if reference.digest().is_some() { Vec::new() } else { vec![reference.whole()] };
        self.add(config.image(names, digests, size)).map_err(|e| e.to_string())
    }

    /// Fetches and unpacks a layer, unless it is here.
    async fn layer(
        self: Arc<Self>,
        registry: Arc<Registry>,
        layer: Descriptor,
        diff_id: String,
        progress: Arc<Progress>,
    ) -> Result<(), String> {
        let _guard = self.keyed_mutex.lock(&layer.digest).await;
        if self.layer_path(&diff_id).exists() {
            progress.set(&layer.digest, layer.size);
            return Ok(());
        }
        let path = self.folder.join("fetched").join(layer.digest.replace(':', "-"));
        fetch(&registry, &layer, &path, &progress).await?;
        let _place = self.unpacking.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        let unpacked = tokio::task::spawn_blocking(move || {
            let unpacked = std::fs::File::open(&path).map_err(Into::into).and_then(|file| self.unpack(&diff_id, file));
            // Also what was refused: it would be refused again.
            let _ = std::fs::remove_file(&path);
            unpacked
        });
        unpacked.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}
