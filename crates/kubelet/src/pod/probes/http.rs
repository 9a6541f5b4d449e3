//! HTTP and HTTPS probes and hooks. As upstream's, they don't verify the server's certificate: it is the pod's own.

use std::sync::Arc;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Health, Hook, HookError, PortError, ProbeError, Target, host, port};

/// The most of an answer that is read, in bytes, and the most of it that an event tells.
const MAX_RESPONSE_BYTES: usize = 10 << 10;
const MAX_TOLD_CHARS: usize = 512;

/// The most requests that are made where each answer leads to another place, as upstream (Go's HTTP client) does.
const MAX_REQUESTS: usize = 10;

/// Why a request came to nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// The server isn't there, or doesn't answer, or not in this protocol.
    #[error("{0}")]
    Failed(String),
    /// The same, as a server that should speak TLS doesn't.
    #[error("{0}")]
    NotTls(String),
    /// There is no such request.
    #[error("{0}")]
    Unusable(String),
}

/// Probes: an answer of 200 to 399 is a success. An answer that leads to another place of the same host is followed; another host is none of the
/// probe's, and what is there isn't looked at (upstream's `RedirectChecker`).
///
/// # Errors
/// `Failed` for another status and for a server that doesn't answer, `Errored` for a request that can't be made or an answer that breaks off.
pub async fn probe(target: &Target, get: &HTTPGetAction) -> Result<Health, ProbeError> {
    let request = HttpRequest::of(target, get, "kube-probe/1.37")?;
    let answer = request.follow().await.map_err(|error| match error {
        GetError::Failed(why) | GetError::NotTls(why) => ProbeError::Failed(why),
        GetError::Unusable(why) => ProbeError::Errored(why),
    })?;
    match (answer.status, answer.body) {
        (200..300, Ok(_)) => Ok(Health::Well),
        (300..400, Ok(body)) => {
            let body: String = String::from_utf8_lossy(&body).chars().take(MAX_TOLD_CHARS).collect();
            Ok(Health::Warning(format!("Probe terminated redirects, Response body: {body}")))
        }
        (status, Ok(_)) => Err(ProbeError::Failed(format!("HTTP probe failed with statuscode: {status}"))),
        (_, Err(error)) => Err(ProbeError::Errored(error.to_string())),
    }
}

/// Runs a lifecycle hook: an answer is a success, whatever it says. A server that should speak TLS and doesn't is asked once more without, and
/// without credentials (upstream's `runHTTPHandler`).
///
/// # Errors
/// There is no such port, or the server doesn't answer, also without TLS.
pub async fn hook(target: &Target, get: &HTTPGetAction) -> Result<Hook, HookError> {
    let mut request = HttpRequest::of(target, get, "kube-lifecycle/1.37")?;
    match request.clone().follow().await {
        Ok(_) => Ok(Hook::Done),
        Err(GetError::NotTls(_)) => {
            request.scheme = "http";
            request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Authorization"));
            let place = apimachinery::authority(&request.host, request.port);
            request.follow().await?;
            Ok(Hook::FellBack(place))
        }
        Err(error) => Err(error.into()),
    }
}

/// An answer: its status, where it leads to, and what it says.
struct Answer {
    status: u16,
    location: Option<String>,
    body: Result<bytes::Bytes, bounded::BodyError>,
}

/// One request, of what its spec says and of where answers have led to.
#[derive(Debug, Clone)]
struct HttpRequest {
    scheme: &'static str,
    host: String,
    port: u16,
    path: String,
    /// The header `Host`, where it isn't that of the address.
    virtual_host: Option<String>,
    headers: Vec<(String, String)>,
}

impl HttpRequest {
    fn of(target: &Target, get: &HTTPGetAction, agent: &str) -> Result<Self, PortError> {
        let (host, port) = (host(target, get.host.as_deref()), port(target, &get.port)?);
        let own = get.http_headers.iter().flatten();
        let mut headers: Vec<_> = own.map(|header| (header.name.clone(), header.value.clone())).collect();
        let is = |name: &'static str| move |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        let virtual_host = headers.iter().find(is("Host")).map(|(_, value)| value.clone());
        for (name, value) in [("User-Agent", agent), ("Accept", "*/*")] {
            if !headers.iter().any(|header| is(name)(&header)) {
                headers.push((name.into(), value.into()));
            }
        }
        // One that a spec has empty isn't sent.
        let dropped = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("Host")
                || (value.is_empty() && ["User-Agent", "Accept"].iter().any(|of| name.eq_ignore_ascii_case(of)))
        };
        headers.retain(|header| !dropped(header));
        Ok(HttpRequest {
            scheme: if get.scheme.as_deref() == Some("HTTPS") { "https" } else { "http" },
            host,
            port,
            path: request_target(get.path.as_deref().unwrap_or("/")),
            virtual_host: virtual_host.filter(|host| !host.is_empty()),
            headers,
        })
    }

    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, apimachinery::authority(&self.host, self.port), self.path)
    }

    /// Asks, and follows where the same host leads to.
    async fn follow(mut self) -> Result<Answer, GetError> {
        for _ in 0..MAX_REQUESTS {
            let answer = self.ask().await?;
            let location = match (answer.status, &answer.location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => location.clone(),
                _ => return Ok(answer),
            };
            match self.redirected(&location)? {
                Some(next) => self = next,
                None => return Ok(answer),
            }
        }
        Err(GetError::Failed(format!("Get \"{}\": stopped after {MAX_REQUESTS} redirects", self.url())))
    }

    /// The request that `Location` leads to, if it is to the same host: by another port or scheme, too. A place of the same server keeps the name by
    /// which that was asked.
    fn redirected(&self, location: &str) -> Result<Option<Self>, GetError> {
        let unusable = |why: &str| GetError::Failed(format!("Get \"{}\": Location {location:?}: {why}", self.url()));
        let base = url::Url::parse(&self.url()).map_err(|e| unusable(&e.to_string()))?;
        let next = base.join(location).map_err(|e| unusable(&e.to_string()))?;
        if next.host_str() != base.host_str() {
            return Ok(None);
        }
        let scheme = match next.scheme() {
            "http" => "http",
            "https" => "https",
            other => return Err(unusable(&format!("unsupported protocol scheme {other:?}"))),
        };
        let is_absolute = url::Url::parse(location).is_ok() || location.starts_with("//");
        let path = next.query().map_or_else(|| next.path().into(), |query| format!("{}?{query}", next.path()));
        Ok(Some(HttpRequest {
            scheme,
            port: next.port_or_known_default().unwrap_or(self.port),
            path: request_target(&path),
            virtual_host: self.virtual_host.clone().filter(|_| !is_absolute),
            ..self.clone()
        }))
    }

    /// One request.
    async fn ask(&self) -> Result<Answer, GetError> {
        let HttpRequest { host, port, .. } = self;
        let authority = apimachinery::authority(host, *port);
        let text = |e: &dyn std::fmt::Display| format!("Get \"{}\": {e}", self.url());
        let fail = |e: &dyn std::fmt::Display| GetError::Failed(text(e));
        let connected = TcpStream::connect((host.as_str(), *port)).await;
        let stream = connected.map_err(|e| fail(&format!("dial tcp {authority}: {e}")))?;
        let mut request = http::Request::builder().uri(&self.path).header("Connection", "close");
        request = request.header("Host", self.virtual_host.as_deref().unwrap_or(&authority));
        for (name, value) in &self.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| GetError::Unusable(text(&e)))?;
        if self.scheme == "http" {
            return exchange(stream, request).await.map_err(|e| fail(&e));
        }
        let name = ServerName::try_from(host.clone()).map_err(|e| GetError::Unusable(text(&e)))?;
        let connector = tls(&[]).map_err(|e| GetError::Unusable(e.to_string()))?;
        let stream = connector.connect(name, stream).await.map_err(|e| match is_no_tls(&e) {
            true => GetError::NotTls(text(&"http: server gave HTTP response to HTTPS client")),
            false => fail(&e),
        })?;
        exchange(stream, request).await.map_err(|e| fail(&e))
    }
}

/// Whether a server answered in something else than TLS.
fn is_no_tls(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
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

/// A connector that trusts every certificate, and offers the protocols `alpn`.
///
/// # Errors
/// None that the linked cryptography (ring) is known to have: it knows the default versions.
pub fn tls(alpn: &[&[u8]]) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let anybody =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::InsecureSkipVerify::new(provider)));
    let mut config = anybody.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: S, request: http::Request<Empty<bytes::Bytes>>) -> Result<Answer, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let task = tasks::spawn("probe-connection", connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.map(String::from);
    let body = match bounded::body(response.into_body(), MAX_RESPONSE_BYTES).await {
        Ok(body) => Ok(body),
        // What is more isn't read.
        Err(bounded::BodyError::TooLarge(_)) => Ok(bytes::Bytes::new()),
        Err(error) => Err(error),
    };
    task.abort();
    Ok(Answer { status, location, body })
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

    fn asked(action: serde_json::Value) -> HttpRequest {
        let container = serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let target = Target {
            id: String::new(),
            ip: "10.0.0.1".parse().unwrap(),
            container: serde_json::from_value(container).unwrap(),
            started: tokio::time::Instant::now(),
        };
        HttpRequest::of(&target, &serde_json::from_value(action).unwrap(), "kube-probe/1.37").unwrap()
    }

    #[tokio::test]
    async fn redirections_are_followed_on_the_same_host_alone() {
        let get = serde_json::json!({"port": "web", "path": "/a/b", "httpHeaders": [{"name": "Host", "value": "shop.example"}]});
        let asked = asked(get);
        let next = |location: &str| {
            let next = asked.redirected(location).unwrap()?;
            Some(format!("{} {}", next.url(), next.virtual_host.unwrap_or_default()))
        };
        for (location, want) in [
            ("/login", "http://10.0.0.1:8080/login shop.example"),
            ("login?x=1", "http://10.0.0.1:8080/a/login?x=1 shop.example"),
            ("http://10.0.0.1:9090/a?b=c", "http://10.0.0.1:9090/a?b=c "),
            // Another port and scheme of the host are the host's.
            ("https://10.0.0.1/", "https://10.0.0.1:443/ "),
        ] {
            assert_eq!(next(location).as_deref(), Some(want), "{location}");
        }
        for location in ["https://elsewhere.example/a", "//elsewhere.example/a", "http://shop.example/"] {
            assert_eq!(next(location), None, "{location}");
        }
        assert!(asked.redirected("ftp://10.0.0.1/").is_err());
    }

    #[tokio::test]
    async fn headers_are_those_of_the_probe() {
        let sent = |headers: serde_json::Value| {
            let request = asked(serde_json::json!({"port": 80, "httpHeaders": headers}));
            let headers = request.headers.iter().map(|(name, value)| format!("{name}: {value}"));
            headers.chain(request.virtual_host.map(|host| format!("host {host}"))).collect::<Vec<_>>()
        };
        let header = |name: &str, value: &str| serde_json::json!({"name": name, "value": value});
        for (headers, wanted) in [
            (serde_json::json!([]), &["User-Agent: kube-probe/1.37", "Accept: */*"][..]),
            (
                serde_json::json!([
                    header("user-agent", "x"),
                    header("Accept", "text/html"),
                    header("host", "h.example")
                ]),
                &["user-agent: x", "Accept: text/html", "host h.example"],
            ),
            (serde_json::json!([header("User-Agent", ""), header("accept", ""), header("Host", "")]), &[]),
            (
                serde_json::json!([header("X", "1"), header("X", "2")]),
                &["X: 1", "X: 2", "User-Agent: kube-probe/1.37", "Accept: */*"],
            ),
        ] {
            assert_eq!(sent(headers.clone()), wanted, "{headers}");
        }
    }
}
