//! Connections that the server makes itself: to kubelets, pods, services, webhooks and further API servers.

pub mod kubelet;
mod service;
mod tls;
mod webhook;

use std::net::SocketAddr;
use std::time::Duration;

use apimachinery::Status;
use apimachinery::addresses::is_global_unicast;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::response::{self, Body};

pub use service::resolve_endpoint;
pub use tls::{Clients, connector};
pub use webhook::{post, url};

/// How long a connection may take, and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The other end of a connection, and how to reach it.
pub struct Destination {
    /// In words, for errors.
    pub description: String,
    pub host: String,
    pub port: u16,
    /// With TLS, and the name that the certificate must have.
    pub tls: Option<(TlsConnector, String)>,
    /// Whether loopback and link-local addresses are allowed: only where an administrator wrote the address.
    pub allow_any_address: bool,
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

impl Destination {
    /// Passes a request on, and the bytes of an upgraded connection in both directions. `change` may set headers.
    ///
    /// # Errors
    /// 502 when the other end can't be reached, 400 when its address isn't allowed, 500 when it changes protocols unasked.
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
            // Credentials stay here: the other end authenticates this server by other means.
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
            return Err(Status::internal(format!("{} changed protocols unasked", self.description)));
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
    ///
    /// # Errors
    /// 502 when the other end can't be reached, 400 when its address isn't allowed.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Status> {
        let within =
            |what: &'static str| move |_| self.unreachable(&format!("{what} took longer than {CONNECT_TIMEOUT:?}"));
        let addresses = self.addresses().await?;
        let connecting = TcpStream::connect(addresses.as_slice());
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(within("connecting"))?;
        let stream = connected.map_err(|e| self.unreachable(&e))?;
        let _ = stream.set_nodelay(true);
        // Logs that are followed and streams may be silent for hours, and the other end may vanish meanwhile.
        network::keepalive::enable(&stream);
        let Some((connector, name)) = &self.tls else {
            return self.exchange(TokioIo::new(stream), request).await;
        };
        let name = ServerName::try_from(name.clone()).map_err(|e| self.unreachable(&e))?;
        let agreeing = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream));
        let stream = agreeing.await.map_err(within("the TLS handshake"))?.map_err(|e| self.unreachable(&e))?;
        self.exchange(TokioIo::new(stream), request).await
    }

    /// The addresses to connect to. A name is resolved once; what it resolved to is checked, and connected to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Status> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(|e| self.unreachable(&e))?;
        let found: Vec<SocketAddr> = found.collect();
        // As upstream's `IsProxyableHostname`: all addresses must be allowed.
        if !self.allow_any_address && !found.iter().all(|address| is_global_unicast(address.ip())) {
            return Err(Status::bad_request(format!("{} can't be reached: address not allowed", self.description)));
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
        let text = format!(
            "{} can't be reached at {}: {why}",
            self.description,
            apimachinery::authority(&self.host, self.port)
        );
        Status::new(502, "BadGateway", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_do_not_reach_loopback_or_link_local_addresses() {
        let target = |host: &str, allow_any_address| Destination {
            description: "pod p".into(),
            host: host.into(),
            port: 80,
            tls: None,
            allow_any_address,
        };
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
