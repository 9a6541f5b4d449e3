//! The folder layout of docker-registry's storage (distribution's filesystem driver).

use std::path::{Path, PathBuf};

/// Where docker-registry keeps a blob.
pub(crate) fn blob(storage: &Path, digest: &str) -> PathBuf {
    storage.join(format!("docker/registry/v2/blobs/sha256/{}/{digest}/data", &digest[..2]))
}

/// The links that make a blob part of a repository, relative to its folder.
pub(crate) fn links(
    storage: &Path,
    repository: &str,
    tag: &str,
    manifest: &str,
    blobs: &[&str],
) -> Vec<(PathBuf, String)> {
    let folder = storage.join("docker/registry/v2/repositories").join(repository);
    let mut links: Vec<(PathBuf, String)> = blobs
        .iter()
        .map(|digest| (folder.join(format!("_layers/sha256/{digest}/link")), format!("sha256:{digest}")))
        .collect();
    for place in [
        format!("_manifests/revisions/sha256/{manifest}/link"),
        format!("_manifests/tags/{tag}/current/link"),
        format!("_manifests/tags/{tag}/index/sha256/{manifest}/link"),
    ] {
        links.push((folder.join(place), format!("sha256:{manifest}")));
    }
    links
}
