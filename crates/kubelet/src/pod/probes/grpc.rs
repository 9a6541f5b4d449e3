//! gRPC probes: `grpc.health.v1.Health/Check` (gRPC health checking protocol) over HTTP/2, with TLS where the
//! probe says so.

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::Target;
use super::http::tls;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING` of `ServingStatus`.
const SERVING: i32 = 1;
/// The largest answer that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.encoded_len() as u32);
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

/// Why a server isn't well; in upstream's words, as far as those are in events.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum HealthError {
    /// The port is none of 0 to 65535.
    #[error(transparent)]
    Port(#[from] std::num::TryFromIntError),
    /// Nothing listens there: address and port, and why.
    #[error("dial tcp {0}: {1}")]
    Dial(String, String),
    /// The exchange failed: with whom, and why.
    #[error("gRPC to {0}: {1}")]
    Exchange(String, String),
    /// TLS can't be spoken at all.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// It hasn't the health service.
    #[error("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)")]
    Unimplemented,
    /// The call failed with this status code of gRPC and message.
    #[error("error: health rpc failed: code {0}: {1}")]
    Rpc(String, String),
    /// It answers that it doesn't serve: a `ServingStatus`.
    #[error("service unhealthy (responded with {0:?})")]
    Unhealthy(&'static str),
    /// It answers something else than a `HealthCheckResponse`.
    #[error("error: the answer is malformed")]
    Malformed,
}

/// Asks a server for its health.
///
/// # Errors
/// When it doesn't serve, or doesn't answer.
pub async fn check(target: &Target, action: &GRPCAction) -> Result<(), HealthError> {
    let port = u16::try_from(action.port)?;
    let (address, place) = ((target.ip, port), apimachinery::authority(target.ip, port));
    let stream = TcpStream::connect(address).await.map_err(|e| HealthError::Dial(place.clone(), e.to_string()))?;
    let fail = |e: &dyn std::fmt::Display| HealthError::Exchange(place.clone(), e.to_string());
    let request = HealthCheckRequest { service: action.service.clone().unwrap_or_default() };
    let request = ::http::Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(framed(&request)))
        .map_err(|e| fail(&e))?;
    let response = if action.mode.as_deref() == Some("TLS") {
        let name = ServerName::IpAddress(target.ip.into());
        let stream = tls(&[b"h2"])?.connect(name, stream).await.map_err(|e| fail(&e))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    };
    let response = response.map_err(|e| fail(&e))?;
    let head = response.headers().clone();
    let (body, trailers) =
        bounded::body_with_trailers(response.into_body(), MAX_RESPONSE_BYTES).await.map_err(|e| fail(&e))?;
    let said = |name: &str| {
        let value = trailers.get(name).or_else(|| head.get(name));
        value.and_then(|v| v.to_str().ok()).unwrap_or("").to_string()
    };
    verdict(&said("grpc-status"), &said("grpc-message"), &body)
}

/// The connection ends with the response's body.
async fn exchange<S>(
    stream: S,
    request: ::http::Request<Full<Bytes>>,
) -> Result<::http::Response<Incoming>, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tasks::spawn("probe-connection", connection);
    sender.send_request(request).await
}

fn verdict(status: &str, message: &str, body: &[u8]) -> Result<(), HealthError> {
    match status {
        "0" => {}
        "12" => return Err(HealthError::Unimplemented),
        other => return Err(HealthError::Rpc(other.into(), message.into())),
    }
    let response = body.get(PREFIX..).and_then(|message| HealthCheckResponse::decode(message).ok());
    match response.map(|r| r.status) {
        Some(SERVING) => Ok(()),
        Some(status) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(status as usize).unwrap_or(&"?");
            Err(HealthError::Unhealthy(name))
        }
        None => Err(HealthError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let body = |status| framed(&HealthCheckResponse { status });
        assert_eq!(verdict("0", "", &body(1)), Ok(()));
        assert!(verdict("0", "", &body(2)).unwrap_err().to_string().contains("NOT_SERVING"));
        assert!(verdict("0", "", &body(77)).unwrap_err().to_string().contains('?'));
        assert!(verdict("12", "", b"").unwrap_err().to_string().contains("does not implement"));
        assert!(verdict("5", "unknown service", b"").unwrap_err().to_string().contains("unknown service"));
        assert!(verdict("0", "", b"\x00\x00").unwrap_err().to_string().contains("malformed"));
        assert!(verdict("", "", b"").is_err());
        let service = HealthCheckRequest { service: "db".into() };
        assert_eq!(framed(&service).as_ref(), b"\x00\x00\x00\x00\x04\x0a\x02db");
    }
}
