//! Volumes whose files are made of objects of the API: `configMap`, `secret`, `downwardAPI`, `projected`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume, VolumeProjection,
};
use kube::{Client, ResourceExt as _};

use super::files::Files;
use super::{VolumeError, tokens};
use crate::config::Config;
use crate::environment::{downward_api, sources};
use crate::spec::started;

/// The mode of a file whose volume names none.
const DEFAULT_MODE: i32 = 0o644;

/// Makes the files of one pod's volumes.
pub struct Projector<'a> {
    /// The node's configuration.
    pub config: &'a Config,
    /// A client of the API.
    pub client: &'a Client,
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
}

impl Projector<'_> {
    /// The files of a volume, whose present ones are in `folder`; none for a volume of another type.
    ///
    /// # Errors
    /// When an object or a key is missing that isn't optional.
    pub async fn files(&self, volume: &Volume, folder: &Path) -> Result<Option<Files>, VolumeError> {
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.config_map(&source.name, source.items.as_deref(), mode, source.optional, &mut files).await?;
        } else if let Some(source) = &volume.secret {
            let (name, mode) =
                (source.secret_name.as_deref().unwrap_or(""), source.default_mode.unwrap_or(DEFAULT_MODE));
            self.secret(name, source.items.as_deref(), mode, source.optional, &mut files).await?;
        } else if let Some(source) = &volume.downward_api {
            self.downward_api(source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE), &mut files)?;
        } else if let Some(source) = &volume.projected {
            self.projected(source, folder, &mut files).await?;
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    async fn projected(
        &self,
        source: &ProjectedVolumeSource,
        folder: &Path,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for VolumeProjection { config_map, secret, downward_api, service_account_token, .. } in
            source.sources.as_deref().unwrap_or_default()
        {
            if let Some(p) = config_map {
                self.config_map(&p.name, p.items.as_deref(), mode, p.optional, files).await?;
            }
            if let Some(p) = secret {
                self.secret(&p.name, p.items.as_deref(), mode, p.optional, files).await?;
            }
            if let Some(p) = downward_api {
                self.downward_api(p.items.as_deref(), mode, files)?;
            }
            if let Some(p) = service_account_token {
                let present = folder.join(&p.path);
                let audience = p.audience.as_deref();
                let token = tokens::current(self.client, self.pod, audience, p.expiration_seconds, &present).await?;
                files.insert(p.path.clone(), (token, mode));
            }
        }
        Ok(())
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: Option<bool>,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let (namespace, optional) = (self.pod.namespace().unwrap_or_default(), optional.unwrap_or(false));
        pick(&sources::config_map(self.client, &namespace, name, optional).await?, items, mode, optional, files)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: Option<bool>,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let (namespace, optional) = (self.pod.namespace().unwrap_or_default(), optional.unwrap_or(false));
        pick(&sources::secret(self.client, &namespace, name, optional).await?, items, mode, optional, files)
    }

    fn downward_api(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        for item in items.unwrap_or_default() {
            let value = if let Some(reference) = &item.field_ref {
                downward_api::field(self.config, self.pod, &reference.field_path, self.ips)?
            } else if let Some(reference) = &item.resource_field_ref {
                let wanted = reference.container_name.as_deref().unwrap_or("");
                let mut containers = self.pod.spec.iter().flat_map(started);
                let container = containers.find(|c| c.name == wanted);
                let container =
                    container.ok_or_else(|| VolumeError::Refused(format!("there is no container {wanted:?}")))?;
                let divisor = reference.divisor.as_ref().map_or("0", |d| d.0.as_str());
                downward_api::resource(self.config, container, &reference.resource, divisor)?
            } else {
                continue;
            };
            files.insert(item.path.clone(), (value.into_bytes(), item.mode.unwrap_or(mode)));
        }
        Ok(())
    }
}

/// Takes all keys, or those that `items` name to the paths that they name.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match items.filter(|i| !i.is_empty()) {
        None => files.extend(data.iter().map(|(k, v)| (k.clone(), (v.clone(), mode)))),
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        files.insert(item.path.clone(), (value.clone(), item.mode.unwrap_or(mode)));
                    }
                    None if optional => {}
                    None => {
                        let why = format!("references non-existent config key: {}", item.key);
                        return Err(VolumeError::Refused(why));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether a pod has volumes with fields of its own (`downwardAPI`).
pub fn shows_pod(pod: &Pod) -> bool {
    let sources =
        |v: &Volume| v.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|p| p.downward_api.is_some());
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.any(|v| v.downward_api.is_some() || sources(v))
}
