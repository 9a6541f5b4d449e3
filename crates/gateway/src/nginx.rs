//! Annotations of ingress-nginx (`nginx.ingress.kubernetes.io/…`) as values. The controller says in events which of an Ingress' annotations
//! aren't served or are wrong, and every node's ingress serves the others, by the same function.
//!
//! Source: <https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/>.

mod cors;
mod read;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

pub use cors::{Cors, Origin};
pub use read::read;

/// What their names begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// The annotations of an Ingress that are served.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    /// `rewrite-target`: the path for the backend, with groups (`$2`) of the matched expression.
    pub rewrite_target: Option<String>,
    /// `use-regex`: paths of no exact type are regular expressions.
    pub use_regex: bool,
    /// `ssl-redirect`: whether hosts with TLS redirect requests without it; on if it isn't set.
    pub ssl_redirect: bool,
    /// `force-ssl-redirect`: whether all hosts do.
    pub force_ssl_redirect: bool,
    /// `permanent-redirect` and `temporal-redirect`: where clients are redirected to, whatever they ask.
    pub redirect: Option<(StatusCode, String)>,
    /// `app-root`: the path that requests of `/` are redirected to.
    pub app_root: Option<String>,
    /// `proxy-body-size`: the limit of a request's body, in bytes; none is no limit.
    pub max_body_bytes: Option<u64>,
    /// `proxy-read-timeout`: how long an endpoint may take until its response begins.
    pub read_timeout: Option<Duration>,
    /// `backend-protocol`.
    pub backend_protocol: Option<BackendProtocol>,
    /// `upstream-vhost`: the `Host` header for the backend.
    pub upstream_host: Option<String>,
    /// `x-forwarded-prefix`: that header for the backend.
    pub forwarded_prefix: Option<HeaderValue>,
    /// `enable-access-log`.
    pub access_log: bool,
    /// `allowlist-source-range` (formerly `whitelist-source-range`): clients of other addresses are refused, unless it is empty.
    pub allowed_sources: Vec<IpNet>,
    /// `denylist-source-range`: clients of these addresses are refused.
    pub denied_sources: Vec<IpNet>,
    /// `enable-cors` and `cors-…`.
    pub cors: Option<Cors>,
    /// `canary` and `canary-…`: the Ingress takes a share of another one's requests.
    pub canary: Option<Canary>,
    /// Why all requests are refused: an annotation that restricts who may come in isn't served, or is wrong.
    pub refused: Option<String>,
}

/// The protocol that a backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 with TLS.
    Https,
    /// HTTP/2.
    Grpc,
    /// HTTP/2 with TLS.
    Grpcs,
}

/// Which requests a canary takes: the header decides first, then the cookie, then chance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canary {
    /// `canary-by-header`, and what its value must be.
    pub header: Option<(HeaderName, CanaryValue)>,
    /// `canary-by-cookie`: `always` and `never` decide.
    pub cookie: Option<String>,
    /// `canary-weight` of `canary-weight-total`.
    pub weight: u32,
    /// At least 1.
    pub total: u32,
}

/// Which values of a header lead to a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CanaryValue {
    /// `always` does and `never` doesn't; others leave it to the cookie and the weight.
    Always,
    /// `canary-by-header-value`.
    Exact(String),
    /// `canary-by-header-pattern`, a regular expression.
    Pattern(String),
}

/// An annotation that isn't served as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its value is wrong: what is wrong, and what would be right.
    Invalid {
        /// The whole name.
        annotation: String,
        /// For people.
        why: String,
    },
    /// It isn't known, or not served here: what happens instead.
    NotServed {
        /// The whole name.
        annotation: String,
        /// For people.
        instead: String,
    },
}

impl Fault {
    /// The reason of an event.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Invalid { .. } => "InvalidAnnotation",
            Fault::NotServed { .. } => "AnnotationNotServed",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Invalid { annotation, why } => write!(to, "annotation {annotation}: {why}"),
            Fault::NotServed { annotation, instead } => write!(to, "annotation {annotation} isn't served: {instead}"),
        }
    }
}
