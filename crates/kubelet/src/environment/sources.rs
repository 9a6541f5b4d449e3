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

/// The data of a ConfigMap, binary data included; empty if it is missing and `optional`.
///
/// # Errors
/// When it is missing and not optional, or the API doesn't answer.
pub async fn config_map(client: &Client, namespace: &str, name: &str, optional: bool) -> Result<Data, SourceError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.map_err(SourceError::Api)? {
        Some(map) => {
            let mut data: Data = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
            data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
            Ok(data)
        }
        None if optional => Ok(Data::new()),
        None => Err(SourceError::ConfigMapNotFound(name.into())),
    }
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
