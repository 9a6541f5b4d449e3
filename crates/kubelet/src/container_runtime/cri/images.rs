//! The runtime's images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::cri::v1;
use ::cri::v1::image_service_client::ImageServiceClient;
use async_trait::async_trait;
use runtime::image::{Credentials, Defaults, Progress};
use runtime::{Image, ImageError};
use tonic::transport::Channel;

use crate::container_runtime::ImageService;

#[derive(Clone)]
/// The runtime's images, by the CRI's image service.
pub struct CriImages {
    service: ImageServiceClient<Channel>,
    folder: PathBuf,
    /// The image of sandboxes, which no container names.
    of_sandboxes: String,
}

fn spec(name: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: name.into(), ..v1::ImageSpec::default() })
}

fn image(told: v1::Image) -> Image {
    let user = told.uid.map_or(told.username, |uid| uid.value.to_string());
    Image {
        id: told.id,
        names: told.repo_tags,
        digests: told.repo_digests,
        layers: Vec::new(),
        size: told.size,
        // What else an image says is the runtime's to know.
        defaults: Defaults { user, ..Defaults::default() },
        unsettled: None,
    }
}

impl CriImages {
    pub(super) async fn open(service: ImageServiceClient<Channel>, of_sandboxes: &str) -> Self {
        let mut asked = service.clone();
        let info = asked.image_fs_info(v1::ImageFsInfoRequest {}).await.map(|answer| answer.into_inner());
        let systems = info.map(|info| info.image_filesystems).unwrap_or_default();
        let folder = systems.into_iter().find_map(|system| Some(system.fs_id?.mountpoint));
        let folder = folder.filter(|f| !f.is_empty()).unwrap_or_else(|| "/var/lib".into());
        CriImages { service, folder: folder.into(), of_sandboxes: of_sandboxes.into() }
    }

    async fn status(&self, name: &str) -> Option<v1::Image> {
        let request = v1::ImageStatusRequest { image: spec(name) };
        self.service.clone().image_status(request).await.ok()?.into_inner().image
    }
}

#[async_trait]
impl ImageService for CriImages {
    async fn find(&self, name: &str) -> Option<Image> {
        self.status(name).await.map(image)
    }

    async fn pull(
        &self,
        name: &str,
        credentials: Option<Credentials>,
        // The protocol has no word for it.
        _: &Arc<Progress>,
    ) -> Result<Image, ImageError> {
        let auth = match credentials {
            Some(Credentials::Basic(username, password)) => {
                Some(v1::AuthConfig { username, password, ..v1::AuthConfig::default() })
            }
            Some(Credentials::Bearer(token)) => {
                Some(v1::AuthConfig { registry_token: token, ..v1::AuthConfig::default() })
            }
            Some(Credentials::Anonymous) | None => None,
        };
        let fail = |reason: String| ImageError::Pull { image: name.into(), reason };
        let request = v1::PullImageRequest { image: spec(name), auth };
        let pulled = self.service.clone().pull_image(request).await.map_err(|s| fail(s.message().into()))?;
        let reference = pulled.into_inner().image_ref;
        let found = self
            .status(&reference)
            .await
            .ok_or_else(|| fail(format!("it was pulled as {reference}, which isn't there")))?;
        Ok(image(found))
    }

    async fn list(&self) -> Vec<Image> {
        let answer = self.service.clone().list_images(v1::ListImagesRequest {}).await;
        answer.map(|answer| answer.into_inner().images.into_iter().map(image).collect()).unwrap_or_default()
    }

    async fn remove(&self, id: &str) -> Result<bool, ImageError> {
        let Some(present) = self.status(id).await else { return Ok(false) };
        if present.pinned || present.repo_tags.contains(&self.of_sandboxes) {
            return Ok(false);
        }
        let request = v1::RemoveImageRequest { image: spec(id) };
        let removed = self.service.clone().remove_image(request).await;
        removed.map(|_| true).map_err(|status| ImageError::Store(status.message().into()))
    }

    fn layers(&self, _: &Image) -> Option<Vec<PathBuf>> {
        None
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}
