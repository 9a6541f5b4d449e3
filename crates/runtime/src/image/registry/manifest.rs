//! Manifests and indexes of images (image-spec, image-index.md and manifest.md).

use serde::Deserialize;

use crate::image::archive::is_digest;
use crate::image::layers::LARGEST;

/// Layers of one image: the kernel stacks no more for one overlay (`OVL_MAX_STACK`).
pub(super) const MOST_LAYERS: usize = 500;

/// A part of an image, named by its content (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// The digest of its content: `sha256:…`
    pub digest: String,
    /// In bytes.
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// An index of images for several platforms, or the manifest of one (image-spec, image-index.md and manifest.md).
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// What a manifest says of an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Either the manifest of an image, or the digest of that for this machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The manifest itself.
    Image(Manifest),
    /// The digest of the manifest for this machine's architecture.
    Elsewhere(String),
}

/// The names that images have for this machine's kind of processor.
pub(in crate::image) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads what a registry says an image is.
///
/// # Errors
/// When it is no manifest and no index, or has nothing for this machine, or names what can't be a part of an image.
pub fn read_manifest(bytes: &[u8]) -> Result<Found, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("the manifest is malformed: {e}"))?;
    if let Some(manifests) = document.manifests {
        let fits =
            |m: &Descriptor| m.platform.as_ref().is_some_and(|p| p.architecture == architecture() && p.os == "linux");
        let chosen = manifests.into_iter().find(fits);
        let chosen = chosen.ok_or_else(|| format!("no image for linux/{} in the manifest list", architecture()))?;
        return match is_digest(&chosen.digest) {
            true => Ok(Found::Elsewhere(chosen.digest)),
            false => Err(format!("the index names a manifest {:?}, which is no digest", chosen.digest)),
        };
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err("the manifest names no configuration and no layers: it is of an unknown kind".into());
    };
    if layers.len() > MOST_LAYERS {
        return Err(format!("the manifest names {} layers, more than {MOST_LAYERS}", layers.len()));
    }
    for part in layers.iter().chain([&config]) {
        if !is_digest(&part.digest) {
            return Err(format!("the manifest names a part {:?}, which is no digest", part.digest));
        }
        if part.size > LARGEST {
            return Err(format!("the part {} has {} bytes, more than {LARGEST}", part.digest, part.size));
        }
    }
    Ok(Found::Image(Manifest { config, layers }))
}
