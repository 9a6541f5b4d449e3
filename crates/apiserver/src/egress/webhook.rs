//! Posting a review to a webhook, as its `clientConfig` says (`admissionregistration.k8s.io/v1`, `apiextensions.k8s.io/v1`).

use apimachinery::ObjectExt as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri, header};
use serde_json::Value;

use super::{Destination, connector, resolve_endpoint};
use crate::ApiServer;
use crate::response;

/// The largest answer that is read.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Sends a review to where `config` (`clientConfig`) says, and returns the answer. `seconds` is the
/// timeout that the webhook is told.
///
/// # Errors
/// Why the webhook can't be asked, or what it answered instead of a review.
pub async fn post(server: &ApiServer, config: &Value, seconds: Option<u64>, review: &Value) -> Result<Value, String> {
    let (destination, mut path) = destination(server, config)?;
    if let Some(seconds) = seconds {
        path = format!("{path}{}timeout={seconds}s", if path.contains('?') { '&' } else { '?' });
    }
    let name = destination.tls.as_ref().map_or("", |(_, name)| name);
    let request = Request::post(path)
        .header(header::HOST, name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(response::full(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = destination.send(request).await.map_err(|status| status.message)?;
    let status = answer.status();
    let body = bounded::body(answer.into_body(), MAX_RESPONSE_BYTES).await.map_err(|e| e.to_string())?;
    if !status.is_success() {
        return Err(format!("it answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])));
    }
    serde_json::from_slice(&body).map_err(|e| format!("its answer is no JSON: {e}"))
}

/// The URL of a webhook as upstream writes it.
pub fn url(config: &Value, seconds: u64) -> String {
    if let Some(url) = config["url"].as_str() {
        return format!("{url}?timeout={seconds}s");
    }
    let service = &config["service"];
    let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
    let port = service["port"].as_u64().unwrap_or(443);
    let path = service.str_at(&["path"]);
    format!("https://{name}.{namespace}.svc:{port}/{}?timeout={seconds}s", path.trim_start_matches('/'))
}

fn destination(server: &ApiServer, config: &Value) -> Result<(Destination, String), String> {
    let bundle =
        STANDARD.decode(config.str_at(&["caBundle"])).map_err(|e| format!("its caBundle is no base64: {e}"))?;
    let tls = connector(Some(&String::from_utf8_lossy(&bundle)), None).map_err(|e| format!("its caBundle: {e}"))?;
    if let Some(url) = config["url"].as_str() {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?.trim_matches(['[', ']']).to_string();
        let path = uri.path_and_query().map_or("/".into(), ToString::to_string);
        let (description, port) = (format!("the webhook {url}"), uri.port_u16().unwrap_or(443));
        return Ok((
            Destination { description, port, tls: Some((tls, host.clone())), host, allow_any_address: true },
            path,
        ));
    }
    let service = &config["service"];
    let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
    let port = service["port"].as_u64().unwrap_or(443).to_string();
    let (host, port) = resolve_endpoint(server, namespace, name, &port).map_err(|status| status.message)?;
    let path = Some(service.str_at(&["path"])).filter(|p| !p.is_empty()).unwrap_or("/");
    let description = format!("the webhook of service {namespace}/{name}");
    let tls = Some((tls, format!("{name}.{namespace}.svc")));
    Ok((Destination { description, host, port, tls, allow_any_address: false }, path.into()))
}
