//! Relays logs, exec, attach and port-forward between a client and the kubelet of a pod's node.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{ObjectExt as _, Status};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::request::Info;
use crate::response::{self, Body};
use crate::{ApiServer, Config};

pub struct Relay {
    connector: TlsConnector,
}

impl Relay {
    pub fn new(config: &Config) -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(config.authority.certificate_pem().as_bytes()).map_err(|e| text(&e))?;
        roots.add(ca).map_err(|e| text(&e))?;
        let identity = &config.kubelet_client;
        let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).map_err(|e| text(&e))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| text(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| text(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|e| text(&e))?;
        Ok(Relay { connector: TlsConnector::from(Arc::new(tls)) })
    }

    /// Answers a stream subresource of a pod.
    pub async fn pod(&self, server: &ApiServer, info: &Info, request: Request<Body>) -> Result<Response<Body>, Status> {
        let pod = server.cache.named("pods").get(&info.key()).ok_or_else(|| info.not_found())?.parse();
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.path.name)));
        }
        let (address, port) = kubelet_address(server, node)?;
        let uri = kubelet_uri(info, &pod, request.uri())?;
        self.forward(address, port, node, uri, request).await
    }

    async fn forward(
        &self,
        address: IpAddr,
        port: u16,
        node: &str,
        uri: Uri,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let unreachable = |e: &dyn std::fmt::Display| {
            Status::new(
                502,
                "BadGateway",
                format!("the kubelet of node {node} can't be reached at {address}:{port}: {e}"),
            )
        };
        let stream = TcpStream::connect((address, port)).await.map_err(|e| unreachable(&e))?;
        let _ = stream.set_nodelay(true);
        let stream = self.connector.connect(ServerName::from(address), stream).await.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
        tokio::spawn(connection.with_upgrades());
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
        let mut onward = Request::builder().method(request.method()).uri(uri);
        for (name, value) in request.headers() {
            // Credentials stay here; the kubelet knows this server by its certificate.
            let own = name == header::AUTHORIZATION || name == header::HOST || name.as_str().starts_with("impersonate");
            if !own {
                onward = onward.header(name, value);
            }
        }
        let onward = onward.header(header::HOST, format!("{address}:{port}")).body(request.into_body());
        let mut answer =
            sender.send_request(onward.map_err(|e| unreachable(&e))?).await.map_err(|e| unreachable(&e))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer.map(response::boxed));
        }
        let Some(client_side) = client_side else {
            return Err(Status::internal("the kubelet changed protocols unasked"));
        };
        let kubelet_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            match tokio::try_join!(client_side, kubelet_side) {
                Ok((client, kubelet)) => {
                    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut kubelet).await;
                }
                Err(error) => tracing::debug!(%error, "a stream could not be upgraded"),
            }
        });
        Ok(answer.map(|_| response::full(Bytes::new())))
    }
}

fn kubelet_address(server: &ApiServer, name: &str) -> Result<(IpAddr, u16), Status> {
    let node = server.cache.named("nodes").get(name).ok_or_else(|| Status::not_found("", "nodes", name))?.parse();
    let addresses = node.array_at(&["status", "addresses"]);
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP").map(|a| a.str_at(&["address"]));
    let address = internal
        .and_then(|a| a.parse().ok())
        .ok_or_else(|| Status::internal(format!("node {name} has no address in its status")))?;
    let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(10250);
    Ok((address, u16::try_from(port).unwrap_or(10250)))
}

/// The path on the kubelet: `/containerLogs/NS/POD/CONTAINER`, `/exec/…`, `/attach/…`, `/portForward/NS/POD`.
fn kubelet_uri(info: &Info, pod: &Value, uri: &Uri) -> Result<Uri, Status> {
    let verb = match info.path.subresource.as_str() {
        "log" => "containerLogs",
        "exec" => "exec",
        "attach" => "attach",
        "portforward" => "portForward",
        other => {
            let text = format!("pods/{other} isn't served by this version of timonel");
            return Err(Status::new(501, "NotImplemented", text));
        }
    };
    let mut path = format!("/{verb}/{}/{}", info.path.namespace, info.path.name);
    if verb != "portForward" {
        path = format!("{path}/{}", container(info, pod)?);
    }
    if let Some(query) = uri.query() {
        path = format!("{path}?{query}");
    }
    path.parse().map_err(|_| Status::bad_request("the query is malformed"))
}

fn container(info: &Info, pod: &Value) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        pod.array_at(&["spec", list]).iter().map(|c| c.str_at(&["name"]).to_string()).collect()
    };
    let wanted = info.query.get("container");
    let (plain, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !wanted.is_empty() {
        let known = plain.iter().chain(&init).chain(&ephemeral).any(|n| n == wanted);
        if known {
            return Ok(wanted.into());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", info.path.name)));
    }
    match plain.as_slice() {
        [only] => Ok(only.clone()),
        many => {
            let default = pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
            if many.iter().any(|n| n == default) {
                return Ok(default.into());
            }
            let init = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]{init}",
                info.path.name,
                many.join(" ")
            )))
        }
    }
}
