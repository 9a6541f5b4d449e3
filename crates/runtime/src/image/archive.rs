//! Images from tar files: OCI layouts (image-layout.md) and what `docker save` writes, plain, gzip or zstd.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::layers::{Ownership, decompressed, extract, hex, with_cause};
use super::registry::architecture;
use super::{Defaults, Image, ImageError, ImageStore, normalize};

impl ImageStore {
    /// Loads all images of an archive and returns them.
    ///
    /// # Errors
    /// When the file is no archive, or a part of it is missing or isn't what its digest says.
    pub async fn load(self: &Arc<Self>, path: &Path) -> Result<Vec<Image>, ImageError> {
        let (store, path) = (self.clone(), path.to_path_buf());
        let loaded = tokio::task::spawn_blocking(move || store.load_blocking(&path)).await;
        loaded.unwrap_or_else(|e| Err(ImageError::Store(e.to_string())))
    }

    fn load_blocking(self: &Arc<Self>, path: &Path) -> Result<Vec<Image>, ImageError> {
        let refuse = |reason: String| ImageError::Archive { path: path.display().to_string(), reason };
        let folder = tempfile::tempdir_in(self.folder.join("incoming"))?;
        let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
        let plain = decompressed(file).map_err(|e| refuse(e.to_string()))?;
        extract(plain, folder.path(), Ownership::Ours).map_err(|e| refuse(with_cause(&e)))?;
        let parts = Parts { folder: folder.path(), refuse: &refuse };
        let images = if folder.path().join("manifest.json").exists() {
            self.add_docker(&parts)?
        } else if folder.path().join("index.json").exists() {
            self.add_oci(&parts)?
        } else {
            return Err(refuse("it has neither index.json (OCI) nor manifest.json (docker save)".into()));
        };
        images.into_iter().map(|image| self.add(image)).collect()
    }

    fn add_docker(&self, parts: &Parts<'_>) -> Result<Vec<Image>, ImageError> {
        let manifests = parts.json(Path::new("manifest.json"))?;
        let mut images = Vec::new();
        for manifest in manifests.as_array().into_iter().flatten() {
            let config_path = manifest["Config"].as_str().unwrap_or("");
            let config_bytes = parts.read(Path::new(config_path))?;
            let layers = manifest["Layers"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let files = layers.map(|l| parts.inside(Path::new(l))).collect::<Result<Vec<_>, _>>()?;
            let names = manifest["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let names = names.map(normalize).collect::<Result<Vec<_>, _>>()?;
            images.push(self.assemble(&config_bytes, &files, names, Vec::new())?);
        }
        Ok(images)
    }

    fn add_oci(&self, parts: &Parts<'_>) -> Result<Vec<Image>, ImageError> {
        let index = parts.json(Path::new("index.json"))?;
        let mut images = Vec::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let annotation = |key: &str| entry["annotations"][key].as_str();
            // containerd writes the full name, others only the tag.
            let name =
                annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"));
            let mut manifest = parts.blob(&entry["digest"])?;
            let mut digest = entry["digest"].as_str().unwrap_or("").to_string();
            if let Some(manifests) = manifest["manifests"].as_array() {
                let fits =
                    |m: &&Value| m["platform"]["architecture"] == architecture() && m["platform"]["os"] == "linux";
                let chosen = manifests.iter().find(fits).or(manifests.first());
                digest = chosen.and_then(|m| m["digest"].as_str()).unwrap_or("").to_string();
                manifest = parts.blob(&Value::String(digest.clone()))?;
            }
            let config = parts.read(&parts.blob_path(manifest["config"]["digest"].as_str().unwrap_or(""))?)?;
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let files = layers
                .map(|l| parts.inside(&parts.blob_path(l["digest"].as_str().unwrap_or(""))?))
                .collect::<Result<Vec<_>, _>>()?;
            let names = name.map(normalize).transpose()?.into_iter().collect::<Vec<_>>();
            let digests = names.iter().filter_map(|n| Some(format!("{}@{digest}", n.rsplit_once(':')?.0))).collect();
            images.push(self.assemble(&config, &files, names, digests)?);
        }
        Ok(images)
    }

    /// Unpacks the layers of one image, whose files are in the order of its configuration.
    pub(super) fn assemble(
        &self,
        config_bytes: &[u8],
        files: &[PathBuf],
        names: Vec<String>,
        digests: Vec<String>,
    ) -> Result<Image, ImageError> {
        let config = Configuration::read(config_bytes, files.len())?;
        let mut size = config_bytes.len() as u64;
        for (diff_id, file) in config.diff_ids.iter().zip(files) {
            size = size.saturating_add(file.metadata()?.len());
            self.unpack(diff_id, File::open(file)?)?;
        }
        Ok(config.image(names, digests, size))
    }
}

/// An image's configuration as it is written (image-spec, config.md). Go programs write null for what they don't have.
#[derive(Deserialize)]
struct ConfigurationFile {
    #[serde(default)]
    rootfs: RootFs,
    #[serde(default)]
    config: Option<Execution>,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

impl From<Execution> for Defaults {
    fn from(written: Execution) -> Self {
        Defaults {
            entrypoint: written.entrypoint.unwrap_or_default(),
            cmd: written.cmd.unwrap_or_default(),
            env: written.env.unwrap_or_default(),
            working_dir: written.working_dir.unwrap_or_default(),
            user: written.user.unwrap_or_default(),
            stop_signal: written.stop_signal.unwrap_or_default(),
        }
    }
}

/// What is in an image's configuration (image-spec, config.md).
pub(super) struct Configuration {
    id: String,
    pub diff_ids: Vec<String>,
    defaults: Defaults,
}

impl Configuration {
    /// Reads it for an image with so many layers.
    pub fn read(bytes: &[u8], layers: usize) -> Result<Self, ImageError> {
        use sha2::Digest as _;
        let file: ConfigurationFile = serde_json::from_slice(bytes)
            .map_err(|e| ImageError::Store(format!("the image's configuration is malformed: {e}")))?;
        let diff_ids = file.rootfs.diff_ids;
        if diff_ids.len() != layers {
            let text = format!("the image has {layers} layers, its configuration names {}", diff_ids.len());
            return Err(ImageError::Store(text));
        }
        if let Some(bad) = diff_ids.iter().find(|id| !is_digest(id)) {
            return Err(ImageError::Store(format!(
                "the image's configuration names a layer {bad:?}, which is no digest"
            )));
        }
        let id = format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)));
        Ok(Configuration { id, diff_ids, defaults: file.config.unwrap_or_default().into() })
    }

    pub fn image(self, names: Vec<String>, digests: Vec<String>, size: u64) -> Image {
        let Configuration { id, diff_ids: layers, defaults } = self;
        Image { id, names, digests, layers, size, defaults, unsettled: None }
    }
}

/// Digests become names of files: nothing else may (image-spec, descriptor.md).
pub(super) fn is_digest(text: &str) -> bool {
    let hash = text.strip_prefix("sha256:").unwrap_or("");
    hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit())
}

/// The most that an index, manifest or configuration may hold, in bytes, as registries have it (distribution-spec).
pub(super) const DOCUMENT: u64 = 4 << 20;

/// The files of an unpacked archive.
struct Parts<'a> {
    folder: &'a Path,
    refuse: &'a dyn Fn(String) -> ImageError,
}

impl Parts<'_> {
    fn inside(&self, path: &Path) -> Result<PathBuf, ImageError> {
        Ok(crate::rootfs::resolve_inside(self.folder, path)?)
    }
    fn read(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        crate::inside::read(self.folder, path, DOCUMENT).map_err(|e| (self.refuse)(format!("{}: {e}", path.display())))
    }
    fn json(&self, path: &Path) -> Result<Value, ImageError> {
        let bytes = self.read(path)?;
        serde_json::from_slice(&bytes).map_err(|e| (self.refuse)(format!("{}: {e}", path.display())))
    }
    fn blob_path(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let (algorithm, hash) =
            digest.split_once(':').ok_or_else(|| (self.refuse)(format!("{digest:?} is no digest")))?;
        Ok(Path::new("blobs").join(algorithm).join(hash))
    }
    fn blob(&self, digest: &Value) -> Result<Value, ImageError> {
        self.json(&self.blob_path(digest.as_str().unwrap_or(""))?)
    }
}
