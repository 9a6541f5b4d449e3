//! The data of ConfigMaps and Secrets, read from the API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

/// Values by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Why a ConfigMap or Secret can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such ConfigMap, and it isn't optional.
    #[error("configmap {0:?} not found")]
    ConfigMapNotFound(String),
    /// There is no such Secret, and it isn't optional.
    #[error("secret {0:?} not found")]
    SecretNotFound(String),
    /// The API doesn't answer, or refuses.
    #[error("{}", informer::error_message(.0))]
    Api(kube::Error),
}

/// What of a ConfigMap is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `data` alone: variables are texts.
    Texts,
    /// `binaryData`, too.
    Everything,
}

/// The data of a ConfigMap; empty if it is missing and `optional`.
///
/// # Errors
/// When it is missing and not optional, or the API doesn't answer.
pub async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: bool,
    part: Part,
) -> Result<Data, SourceError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.map_err(SourceError::Api)? {
        Some(map) => Ok(data_of(map, part)),
        None if optional => Ok(Data::new()),
        None => Err(SourceError::ConfigMapNotFound(name.into())),
    }
}

fn data_of(map: ConfigMap, part: Part) -> Data {
    let mut data: Data = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
    if part == Part::Everything {
        data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
    }
    data
}

/// The data of a Secret; empty if it is missing and `optional`.
///
/// # Errors
/// When it is missing and not optional, or the API doesn't answer.
pub async fn secret(client: &Client, namespace: &str, name: &str, optional: bool) -> Result<Data, SourceError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.map_err(SourceError::Api)? {
        Some(secret) => Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()),
        None if optional => Ok(Data::new()),
        None => Err(SourceError::SecretNotFound(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_data_is_for_files_alone() {
        let map = serde_json::json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}});
        let keys = |part| {
            let map: ConfigMap = serde_json::from_value(map.clone()).unwrap();
            data_of(map, part).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys(Part::Texts), ["a"]);
        assert_eq!(keys(Part::Everything), ["a", "b"]);
    }
}
