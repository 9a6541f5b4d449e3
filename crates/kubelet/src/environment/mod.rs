//! Environment variables of containers, and the fields that the downward API offers.

#[deny(clippy::arithmetic_side_effects)]
pub mod expansion;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Api, ResourceExt as _};

use crate::Agent;
use crate::node::status::NodeFacts;
use expansion::Variables;
pub use expansion::{TooLarge, expand, expand_all};

/// A field of a pod, by its path in the downward API.
pub fn field(pod: &Pod, path: &str, agent: &Agent, ips: &[IpAddr]) -> Result<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let quoted =
        |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n");
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match base {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => quoted(pod.labels()),
        "metadata.annotations" => quoted(pod.annotations()),
        "spec.nodeName" => agent.config.node_name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.podIP" => ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => list(ips),
        "status.hostIP" => agent.config.node_ip().to_string(),
        "status.hostIPs" => list(&agent.config.node_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The most that a file of variables may hold, in bytes.
const MAX_ENV_FILE_BYTES: u64 = 64 << 10;

/// A variable that an earlier container wrote into a file (KEP-3721): lines of `KEY=VALUE`.
fn from_file(source: &EnvVarSource, volumes: &BTreeMap<String, PathBuf>) -> Result<Option<String>, String> {
    let Some(reference) = &source.file_key_ref else { return Ok(None) };
    let (key, path, volume) = (&reference.key, &reference.path, &reference.volume_name);
    let folder = volumes.get(volume).ok_or_else(|| format!("cannot find volume {volume:?}"))?;
    let text = match runtime::inside::read(folder, Path::new(path), MAX_ENV_FILE_BYTES) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("the file {path:?} of volume {volume:?} can't be read: {error}")),
    };
    let found = text.lines().find_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let value = value.trim();
        let bare = ['\'', '"'].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        (name.trim() == key).then(|| bare.unwrap_or(value).to_string())
    });
    match found {
        None if reference.optional != Some(true) => {
            Err(format!("environment variable key {key:?} not found in file {path:?} of volume {volume:?}"))
        }
        found => Ok(found),
    }
}

fn amount(quantity: Option<&Quantity>) -> Option<apimachinery::Quantity> {
    quantity.and_then(|q| q.0.parse().ok())
}

/// `limits.cpu` and the like, in units of the divisor, rounded up.
pub fn resource(container: &Container, name: &str, divisor: &str, data_dir: &Path) -> Result<String, String> {
    let resources = container.resources.clone().unwrap_or_default();
    let (list, resource) = name.split_once('.').ok_or_else(|| format!("unsupported container resource: {name}"))?;
    let map = if list == "limits" { &resources.limits } else { &resources.requests };
    let whole = || {
        let facts = NodeFacts::gather(data_dir);
        let amount = match resource {
            "cpu" => facts.cpus as u64,
            "memory" => facts.memory_kib.saturating_mul(1024),
            _ => facts.disk_bytes,
        };
        apimachinery::Quantity::from_int(i64::try_from(amount).unwrap_or(i64::MAX))
    };
    let found = amount(map.as_ref().and_then(|m| m.get(resource)));
    let value = found.unwrap_or_else(|| if list == "limits" { whole() } else { apimachinery::Quantity::ZERO });
    let divisor: apimachinery::Quantity = divisor.parse().unwrap_or_default();
    let unit = if divisor.milli() == 0 { 1000 } else { divisor.milli() };
    // Rounded up; the amounts may be as large as they like.
    let (value, unit) = (i128::from(value.milli()), i128::from(unit));
    Ok((value + unit - 1).div_euclid(unit).to_string())
}

/// Variables in the manner of Docker links for the services of a namespace (`NAME_SERVICE_HOST`, …).
fn service_variables(services: &[std::sync::Arc<Service>], env: &mut Variables) -> Result<(), TooLarge> {
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.clone().unwrap_or_default();
        let Some(first) = spec.ports.as_ref().and_then(|p| p.first()).filter(|_| !ip.is_empty() && ip != "None") else {
            continue;
        };
        let name = service.name_any().to_ascii_uppercase().replace('-', "_");
        env.insert(format!("{name}_SERVICE_HOST"), ip.clone())?;
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string())?;
        let url = |p: &k8s_openapi::api::core::v1::ServicePort| {
            let protocol = p.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            format!("{protocol}://{}", apimachinery::authority(&ip, p.port))
        };
        env.insert(format!("{name}_PORT"), url(first))?;
        for port in spec.ports.iter().flatten() {
            if let Some(label) = port.name.as_ref().filter(|n| !n.is_empty()) {
                let label = label.to_ascii_uppercase().replace('-', "_");
                env.insert(format!("{name}_SERVICE_PORT_{label}"), port.port.to_string())?;
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_uppercase();
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            env.insert(prefix.clone(), url(port))?;
            env.insert(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase())?;
            env.insert(format!("{prefix}_PORT"), port.port.to_string())?;
            env.insert(format!("{prefix}_ADDR"), ip.clone())?;
        }
    }
    Ok(())
}

/// Why a pod gets no variables of services.
#[derive(Debug, thiserror::Error)]
enum NoServices {
    // Upstream's words.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    Unread,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl Agent {
    /// The variables that name services. As long as the API hasn't said which there are, those that the pod had before; a static one, which runs
    /// whatever the API says, does without.
    fn of_services(&self, pod: &Pod) -> Result<BTreeMap<String, String>, NoServices> {
        let all = self.informers.of::<Service>();
        let kept = pod.uid().map(|uid| self.config.pods_dir().join(uid).join("services.json"));
        let before =
            kept.as_ref().and_then(|file| serde_json::from_slice(&bounded::bytes(file, bounded::OWN).ok()?).ok());
        if !all.is_synced() {
            return match before {
                Some(before) => Ok(before),
                None if crate::pod::static_pods::is_static(pod) => Ok(BTreeMap::new()),
                None => Err(NoServices::Unread),
            };
        }
        let mut variables = Variables::default();
        let kubernetes: Vec<_> = all.list_in("default").into_iter().filter(|s| s.name_any() == "kubernetes").collect();
        service_variables(&kubernetes, &mut variables)?;
        if pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true) {
            service_variables(&all.list_in(&pod.namespace().unwrap_or_default()), &mut variables)?;
        }
        let variables = variables.into_known();
        if before.as_ref() != Some(&variables)
            && let Some(file) = kept
            && let Err(error) = serde_json::to_vec(&variables)
                .map_err(Into::into)
                .and_then(|text| bounded::durable::replace(&file, &text))
        {
            tracing::debug!(%error, "failed to save the service environment variables of a pod");
        }
        Ok(variables)
    }

    /// All variables of a container, in no particular order. Later sources win over earlier ones.
    ///
    /// # Errors
    /// With the text of a `CreateContainerConfigError`.
    pub async fn environment(
        &self,
        pod: &Pod,
        container: &Container,
        image: &[String],
        ips: &[IpAddr],
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<BTreeMap<String, String>, String> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut env = Variables::default();
        let too_large =
            |error: TooLarge| format!("the environment of container {:?} is too large: {error}", container.name);
        for (key, value) in image.iter().filter_map(|e| e.split_once('=')) {
            env.insert(key.to_string(), value.to_string()).map_err(too_large)?;
        }
        if !env.known().contains_key("PATH") {
            let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
            env.insert("PATH".into(), path.into()).map_err(too_large)?;
        }
        env.insert("HOSTNAME".into(), crate::pod::sandbox::hostname(&self.config, pod)).map_err(too_large)?;
        for (key, value) in self.of_services(pod).map_err(|error| match error {
            NoServices::Unread => error.to_string(),
            NoServices::TooLarge(error) => too_large(error),
        })? {
            env.insert(key, value).map_err(too_large)?;
        }
        for source in container.env_from.as_deref().unwrap_or_default() {
            let prefix = source.prefix.clone().unwrap_or_default();
            let data = if let Some(reference) = &source.config_map_ref {
                self.config_map(&namespace, &reference.name, reference.optional.unwrap_or(false)).await?
            } else if let Some(reference) = &source.secret_ref {
                self.secret(&namespace, &reference.name, reference.optional.unwrap_or(false)).await?
            } else {
                BTreeMap::new()
            };
            for (key, value) in data {
                let value = String::from_utf8_lossy(&value).into_owned();
                env.insert(format!("{prefix}{key}"), value).map_err(too_large)?;
            }
        }
        for variable in container.env.as_deref().unwrap_or_default() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) => Some(expand(value, env.known()).map_err(too_large)?),
                (None, Some(source)) if source.file_key_ref.is_some() => from_file(source, volumes)?,
                (None, Some(source)) => self.sourced(pod, container, &namespace, source, ips).await?,
                (None, None) => Some(String::new()),
            };
            if let Some(value) = value {
                env.insert(variable.name.clone(), value).map_err(too_large)?;
            }
        }
        Ok(env.into_known())
    }

    async fn sourced(
        &self,
        pod: &Pod,
        container: &Container,
        namespace: &str,
        source: &EnvVarSource,
        ips: &[IpAddr],
    ) -> Result<Option<String>, String> {
        if let Some(reference) = &source.field_ref {
            return field(pod, &reference.field_path, self, ips).map(Some);
        }
        if let Some(reference) = &source.resource_field_ref {
            let divisor = reference.divisor.as_ref().map_or("0", |d| d.0.as_str());
            return resource(container, &reference.resource, divisor, &self.config.data_dir).map(Some);
        }
        let (data, key, optional, what) = if let Some(r) = &source.config_map_key_ref {
            let optional = r.optional.unwrap_or(false);
            (
                self.config_map(namespace, &r.name, optional).await?,
                &r.key,
                optional,
                format!("ConfigMap {namespace}/{}", r.name),
            )
        } else if let Some(r) = &source.secret_key_ref {
            let optional = r.optional.unwrap_or(false);
            (
                self.secret(namespace, &r.name, optional).await?,
                &r.key,
                optional,
                format!("Secret {namespace}/{}", r.name),
            )
        } else {
            return Ok(None);
        };
        match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {what}")),
        }
    }

    /// The content of a ConfigMap; empty if it is missing and may be.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(Some(map)) => {
                let mut data: BTreeMap<String, Vec<u8>> =
                    map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
                data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
                Ok(data)
            }
            Ok(None) if optional => Ok(BTreeMap::new()),
            Ok(None) => Err(format!("configmap {name:?} not found")),
            Err(error) => Err(informer::told(&error)),
        }
    }

    /// The content of a Secret; empty if it is missing and may be.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(Some(secret)) => Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()),
            Ok(None) if optional => Ok(BTreeMap::new()),
            Ok(None) => Err(format!("secret {name:?} not found")),
            Err(error) => Err(informer::told(&error)),
        }
    }
}
