//! Volumes whose files are made of objects of the API: `configMap`, `secret`, `downwardAPI`, `projected`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection, ProjectedVolumeSource, SecurityContext, Volume,
    VolumeProjection,
};
use kube::{Client, ResourceExt as _};

use super::files::{Files, VolumeFile};
use super::{VolumeError, pod_certificates, tokens, trust_bundles};
use crate::config::Config;
use crate::environment::downward_api;
use crate::environment::sources::{self, Part};
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
    /// The pod's folder whose content ends with the machine.
    pub run: &'a Path,
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
            self.projected(&volume.name, source, folder, &mut files).await?;
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    async fn projected(
        &self,
        volume: &str,
        source: &ProjectedVolumeSource,
        folder: &Path,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for (index, projection) in source.sources.iter().flatten().enumerate() {
            let VolumeProjection {
                config_map,
                secret,
                downward_api,
                service_account_token,
                cluster_trust_bundle,
                pod_certificate,
            } = projection;
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
                files.insert(p.path.clone(), VolumeFile { content: token, ..token_rights(self.pod, mode) });
            }
            if let Some(p) = cluster_trust_bundle {
                let content = trust_bundles::read(self.client, p).await?;
                files.insert(p.path.clone(), VolumeFile { content, ..token_rights(self.pod, mode) });
            }
            if let Some(p) = pod_certificate {
                let record = pod_certificates::record_path(self.run, volume, index);
                self.pod_certificate(p, record, mode, files).await?;
            }
        }
        Ok(())
    }

    async fn pod_certificate(
        &self,
        source: &PodCertificateProjection,
        record: PathBuf,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let (client, node, pod) = (self.client, self.config.node_name.as_str(), self.pod);
        let has = pod_certificates::Source { client, node, pod, source, record }.current().await?;
        let bundle = format!("{}{}", has.key, has.chain);
        let wanted = [
            (&source.credential_bundle_path, bundle),
            (&source.key_path, has.key),
            (&source.certificate_chain_path, has.chain),
        ];
        for (path, content) in wanted {
            if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                files.insert(path.clone(), VolumeFile { content: content.into_bytes(), ..token_rights(pod, mode) });
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
        let data = sources::config_map(self.client, &namespace, name, optional, Part::Everything).await?;
        pick(&data, items, mode, optional, "config", files)
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
        let data = sources::secret(self.client, &namespace, name, optional).await?;
        pick(&data, items, mode, optional, "secret", files)
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
                let named = reference.container_name.as_deref();
                let container = downward_api::container_named(self.pod, named.unwrap_or(""))?;
                let divisor = reference.divisor.as_ref().map_or("0", |d| d.0.as_str());
                downward_api::resource(self.config, self.pod, container, &reference.resource, divisor)?
            } else {
                continue;
            };
            files.insert(item.path.clone(), file(value.into_bytes(), item.mode.unwrap_or(mode)));
        }
        Ok(())
    }
}

fn file(content: Vec<u8>, mode: i32) -> VolumeFile {
    VolumeFile { content, mode, owner: None }
}

/// The user as whom all containers of a pod run, if their specs say so and agree (upstream's `FsUserFrom`).
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let user = |own: Option<&SecurityContext>| own.and_then(|context| context.run_as_user).or(of_pod);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| user(c.security_context.as_ref()));
    let mut users = started(spec).map(|c| user(c.security_context.as_ref())).chain(ephemeral);
    let first = users.next()??;
    if users.all(|user| user == Some(first)) { u32::try_from(first).ok() } else { None }
}

/// Owner and mode of a token: where the pod's user or group is known no other may read it, also no other user inside the container.
fn token_rights(pod: &Pod, mode: i32) -> VolumeFile {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let owner = common_user(pod);
    let is_narrow = owner.is_some() || context.is_some_and(|context| context.fs_group.is_some());
    VolumeFile { content: Vec::new(), mode: if is_narrow { 0o600 } else { mode }, owner }
}

/// Takes all keys, or those that `items` name to the paths that they name.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    kind: &str,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match items.filter(|i| !i.is_empty()) {
        None => files.extend(data.iter().map(|(k, v)| (k.clone(), file(v.clone(), mode)))),
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        files.insert(item.path.clone(), file(value.clone(), item.mode.unwrap_or(mode)));
                    }
                    None if optional => {}
                    None => {
                        let why = format!("references non-existent {kind} key: {}", item.key);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn tokens_are_read_by_the_pods_own_user_and_group() {
        let rights = |pod: Value, containers: &[Value]| {
            let containers: Vec<Value> =
                containers.iter().map(|c| json!({"name": "c", "securityContext": c})).collect();
            let pod = json!({"metadata": {}, "spec": {"securityContext": pod, "containers": containers}});
            let file = token_rights(&serde_json::from_value(pod).unwrap(), 0o644);
            (file.mode, file.owner)
        };
        assert_eq!(rights(json!({}), &[json!({})]), (0o644, None));
        assert_eq!(rights(json!({"runAsUser": 7}), &[json!({}), json!({})]), (0o600, Some(7)));
        assert_eq!(rights(json!({"runAsUser": 7}), &[json!({}), json!({"runAsUser": 8})]), (0o644, None));
        assert_eq!(rights(json!({}), &[json!({"runAsUser": 8}), json!({"runAsUser": 8})]), (0o600, Some(8)));
        assert_eq!(rights(json!({}), &[json!({"runAsUser": 8}), json!({})]), (0o644, None));
        assert_eq!(rights(json!({"fsGroup": 9}), &[json!({})]), (0o600, None));
    }

    #[test]
    fn keys_that_are_missing_are_named() {
        let data = BTreeMap::from([("a".to_string(), b"1".to_vec())]);
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x", "mode": 256}, {"key": "b", "path": "y"}])).unwrap();
        let picked = |optional, kind| {
            let mut files = Files::new();
            pick(&data, Some(&items), 0o644, optional, kind, &mut files)
                .map(|()| files)
                .map_err(|error| error.to_string())
        };
        assert_eq!(picked(false, "config").unwrap_err(), "references non-existent config key: b");
        assert_eq!(picked(false, "secret").unwrap_err(), "references non-existent secret key: b");
        assert_eq!(picked(true, "secret").unwrap(), Files::from([("x".to_string(), file(b"1".to_vec(), 256))]));
    }
}
