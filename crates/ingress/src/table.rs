//! The routing table, made of Ingresses ([`crate::ingresses`]) and of Gateways ([`crate::gateways`]). Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::nginx::Cors;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::Regex;

/// Protocol of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    /// HTTP/2 without TLS.
    Grpc,
    /// HTTP/1.1 with TLS; the backend's certificate isn't verified, as by ingress-nginx's default.
    Https,
    /// HTTP/2 with TLS.
    Grpcs,
}

impl Protocol {
    pub fn is_secure(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Grpcs)
    }

    pub fn is_grpc(self) -> bool {
        matches!(self, Protocol::Grpc | Protocol::Grpcs)
    }
}

/// A service's port as the target of a route.
#[derive(Debug)]
pub struct Backend {
    /// For logs and responses: `namespace/service:port`.
    pub name: String,
    /// `address:port` of the ready endpoints.
    pub endpoints: Vec<Arc<str>>,
    pub protocol: Protocol,
    /// Its share of the requests, relative to the other backends of its rule.
    pub weight: u32,
    /// Why the reference is invalid, if it is.
    pub invalid: Option<String>,
    /// Header changes for this backend alone.
    pub request: HeaderChanges,
    pub response: HeaderChanges,
}

/// Changes of headers: set, then added, then removed.
#[derive(Debug, Clone, Default)]
pub struct HeaderChanges {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A rewrite of a request's path.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    Full(String),
    /// Replaces the matched prefix.
    Prefix(String),
    /// A template with groups of the matched regular expression (`/$2`).
    RegexGroups(String),
}

/// A redirect of the client. Fields without a value stay as in the request.
#[derive(Debug, Clone)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// The whole target, in place of all fields above.
    pub url: Option<String>,
    pub code: StatusCode,
    /// Requests that came by TLS aren't redirected.
    pub only_http: bool,
}

/// Which requests a rule is for.
#[derive(Debug, Clone)]
pub struct RequestMatch {
    pub path: PathMatch,
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, StringMatch)>,
    pub query: Vec<(String, StringMatch)>,
}

#[derive(Debug, Clone)]
pub enum PathMatch {
    Exact(String),
    /// Matches whole path elements: `/a` matches `/a/b`, not `/ab`. Without a trailing slash.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug, Clone)]
pub enum StringMatch {
    Exact(String),
    Regex(Regex),
}

impl StringMatch {
    fn matches(&self, text: &str) -> bool {
        match self {
            StringMatch::Exact(exact) => exact == text,
            StringMatch::Regex(expression) => expression.is_match(text),
        }
    }
}

/// Backends of a rule, and how requests are changed.
#[derive(Debug, Default)]
pub struct RouteAction {
    pub redirect: Option<Redirect>,
    pub backends: Vec<Backend>,
    /// Rewrite of the path.
    pub path: Option<PathRewrite>,
    /// Rewrite of the `Host` header.
    pub host: Option<String>,
    pub request: HeaderChanges,
    pub response: HeaderChanges,
    /// Limit of a request's body, in bytes.
    pub max_body_bytes: Option<u64>,
    /// Timeout of all attempts until the response begins; the next field has that of one attempt.
    pub timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    /// Whether requests are logged.
    pub log: bool,
    /// Who may come in.
    pub access: Arc<Access>,
    pub cors: Option<Arc<Cors>>,
    pub canary: Option<Canary>,
}

/// Which clients are served.
#[derive(Debug, Default)]
pub struct Access {
    /// Addresses that are; all if it is empty.
    pub allowed: Vec<IpNet>,
    /// Addresses that aren't.
    pub denied: Vec<IpNet>,
    /// Why nobody is.
    pub refused: Option<String>,
}

impl Access {
    pub fn allows(&self, client: IpAddr) -> bool {
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&client));
        !is_in(&self.denied) && (self.allowed.is_empty() || is_in(&self.allowed))
    }
}

/// A backend that takes a share of the requests.
#[derive(Debug)]
pub struct Canary {
    pub header: Option<(HeaderName, CanaryHeader)>,
    /// Name of a cookie whose value is `always` or `never`.
    pub cookie: Option<String>,
    /// Its share of the requests that neither decides, of `total`.
    pub weight: u32,
    pub total: u32,
    pub backend: Backend,
}

#[derive(Debug)]
pub enum CanaryHeader {
    /// `always` and `never` decide.
    Always,
    Value(StringMatch),
}

impl Canary {
    /// Whether a request is for the canary; `chance` is a number below `total`.
    pub fn takes(&self, request: &HeaderMap, chance: u32) -> bool {
        let by_header = self.header.as_ref().and_then(|(name, wanted)| {
            let value = request.get(name)?.to_str().ok()?;
            match wanted {
                CanaryHeader::Always => decision(value),
                CanaryHeader::Value(wanted) => wanted.matches(value).then_some(true),
            }
        });
        let by_cookie = || decision(cookie(request, self.cookie.as_deref()?)?);
        by_header.or_else(by_cookie).unwrap_or(chance < self.weight)
    }
}

fn decision(value: &str) -> Option<bool> {
    match value {
        "always" => Some(true),
        "never" => Some(false),
        _ => None,
    }
}

/// The value of a cookie (RFC 6265, section 4.2).
fn cookie<'a>(request: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = request.get_all(http::header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[derive(Debug)]
pub struct Rule {
    pub matcher: RequestMatch,
    pub action: Arc<RouteAction>,
}

/// The rules of a port, by host.
#[derive(Debug, Default)]
pub struct VirtualHosts {
    /// By host; `*.example.com` matches one more label, `**.example.com` any number of them, the empty name all other hosts.
    rules: HashMap<String, Vec<Arc<Rule>>>,
    /// Where requests go that no rule matches.
    pub default: Option<Arc<RouteAction>>,
}

/// The routing table: rules by port.
#[derive(Debug, Default)]
pub struct Table {
    /// By their numbers.
    pub ports: BTreeMap<u16, Port>,
}

#[derive(Debug, Default)]
pub struct Port {
    pub secure: bool,
    pub hosts: VirtualHosts,
}

/// The result of routing a request.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    pub action: Arc<RouteAction>,
    rule: Option<Arc<Rule>>,
}

impl VirtualHosts {
    /// Adds a rule for a host.
    pub fn add(&mut self, host: &str, rule: Rule) {
        self.rules.entry(host.to_ascii_lowercase()).or_default().push(Arc::new(rule));
    }

    /// Adds a host without rules, so that wildcard hosts don't match it.
    pub fn add_host(&mut self, host: &str) {
        self.rules.entry(host.to_ascii_lowercase()).or_default();
    }

    /// The number of all rules.
    #[cfg(test)]
    pub fn rule_count(&self) -> usize {
        self.rules.values().map(Vec::len).sum()
    }

    /// Brings rules into the order in which they are tried: exact paths first, longer ones before shorter, those that ask more before
    /// those that ask less; what came first decides the rest.
    pub fn sort(&mut self) {
        for rules in self.rules.values_mut() {
            rules.sort_by_key(|rule| {
                let (kind, length) = match &rule.matcher.path {
                    PathMatch::Exact(path) => (0, path.len()),
                    PathMatch::Prefix(path) => (1, path.len()),
                    PathMatch::Regex(path) => (1, path.as_str().len()),
                };
                let asks = (rule.matcher.method.is_some(), rule.matcher.headers.len(), rule.matcher.query.len());
                (kind, std::cmp::Reverse((length, asks)))
            });
        }
    }

    /// Routes a request to a host (without a port).
    pub fn route(&self, host: &str, request: &Parts) -> Option<RouteMatch> {
        let host = host.to_ascii_lowercase();
        let rule =
            self.most_specific_host(&host).and_then(|rules| rules.iter().find(|rule| rule.matcher.matches(request)));
        match rule {
            Some(rule) => Some(RouteMatch { action: rule.action.clone(), rule: Some(rule.clone()) }),
            None => self.default.clone().map(|action| RouteMatch { action, rule: None }),
        }
    }

    /// The rules of the most specific matching host. Less specific ones aren't tried after it.
    fn most_specific_host(&self, host: &str) -> Option<&Vec<Arc<Rule>>> {
        let own = self.rules.get(host);
        let by_one = || self.rules.get(&format!("*.{}", host.split_once('.')?.1));
        let by_any = || {
            let mut rest = host;
            while let Some((_, after)) = rest.split_once('.') {
                if let Some(rules) = self.rules.get(&format!("**.{after}")) {
                    return Some(rules);
                }
                rest = after;
            }
            None
        };
        own.or_else(by_one).or_else(by_any).or_else(|| self.rules.get(""))
    }
}

impl RequestMatch {
    pub fn path(path: PathMatch) -> Self {
        RequestMatch { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    fn matches(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        let matches = match &self.path {
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(expression) => expression.is_match(path),
        };
        let header = |(name, text): &(HeaderName, StringMatch)| {
            request.headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|value| text.matches(value))
        };
        let query = |(name, text): &(String, StringMatch)| {
            let mut pairs = form_urlencoded::parse(request.uri.query().unwrap_or("").as_bytes());
            pairs.find(|(key, _)| key == name.as_str()).is_some_and(|(_, value)| text.matches(&value))
        };
        matches
            && self.method.as_ref().is_none_or(|m| *m == request.method)
            && self.headers.iter().all(header)
            && self.query.iter().all(query)
    }
}

impl RouteMatch {
    /// A path after a rewrite.
    pub fn rewrite_path(&self, change: Option<&PathRewrite>, path: &str) -> String {
        let pattern = self.rule.as_ref().map(|rule| &rule.matcher.path);
        let changed = match (change, pattern) {
            (None, _) => path.to_string(),
            (Some(PathRewrite::Full(whole)), _) => whole.clone(),
            (Some(PathRewrite::Prefix(new)), Some(PathMatch::Prefix(old))) => {
                let rest = path.strip_prefix(old.as_str()).unwrap_or(path);
                format!("{}{rest}", new.trim_end_matches('/'))
            }
            (Some(PathRewrite::RegexGroups(target)), Some(PathMatch::Regex(expression))) => {
                let mut made = String::new();
                if let Some(groups) = expression.captures(path) {
                    groups.expand(target, &mut made);
                }
                made
            }
            (Some(PathRewrite::Prefix(new) | PathRewrite::RegexGroups(new)), _) => new.clone(),
        };
        if changed.starts_with('/') { changed } else { format!("/{changed}") }
    }
}
