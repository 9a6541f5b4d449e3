//! Requests about resources whose type isn't known when this is compiled (client-go's dynamic client).

use api::Kind;
use kube::Client;
use serde_json::Value;

use super::Result;

/// Where the objects of a kind in a namespace are.
pub fn path(kind: &Kind, namespace: &str) -> String {
    let root = if kind.group.is_empty() { "/api".to_string() } else { format!("/apis/{}", kind.group) };
    format!("{root}/{}/namespaces/{namespace}/{}", kind.version, kind.plural())
}

pub async fn request(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let request = http::Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = request.body(body).map_err(kube::Error::HttpError)?;
    client.request(request).await
}
