//! Requests about resources whose type isn't known when this is compiled (client-go's dynamic client).

use api::Kind;
use kube::Client;
use serde_json::Value;

use super::Result;

/// Where a kind's version is: `/api/v1`, `/apis/apps/v1`.
fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// Where all objects of a kind are.
pub fn path(kind: &Kind) -> String {
    format!("{}/{}", root(kind), kind.plural())
}

/// Where the objects of a kind in a namespace are.
pub fn path_in(kind: &Kind, namespace: &str) -> String {
    format!("{}/namespaces/{namespace}/{}", root(kind), kind.plural())
}

/// Makes a request; the body is JSON, and `null` is no body.
///
/// # Errors
/// The path is malformed, or the API's answer is an error.
pub async fn request(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let request = http::Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = request.body(body).map_err(kube::Error::HttpError)?;
    client.request(request).await
}
