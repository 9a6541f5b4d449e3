//! HTTP and HTTPS probes. As upstream's, they don't verify the server's certificate: it is the pod's own.

use std::sync::Arc;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Target, host, port};

/// The most of an answer that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 10 << 10;

/// The most redirections that are followed, as upstream (Go's HTTP client) does.
const MAX_REDIRECTS: usize = 10;

/// Asks, and follows where the same host redirects to; another host is none of the probe's, and as good as an answer.
pub async fn get(target: &Target, get: &HTTPGetAction) -> Result<(), String> {
    let (host, port) = (host(target, get.host.as_deref()), port(target, &get.port)?);
    let mut path = request_target(get.path.as_deref().unwrap_or("/"));
    for _ in 0..=MAX_REDIRECTS {
        match ask(get, &host, port, &path).await? {
            (300..400, Some(location)) => match redirected(&location, &host) {
                Some(next) => path = next,
                None => return Ok(()),
            },
            (200..400, _) => return Ok(()),
            (status, _) => return Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// One request: the status of the answer, and where it leads to.
async fn ask(get: &HTTPGetAction, host: &str, port: u16, path: &str) -> Result<(u16, Option<String>), String> {
    let secure = get.scheme.as_deref() == Some("HTTPS");
    let scheme = if secure { "https" } else { "http" };
    let authority = apimachinery::authority(host, port);
    let fail = |e: &dyn std::fmt::Display| format!("Get \"{scheme}://{authority}{path}\": {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(|e| fail(&format!("dial tcp {authority}: {e}")))?;
    let given = |name: &str| get.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name));
    let mut request = http::Request::builder().uri(path).header("Connection", "close");
    for (name, value) in [("User-Agent", "kube-probe/1.37"), ("Accept", "*/*"), ("Host", authority.as_str())] {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for header in get.http_headers.iter().flatten() {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| fail(&e))?;
    let answer = if secure {
        let name = ServerName::try_from(host.to_string()).map_err(|e| fail(&e))?;
        let stream = tls(&[])?.connect(name, stream).await.map_err(|e| fail(&e))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    };
    answer.map_err(|e| fail(&e))
}

/// A path as it stands in a request: it begins with a slash and is escaped, and what is escaped already stays as it is. A query goes with it,
/// a fragment doesn't. What has a `%` that begins no escape is no URL: all of it is a name, as upstream (`url.Parse`) has it.
fn request_target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or("");
    let is_url = path
        .split('%')
        .skip(1)
        .all(|after| after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    let mut target = String::from(if path.starts_with('/') { "" } else { "/" });
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
        match byte {
            _ if plain || (is_url && b"%?".contains(&byte)) => target.push(char::from(byte)),
            _ => target.push_str(&format!("%{byte:02X}")),
        }
    }
    target
}

/// The path that `Location` leads to, if it is of the same host.
fn redirected(location: &str, host: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(request_target(location));
    }
    let uri: http::Uri = location.parse().ok()?;
    let same = uri.host().is_some_and(|of| of.trim_matches(['[', ']']).eq_ignore_ascii_case(host));
    same.then(|| uri.path_and_query().map_or_else(|| "/".to_string(), |path| request_target(path.as_str())))
}

/// A connector that trusts every certificate, and offers the protocols `alpn`.
pub fn tls(alpn: &[&[u8]]) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let anybody =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::InsecureSkipVerify::new(provider)));
    let mut config = anybody.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<bytes::Bytes>>,
) -> Result<(u16, Option<String>), hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let task = tasks::spawn("probe-connection", connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.map(String::from);
    let _ = bounded::body(response.into_body(), MAX_RESPONSE_BYTES).await;
    task.abort();
    Ok((status, location))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_what_upstream_asks_for() {
        for (path, want) in [
            ("", "/"),
            ("/", "/"),
            ("healthz", "/healthz"),
            ("/a b?x=1&y=2", "/a%20b?x=1&y=2"),
            ("/a%20b#part", "/a%20b"),
            ("/100%?x", "/100%25%3Fx"),
            ("/\u{e9}\r\nX: y", "/%C3%A9%0D%0AX:%20y"),
        ] {
            assert_eq!(request_target(path), want, "{path:?}");
        }
    }

    #[test]
    fn redirections_are_followed_on_the_same_host_alone() {
        let next = |location: &str| redirected(location, "10.0.0.1");
        assert_eq!(next("/login").as_deref(), Some("/login"));
        assert_eq!(next("http://10.0.0.1:8080/a?b=c").as_deref(), Some("/a?b=c"));
        assert_eq!(next("https://elsewhere.example/a"), None);
        assert_eq!(next("//elsewhere.example/a"), None);
    }
}
