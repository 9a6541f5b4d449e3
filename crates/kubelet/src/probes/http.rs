//! HTTP and HTTPS probes. As upstream's, they don't ask whose certificate a server shows: it is the pod's own.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Target, host, port};

/// The most of an answer that is read, in bytes.
const LIMIT: usize = 10 << 10;

pub async fn get(target: &Target, get: &HTTPGetAction) -> Result<(), String> {
    let secure = get.scheme.as_deref() == Some("HTTPS");
    let (address, port) = (host(target, get.host.as_deref())?, port(target, &get.port)?);
    let scheme = if secure { "https" } else { "http" };
    let fail = |e: &dyn std::fmt::Display| format!("Get \"{scheme}://{address}:{port}\": {e}");
    let stream = TcpStream::connect((address, port)).await.map_err(|e| fail(&e))?;
    let mut request = http::Request::builder()
        .uri(get.path.as_deref().unwrap_or("/"))
        .header("User-Agent", "kube-probe/1.37")
        .header("Connection", "close");
    let mut has_host = false;
    for header in get.http_headers.iter().flatten() {
        has_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !has_host {
        request = request.header("Host", apimachinery::authority(address, port));
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| fail(&e))?;
    let status = if secure {
        let stream = tls(&[])?.connect(ServerName::IpAddress(address.into()), stream).await.map_err(|e| fail(&e))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    };
    let status = status.map_err(|e| fail(&e))?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

/// A connector that trusts anybody, and offers the protocols `alpn`.
pub fn tls(alpn: &[&[u8]]) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let anybody = builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::Anybody::new(provider)));
    let mut config = anybody.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: S, request: http::Request<Empty<bytes::Bytes>>) -> Result<u16, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let task = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let _ = http_body_util::Limited::new(response.into_body(), LIMIT).collect().await;
    task.abort();
    Ok(status)
}
