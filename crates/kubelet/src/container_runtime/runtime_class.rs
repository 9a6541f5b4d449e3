//! Handlers of RuntimeClasses (KEP-585).

use std::io;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};

use super::RuntimeFeatures;

/// The handler that the pod's RuntimeClass names; the default's is empty.
///
/// # Errors
/// When the RuntimeClass isn't there or can't be read.
pub async fn handler(client: &Client, spec: &PodSpec) -> io::Result<String> {
    let Some(class) = &spec.runtime_class_name else { return Ok(String::new()) };
    let found = Api::<RuntimeClass>::all(client.clone()).get_opt(class).await.map_err(io::Error::other)?;
    found.map(|class| class.handler).ok_or_else(|| io::Error::other(format!("RuntimeClass {class:?} not found")))
}

/// Checks that the runtime has the handler and the features that the pod asks for.
///
/// # Errors
/// When it hasn't, or when the RuntimeClass can't be read.
pub async fn check(client: &Client, features: &RuntimeFeatures, spec: &PodSpec) -> io::Result<()> {
    let handler = handler(client, spec).await?;
    let class = spec.runtime_class_name.as_deref().unwrap_or("");
    if let Some(known) = &features.handlers
        && !handler.is_empty()
        && !known.contains(&handler)
    {
        return Err(io::Error::other(format!(
            "no runtime for {handler:?} is configured: the handler of RuntimeClass {class:?} may be one of {known:?}"
        )));
    }
    if spec.host_users == Some(false) && !features.user_namespaces.contains(&handler) {
        return Err(io::Error::other(format!("RuntimeClass handler {handler:?} does not support user namespaces")));
    }
    Ok(())
}
