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

/// Asks a server for its health.
///
/// # Errors
/// When it doesn't serve, or doesn't answer.
pub async fn check(target: &Target, action: &GRPCAction) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|e| e.to_string())?;
    let (address, place) = ((target.ip, port), apimachinery::authority(target.ip, port));
    let stream = TcpStream::connect(address).await.map_err(|e| format!("dial tcp {place}: {e}"))?;
    let fail = |e: &dyn std::fmt::Display| format!("gRPC to {place}: {e}");
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

fn verdict(status: &str, message: &str, body: &[u8]) -> Result<(), String> {
    match status {
        "0" => {}
        "12" => {
            return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into());
        }
        other => return Err(format!("error: health rpc failed: code {other}: {message}")),
    }
    let response = body.get(PREFIX..).and_then(|message| HealthCheckResponse::decode(message).ok());
    match response.map(|r| r.status) {
        Some(SERVING) => Ok(()),
        Some(status) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(status as usize).unwrap_or(&"?");
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        None => Err("error: the answer is malformed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let body = |status| framed(&HealthCheckResponse { status });
        assert_eq!(verdict("0", "", &body(1)), Ok(()));
        assert!(verdict("0", "", &body(2)).unwrap_err().contains("NOT_SERVING"));
        assert!(verdict("0", "", &body(77)).unwrap_err().contains('?'));
        assert!(verdict("12", "", b"").unwrap_err().contains("does not implement"));
        assert!(verdict("5", "unknown service", b"").unwrap_err().contains("unknown service"));
        assert!(verdict("0", "", b"\x00\x00").unwrap_err().contains("malformed"));
        assert!(verdict("", "", b"").is_err());
        let service = HealthCheckRequest { service: "db".into() };
        assert_eq!(framed(&service).as_ref(), b"\x00\x00\x00\x00\x04\x0a\x02db");
    }
}
