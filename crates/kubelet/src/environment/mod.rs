//! Environment variables of containers: of the image, of services, of ConfigMaps and Secrets, of the downward API, and of files.

pub mod downward_api;
#[deny(clippy::arithmetic_side_effects)]
pub mod expansion;
mod services;
pub mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use informer::Informer;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, FileKeySelector, Pod, Service};
use kube::{Client, ResourceExt as _};

use crate::config::Config;
use crate::spec::is_static;
use crate::spec::names::hostname;
use downward_api::FieldError;
use expansion::Variables;
pub use expansion::{TooLarge, expand, expand_all, expand_known};
use sources::{Data, Part, SourceError};

/// `PATH` of a container whose image names none, as upstream's runtimes have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most bytes of a file of variables (`fileKeyRef`) that are read.
const MAX_ENV_FILE_BYTES: u64 = 64 << 10;

/// Why a container has no environment, in the words of a `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The API hasn't said which services there are.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesNotRead,
    /// It doesn't fit in the memory of a process.
    #[error("the environment of container {container:?} is too large: {source}")]
    TooLarge {
        /// The container's name.
        container: String,
        /// Which bound it exceeds.
        source: TooLarge,
    },
    /// A ConfigMap or Secret is missing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The downward API doesn't offer what is asked for.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A ConfigMap or Secret lacks the key.
    #[error("couldn't find key {key} in {object}")]
    KeyNotFound {
        /// The missing key.
        key: String,
        /// Kind, namespace and name.
        object: String,
    },
    /// A file of variables can't be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a variable of a file (`fileKeyRef`, KEP-3721) has no value.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The pod has no such volume.
    #[error("cannot find volume {0:?}")]
    VolumeNotFound(String),
    /// The file can't be read.
    #[error("the file {path:?} of volume {volume:?} can't be read: {error}")]
    Unreadable {
        /// The file's path in the volume.
        path: String,
        /// The volume's name.
        volume: String,
        /// Why it can't be read.
        error: std::io::Error,
    },
    /// The file has no such key, which isn't optional.
    #[error("environment variable key {key:?} not found in file {path:?} of volume {volume:?}")]
    KeyNotFound {
        /// The missing key.
        key: String,
        /// The file's path in the volume.
        path: String,
        /// The volume's name.
        volume: String,
    },
}

/// The value of a key of a file that an earlier container wrote into a volume (KEP-3721): lines of `KEY=VALUE`.
fn from_file(reference: &FileKeySelector, volumes: &BTreeMap<String, PathBuf>) -> Result<Option<String>, FileError> {
    let (key, path, volume) = (&reference.key, &reference.path, &reference.volume_name);
    let folder = volumes.get(volume).ok_or_else(|| FileError::VolumeNotFound(volume.clone()))?;
    let text = match runtime::inside::read(folder, Path::new(path), MAX_ENV_FILE_BYTES) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(FileError::Unreadable { path: path.clone(), volume: volume.clone(), error }),
    };
    let found = text.lines().find_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let value = value.trim();
        let bare = ['\'', '"'].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        (name.trim() == key).then(|| bare.unwrap_or(value).to_string())
    });
    if found.is_none() && reference.optional != Some(true) {
        return Err(FileError::KeyNotFound { key: key.clone(), path: path.clone(), volume: volume.clone() });
    }
    Ok(found)
}

/// The variables of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerVariables {
    /// All of them, those of its image among them.
    pub all: BTreeMap<String, String>,
    /// Those that its spec and the services give it. These alone stand in for their names, in values, commands and paths: nobody knows an image's
    /// when a pod is made, and `$(HOME)` is for the shell.
    pub named: BTreeMap<String, String>,
}

/// What the environment of one container is made of.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The container's pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// The image's variables, as `NAME=VALUE`.
    pub image: &'a [String],
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
    /// The pod's volumes by name.
    pub volumes: &'a BTreeMap<String, PathBuf>,
}

/// Puts the variables of an image below those of the spec and of services, and what runtimes set below both.
fn with_image(
    named: BTreeMap<String, String>,
    image: &[String],
    hostname: String,
) -> Result<ContainerVariables, TooLarge> {
    let mut all = Variables::default();
    all.insert("HOSTNAME".into(), hostname)?;
    all.insert("PATH".into(), DEFAULT_PATH.into())?;
    let of_image =
        image.iter().filter_map(|e| e.split_once('=')).map(|(key, value)| (key.to_string(), value.to_string()));
    for (key, value) in of_image.chain(named.clone()) {
        all.insert(key, value)?;
    }
    Ok(ContainerVariables { all: all.into_known(), named })
}

/// Makes the environment of containers.
pub struct Environment {
    config: Arc<Config>,
    client: Client,
    services: Informer<Service>,
}

impl Environment {
    /// `services` are those of the cluster.
    pub fn new(config: Arc<Config>, client: Client, services: Informer<Service>) -> Self {
        Environment { config, client, services }
    }

    /// The variables that name services. While the API hasn't said which there are, these are the ones that the pod had before; a static pod,
    /// which runs whatever the API says, gets none.
    fn service_variables(&self, request: Request<'_>) -> Result<BTreeMap<String, String>, EnvironmentError> {
        let Request { pod, container, .. } = request;
        let file = pod.uid().map(|uid| self.config.pods_dir().join(uid).join("services.json"));
        let before: Option<BTreeMap<String, String>> = file
            .as_ref()
            .and_then(|file| serde_json::from_slice(&bounded::bytes(file, bounded::MAX_OWN_FILE_BYTES).ok()?).ok());
        if !self.services.is_synced() {
            return match before {
                Some(before) => Ok(before),
                None if is_static(pod) => Ok(BTreeMap::new()),
                None => Err(EnvironmentError::ServicesNotRead),
            };
        }
        let too_large = |source| EnvironmentError::TooLarge { container: container.name.clone(), source };
        let mut variables = Variables::default();
        let of_default = self.services.list_in("default");
        let kubernetes: Vec<_> = of_default.into_iter().filter(|s| s.name_any() == "kubernetes").collect();
        services::add(&kubernetes, &mut variables).map_err(too_large)?;
        if pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true) {
            let own = self.services.list_in(&pod.namespace().unwrap_or_default());
            services::add(&own, &mut variables).map_err(too_large)?;
        }
        let variables = variables.into_known();
        if before.as_ref() != Some(&variables)
            && let Some(file) = file
            && let Err(error) = serde_json::to_vec(&variables)
                .map_err(Into::into)
                .and_then(|text| bounded::durable::replace(&file, &text))
        {
            tracing::debug!(%error, "failed to save the service environment variables of a pod");
        }
        Ok(variables)
    }

    /// All variables of a container by name. Later sources replace earlier ones.
    ///
    /// # Errors
    /// When a source is missing, or the variables become too many.
    pub async fn variables(&self, request: Request<'_>) -> Result<ContainerVariables, EnvironmentError> {
        let Request { pod, container, volumes, .. } = request;
        let mut env = Variables::default();
        let too_large = |source| EnvironmentError::TooLarge { container: container.name.clone(), source };
        for (key, value) in self.service_variables(request)? {
            env.insert(key, value).map_err(too_large)?;
        }
        self.add_env_from(pod, container, &mut env).await?;
        for variable in container.env.as_deref().unwrap_or_default() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) => Some(expand(value, env.known()).map_err(too_large)?),
                (None, Some(EnvVarSource { file_key_ref: Some(reference), .. })) => from_file(reference, volumes)?,
                (None, Some(source)) => self.value_from(request, source).await?,
                (None, None) => Some(String::new()),
            };
            if let Some(value) = value {
                env.insert(variable.name.clone(), value).map_err(too_large)?;
            }
        }
        let hostname = hostname(&self.config, pod);
        with_image(env.into_known(), request.image, hostname).map_err(too_large)
    }

    /// Adds the variables of `envFrom`, one source after the other, so that too large an environment ends the reading.
    async fn add_env_from(
        &self,
        pod: &Pod,
        container: &Container,
        env: &mut Variables,
    ) -> Result<(), EnvironmentError> {
        let namespace = pod.namespace().unwrap_or_default();
        let too_large = |source| EnvironmentError::TooLarge { container: container.name.clone(), source };
        for source in container.env_from.as_deref().unwrap_or_default() {
            let prefix = source.prefix.as_deref().unwrap_or("");
            let data = if let Some(reference) = &source.config_map_ref {
                let optional = reference.optional.unwrap_or(false);
                sources::config_map(&self.client, &namespace, &reference.name, optional, Part::Texts).await?
            } else if let Some(reference) = &source.secret_ref {
                let optional = reference.optional.unwrap_or(false);
                sources::secret(&self.client, &namespace, &reference.name, optional).await?
            } else {
                Data::new()
            };
            for (key, value) in data {
                let value = String::from_utf8_lossy(&value).into_owned();
                env.insert(format!("{prefix}{key}"), value).map_err(too_large)?;
            }
        }
        Ok(())
    }

    /// The value of `valueFrom`; none where an optional key is missing.
    async fn value_from(
        &self,
        request: Request<'_>,
        source: &EnvVarSource,
    ) -> Result<Option<String>, EnvironmentError> {
        let Request { pod, container, ips, .. } = request;
        if let Some(reference) = &source.field_ref {
            return Ok(Some(downward_api::field(&self.config, pod, &reference.field_path, ips)?));
        }
        if let Some(reference) = &source.resource_field_ref {
            let divisor = reference.divisor.as_ref().map_or("0", |d| d.0.as_str());
            let container = downward_api::container(pod, container, reference.container_name.as_deref())?;
            return Ok(Some(downward_api::resource(&self.config, pod, container, &reference.resource, divisor)?));
        }
        let namespace = pod.namespace().unwrap_or_default();
        let (data, key, optional, object) = if let Some(r) = &source.config_map_key_ref {
            let optional = r.optional.unwrap_or(false);
            let data = sources::config_map(&self.client, &namespace, &r.name, optional, Part::Texts).await?;
            (data, &r.key, optional, format!("ConfigMap {namespace}/{}", r.name))
        } else if let Some(r) = &source.secret_key_ref {
            let optional = r.optional.unwrap_or(false);
            let data = sources::secret(&self.client, &namespace, &r.name, optional).await?;
            (data, &r.key, optional, format!("Secret {namespace}/{}", r.name))
        } else {
            return Ok(None);
        };
        match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(EnvironmentError::KeyNotFound { key: key.clone(), object }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_image_stand_in_for_no_names() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let named = map(&[("A", "spec"), ("WEB_SERVICE_HOST", "10.43.0.1")]);
        let image = ["A=image", "B=image", "PATH=/bin", "HOSTNAME=image"].map(String::from);
        let variables = with_image(named.clone(), &image, "pod".into()).unwrap();
        assert_eq!(variables.named, named);
        let all =
            [("A", "spec"), ("B", "image"), ("HOSTNAME", "image"), ("PATH", "/bin"), ("WEB_SERVICE_HOST", "10.43.0.1")];
        assert_eq!(variables.all, map(&all));
        let bare = with_image(BTreeMap::new(), &[], "pod".into()).unwrap().all;
        assert_eq!(bare, map(&[("HOSTNAME", "pod"), ("PATH", DEFAULT_PATH)]));
    }
}
