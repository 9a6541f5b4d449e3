//! Texts of annotations into values.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::{Annotations, BackendProtocol, Canary, CanaryValue, Cors, Fault, Origin, PREFIX};

/// Items of a list that count.
const MAX_ITEMS: usize = 1000;
/// A longer text isn't served: each path of an Ingress may have a copy.
const MAX_TEXT_BYTES: usize = 1 << 10;
/// What an event shows of a value.
const MAX_SHOWN_CHARS: usize = 100;
/// The longest timeout, in seconds.
const MAX_SECONDS: u64 = 24 * 60 * 60;

/// Those that tune nginx's own buffers, or say what this ingress does anyway: bodies are streamed both ways, HTTP/1.1 is spoken to backends.
const WITHOUT_EFFECT: [&str; 11] = [
    "client-body-buffer-size",
    "connection-proxy-header",
    "proxy-buffer-size",
    "proxy-buffering",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-http-version",
    "proxy-max-temp-file-size",
    "proxy-request-buffering",
    "proxy-redirect-from",
    "proxy-redirect-to",
];

/// Those that restrict who may come in: where one isn't served, nobody may.
const RESTRICTIONS: [&str; 15] = [
    "auth-realm",
    "auth-secret",
    "auth-secret-type",
    "auth-signin",
    "auth-tls-match-cn",
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-type",
    "auth-url",
    "enable-global-auth",
    "enable-modsecurity",
    "enable-owasp-core-rules",
    "modsecurity-snippet",
    "satisfy",
];

/// Reads the annotations of an Ingress, and says which aren't served as they stand. Annotations of other prefixes are passed over.
pub fn read(all: &BTreeMap<String, String>) -> (Annotations, Vec<Fault>) {
    let own = all.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
    let mut reader = Reader { values: own.collect(), faults: Vec::new() };
    let mut found = Annotations { ssl_redirect: true, ..Annotations::default() };
    reader.paths(&mut found);
    reader.redirects(&mut found);
    reader.backend(&mut found);
    reader.sources(&mut found);
    found.cors = reader.cors();
    found.canary = reader.canary();
    reader.rest(&mut found);
    (found, reader.faults)
}

struct Reader<'a> {
    /// Those that weren't looked at yet, by the rest of their names.
    values: BTreeMap<&'a str, &'a str>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.values.remove(name)
    }

    fn invalid(&mut self, name: &str, why: impl Into<String>) {
        self.faults.push(Fault::Invalid { annotation: format!("{PREFIX}{name}"), why: why.into() });
    }

    /// The value that `parse` makes of an annotation; `wanted` says what its text must be.
    fn parsed<T>(&mut self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.take(name)?;
        let value = parse(text);
        if value.is_none() {
            let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
            self.invalid(name, format!("{shown:?} must be {wanted}; it is passed over"));
        }
        value
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        // As Go's strconv.ParseBool.
        self.parsed(name, "\"true\" or \"false\"", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let wanted = format!("no longer than {MAX_TEXT_BYTES} bytes");
        self.parsed(name, &wanted, |text| (text.len() <= MAX_TEXT_BYTES).then(|| text.to_string()))
    }

    fn header_value(&mut self, name: &str) -> Option<HeaderValue> {
        self.parsed(name, "what may stand in a header", |text| HeaderValue::from_str(text).ok())
    }

    fn absolute_path(&mut self, name: &str) -> Option<String> {
        self.parsed(name, "a path that begins with /", |text| {
            (text.starts_with('/') && text.len() <= MAX_TEXT_BYTES).then(|| text.to_string())
        })
    }

    fn paths(&mut self, found: &mut Annotations) {
        found.rewrite_target = self.text("rewrite-target");
        found.use_regex = self.flag("use-regex").unwrap_or(false);
        found.app_root = self.absolute_path("app-root");
        found.access_log = self.flag("enable-access-log").unwrap_or(false);
    }

    fn redirects(&mut self, found: &mut Annotations) {
        found.ssl_redirect = self.flag("ssl-redirect").unwrap_or(true);
        found.force_ssl_redirect = self.flag("force-ssl-redirect").unwrap_or(false);
        let kinds = [
            ("temporal-redirect", "temporal-redirect-code", StatusCode::FOUND),
            ("permanent-redirect", "permanent-redirect-code", StatusCode::MOVED_PERMANENTLY),
        ];
        for (name, code, usual) in kinds {
            let code = self.parsed(code, "a code from 300 to 308", redirect_code);
            let target = self.parsed(name, "a URL that begins with http:// or https://", url);
            // The temporary one decides, as there.
            found.redirect = found.redirect.take().or(target.map(|target| (code.unwrap_or(usual), target)));
        }
    }

    fn backend(&mut self, found: &mut Annotations) {
        found.max_body_bytes =
            self.parsed("proxy-body-size", "a number of bytes, with k, m or g after it; 0 is no limit", size).flatten();
        found.read_timeout = self.parsed("proxy-read-timeout", "a number of seconds", seconds);
        found.backend_protocol = self.parsed("backend-protocol", "HTTP, HTTPS, GRPC or GRPCS", protocol);
        found.upstream_host = self.parsed("upstream-vhost", "the name of a host", |text| {
            let is_host = text.len() <= MAX_TEXT_BYTES && text.parse::<http::uri::Authority>().is_ok();
            is_host.then(|| text.to_string())
        });
        found.forwarded_prefix = self.header_value("x-forwarded-prefix");
    }

    /// Ranges that can't be read let nobody in.
    fn sources(&mut self, found: &mut Annotations) {
        let names = ["allowlist-source-range", "whitelist-source-range", "denylist-source-range"];
        for name in names {
            let Some(text) = self.take(name) else { continue };
            let ranges: Option<Vec<IpNet>> = list(text).map(range).collect();
            match ranges {
                Some(ranges) if name.starts_with("deny") => found.denied_sources = ranges,
                // The newer name comes first, and decides.
                Some(ranges) if found.allowed_sources.is_empty() => found.allowed_sources = ranges,
                Some(_) => {}
                None => {
                    self.invalid(name, "it must be a list of addresses and CIDRs; requests get 503 until it is");
                    found.refused = Some(format!("the annotation {PREFIX}{name} is wrong"));
                }
            }
        }
    }

    fn cors(&mut self) -> Option<Cors> {
        let is_on = self.flag("enable-cors").unwrap_or(false);
        let origins = self.take("cors-allow-origin").unwrap_or("*");
        let mut known = Vec::new();
        for text in list(origins) {
            match origin(text) {
                Some(origin) => known.push(origin),
                None if text == "*" => {}
                None => self.invalid("cors-allow-origin", format!("{:?} must be *, or an origin as https://example.com or https://*.example.com; it is passed over", text.chars().take(MAX_SHOWN_CHARS).collect::<String>())),
            }
        }
        let is_any = list(origins).any(|text| text == "*");
        let cors = Cors {
            methods: self
                .header_value("cors-allow-methods")
                .unwrap_or(HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS")),
            headers: self.header_value("cors-allow-headers").unwrap_or(HeaderValue::from_static(
                "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
            )),
            exposed: self.header_value("cors-expose-headers"),
            credentials: self.flag("cors-allow-credentials").unwrap_or(true),
            max_age: self.parsed("cors-max-age", "a number of seconds", |text| text.parse().ok()).unwrap_or(1_728_000),
            origins: if is_any { Vec::new() } else { known },
        };
        // Where no origin could be read, none is allowed, which is the same as no sharing.
        (is_on && (is_any || !cors.origins.is_empty())).then_some(cors)
    }

    fn canary(&mut self) -> Option<Canary> {
        let is_on = self.flag("canary").unwrap_or(false);
        let number = |text: &str| text.parse::<u32>().ok();
        let total = self.parsed("canary-weight-total", "a number from 1 on", |text| number(text).filter(|n| *n > 0));
        let total = total.unwrap_or(100);
        let weight =
            self.parsed("canary-weight", "a number from 0 to the total weight, which is 100 if it isn't set", |text| {
                number(text).filter(|weight| *weight <= total)
            });
        let name = self.parsed("canary-by-header", "the name of a header", |text| text.parse::<HeaderName>().ok());
        let (exact, pattern) = (self.text("canary-by-header-value"), self.text("canary-by-header-pattern"));
        let value = match (exact, pattern) {
            (Some(exact), _) => CanaryValue::Exact(exact),
            (None, Some(pattern)) => CanaryValue::Pattern(pattern),
            (None, None) => CanaryValue::Always,
        };
        let cookie = self.text("canary-by-cookie");
        let header = name.map(|name| (name, value));
        is_on.then(|| Canary { header, cookie, weight: weight.unwrap_or(0), total })
    }

    /// What wasn't looked at isn't served.
    fn rest(&mut self, found: &mut Annotations) {
        for (name, _) in std::mem::take(&mut self.values) {
            if WITHOUT_EFFECT.contains(&name) {
                continue;
            }
            let annotation = format!("{PREFIX}{name}");
            let instead = if RESTRICTIONS.contains(&name) {
                found.refused = Some(format!("the annotation {annotation} isn't served here"));
                "it restricts who may come in, so requests get 503 until it is removed"
            } else {
                "it is passed over; docs/conformance.md lists what is served"
            };
            self.faults.push(Fault::NotServed { annotation, instead: instead.into() });
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).take(MAX_ITEMS)
}

fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// In small letters, with a scheme and without a path.
fn origin(text: &str) -> Option<Origin> {
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://")?;
    let is_scheme =
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let named = host.strip_prefix("*.").unwrap_or(host);
    let is_host = !named.is_empty() && named.parse::<http::uri::Authority>().is_ok() && !named.contains(['*', '@']);
    if !is_scheme || !is_host {
        return None;
    }
    Some(match host.strip_prefix('*') {
        Some(after) => Origin::Wildcard { before: format!("{scheme}://"), after: after.into() },
        None => Origin::Exact(text),
    })
}

fn redirect_code(text: &str) -> Option<StatusCode> {
    text.parse().ok().filter(|code| (300..=308).contains(code)).and_then(|code| StatusCode::from_u16(code).ok())
}

fn url(text: &str) -> Option<String> {
    let is_short = text.len() <= MAX_TEXT_BYTES;
    let is_url = is_short
        && (text.starts_with("http://") || text.starts_with("https://"))
        && HeaderValue::from_str(text).is_ok();
    is_url.then(|| text.to_string())
}

fn protocol(text: &str) -> Option<BackendProtocol> {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => Some(BackendProtocol::Http),
        "HTTPS" => Some(BackendProtocol::Https),
        "GRPC" => Some(BackendProtocol::Grpc),
        "GRPCS" => Some(BackendProtocol::Grpcs),
        _ => None,
    }
}

/// `60` or `60s`, as nginx reads times; 0 is none that can be served.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok();
    number.filter(|seconds| (1..=MAX_SECONDS).contains(seconds)).map(Duration::from_secs)
}

/// `8m`, `1g`, `512k` or bytes; 0 is no limit.
fn size(text: &str) -> Option<Option<u64>> {
    let text = text.to_ascii_lowercase();
    let (number, unit) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text.as_str(), ""),
    };
    let factor = match unit {
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => 1,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(factor)?;
    Some(Some(bytes).filter(|bytes| *bytes > 0))
}
