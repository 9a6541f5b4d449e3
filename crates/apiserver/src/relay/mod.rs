//! Requests that somebody else answers: kubelets ([`kubelet`]), pods and services ([`proxy`]), further API servers
//! ([`aggregate`]).

mod aggregate;
mod kubelet;
mod links;
mod metrics;
mod proxy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Status;
use apimachinery::addresses::is_global_unicast;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Config;
use crate::request::Info;
use crate::response::{self, Body};

pub use aggregate::{Aggregator, answer as aggregated, keep as keep_aggregated, local as local_services};
pub use kubelet::{node, pod};
pub use proxy::{endpoint, pod as pod_proxy, service as service_proxy};

/// How long a connection may take, and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections that this server makes.
pub struct Relay {
    kubelets: TlsConnector,
    /// As whom further API servers see this one.
    front_proxy: Arc<pki::Rotating>,
}

impl Relay {
    pub fn new(config: &Config) -> Result<Self, String> {
        let kubelets = connector(Some(config.authority.certificate_pem()), Some(&config.kubelet_client))?;
        Ok(Relay { kubelets, front_proxy: config.front_proxy.clone() })
    }
}

/// Connects by TLS to servers whose certificate one of `authorities` (PEM) signed, as `identity`.
pub fn connector(authorities: Option<&str>, identity: Option<&Arc<pki::Rotating>>) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match authorities {
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::Anybody::new(provider))),
    };
    let mut tls = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    };
    // A session that is resumed is that of the certificate of before.
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// A path at its subresource `proxy`: what comes before and with it, and what is asked of the target, as the client wrote
/// both. Names may begin with `proxy`, too, so segments are counted.
fn split_at_proxy<'a>(info: &Info, path: &'a str) -> (&'a str, &'a str) {
    let group = if info.path.group.is_empty() { 2 } else { 3 };
    let namespace = if info.path.namespace.is_empty() { 0 } else { 2 };
    let mut left = group + namespace + 3;
    let mut end = 0;
    // Empty segments count for nothing, as for whoever read the path first.
    for segment in path.split_inclusive('/') {
        let name = segment.trim_end_matches('/');
        left -= usize::from(!name.is_empty());
        if left == 0 {
            return path.split_at(end + name.len());
        }
        end += segment.len();
    }
    (path, "")
}

/// What is asked of a target: what follows `proxy` in a path, with its query.
fn rest(info: &Info, uri: &Uri) -> Result<Uri, Status> {
    let (_, rest) = split_at_proxy(info, uri.path());
    let rest = if rest.is_empty() { "/" } else { rest };
    let text = uri.query().map_or_else(|| rest.to_string(), |query| format!("{rest}?{query}"));
    text.parse().map_err(|_| Status::bad_request("the path after proxy is malformed"))
}

/// Who is to answer.
pub struct Target {
    /// In words, for errors.
    pub what: String,
    pub host: String,
    pub port: u16,
    /// With TLS, and the name that the certificate must have.
    pub tls: Option<(TlsConnector, String)>,
    /// Whether it may be an address of this machine alone, or of a link. Only where an administrator wrote it himself.
    pub anywhere: bool,
}

/// Headers that are about one connection (RFC 9110, 7.6.1). An upgrade's are passed on.
static OF_CONNECTION: [header::HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
];

impl Target {
    /// Sends a request on, and streams of an upgrade in both directions. `change` may set headers.
    pub async fn forward(
        &self,
        uri: Uri,
        mut request: Request<Body>,
        change: impl FnOnce(&mut HeaderMap),
    ) -> Result<Response<Body>, Status> {
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
        let mut onward = Request::new(Body::default());
        *onward.method_mut() = request.method().clone();
        *onward.uri_mut() = uri;
        for (name, value) in request.headers() {
            // Credentials stay here: who answers knows this server by other means.
            let text = name.as_str();
            let own = name == header::AUTHORIZATION
                || name == header::HOST
                || (!upgrade && OF_CONNECTION.contains(name))
                || text.starts_with("impersonate")
                || text.starts_with("x-remote-");
            if !own {
                onward.headers_mut().append(name, value.clone());
            }
        }
        let host = apimachinery::authority(self.tls.as_ref().map_or(&self.host, |(_, name)| name), self.port);
        onward.headers_mut().insert(header::HOST, host.parse().map_err(|e| self.unreachable(&e))?);
        change(onward.headers_mut());
        *onward.body_mut() = request.into_body();
        let mut answer = self.send(onward).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer.map(response::boxed));
        }
        let Some(client_side) = client_side else {
            return Err(Status::internal(format!("{} changed protocols unasked", self.what)));
        };
        let other_side = hyper::upgrade::on(&mut answer);
        tasks::spawn("relayed-stream", async move {
            match tokio::try_join!(client_side, other_side) {
                Ok((client, other)) => {
                    let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut other).await;
                }
                Err(error) => tracing::debug!(%error, "failed to upgrade a connection to a stream"),
            }
        });
        Ok(answer.map(|_| response::full(Bytes::new())))
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Status> {
        let within =
            |what: &'static str| move |_| self.unreachable(&format!("{what} took longer than {CONNECT_TIMEOUT:?}"));
        let addresses = self.addresses().await?;
        let connecting = TcpStream::connect(addresses.as_slice());
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(within("connecting"))?;
        let stream = connected.map_err(|e| self.unreachable(&e))?;
        let _ = stream.set_nodelay(true);
        // Logs that are followed and streams may be silent for hours, and the other end may vanish meanwhile.
        network::liveness::watch_peer(&stream);
        let Some((connector, name)) = &self.tls else {
            return self.exchange(TokioIo::new(stream), request).await;
        };
        let name = ServerName::try_from(name.clone()).map_err(|e| self.unreachable(&e))?;
        let agreeing = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream));
        let stream = agreeing.await.map_err(within("the TLS handshake"))?.map_err(|e| self.unreachable(&e))?;
        self.exchange(TokioIo::new(stream), request).await
    }

    /// Where to connect. A name is resolved once, and what it resolved to is what is looked at and what is connected to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Status> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(|e| self.unreachable(&e))?;
        let found: Vec<SocketAddr> = found.collect();
        // As upstream's `IsProxyableHostname`: one bad address spoils all.
        if !self.anywhere && !found.iter().all(|address| is_global_unicast(address.ip())) {
            return Err(Status::bad_request(format!("{} can't be asked: address not allowed", self.what)));
        }
        Ok(found)
    }

    async fn exchange<S>(&self, stream: S, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Status>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|e| self.unreachable(&e))?;
        tasks::spawn("relayed-connection", connection.with_upgrades());
        sender.send_request(request).await.map_err(|e| self.unreachable(&e))
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> Status {
        let text =
            format!("{} can't be reached at {}: {why}", self.what, apimachinery::authority(&self.host, self.port));
        Status::new(502, "BadGateway", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{self, Query};

    #[test]
    fn a_path_is_split_at_the_subresource_and_not_at_a_name() {
        for (path, before, rest) in [
            ("/api/v1/namespaces/n/pods/p/proxy", "/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/a/proxy/b", "/api/v1/namespaces/n/pods/p/proxy", "/a/proxy/b"),
            ("/api/v1/namespaces/n/services/proxy-x:80/proxy/", "/api/v1/namespaces/n/services/proxy-x:80/proxy", "/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy", "/api/v1/namespaces/proxy/pods/proxy/proxy", "/proxy"),
            ("/api/v1/nodes/proxy1/proxy/pods", "/api/v1/nodes/proxy1/proxy", "/pods"),
            ("//api/v1//nodes/n/proxy//x", "//api/v1//nodes/n/proxy", "//x"),
        ] {
            let read = request::resource_path(path).unwrap();
            let kind = api::find("", "v1", &read.plural).unwrap();
            let subresource = kind.subresource("proxy");
            assert_eq!(read.subresource, "proxy", "{path}");
            let info =
                Info { kind, path: read, subresource, verb: "get", query: Query::default(), manager: String::new() };
            assert_eq!(split_at_proxy(&info, path), (before, rest));
        }
    }

    #[tokio::test]
    async fn nobody_is_led_to_this_machine_or_a_link() {
        let target =
            |host: &str, anywhere| Target { what: "pod p".into(), host: host.into(), port: 80, tls: None, anywhere };
        for host in
            ["127.0.0.1", "localhost", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1", "224.0.0.1", "fe80::1"]
        {
            let status = target(host, false).addresses().await.unwrap_err();
            assert!(
                status.code == 400 && status.message.ends_with("address not allowed"),
                "{host}: {}",
                status.message
            );
        }
        assert_eq!(target("192.0.2.1", false).addresses().await.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
        assert!(target("127.0.0.1", true).addresses().await.is_ok());
    }
}
