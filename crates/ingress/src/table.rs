//! What requests are answered by: a value, made of Ingresses ([`crate::ingresses`]) and of Gateways ([`crate::gateways`]). Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;

/// How a backend is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    /// HTTP/2 without TLS.
    Grpc,
    /// HTTP with TLS; whose certificate the backend shows isn't asked, as by ingress-nginx.
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

/// A service's port.
#[derive(Debug)]
pub struct Backend {
    /// For people: `namespace/service:port`.
    pub name: String,
    /// `address:port` of those that are ready.
    pub endpoints: Vec<Arc<str>>,
    pub protocol: Protocol,
    /// How much of the requests it gets, beside the others of its rule.
    pub weight: u32,
    /// Why there is no such thing, if there is none.
    pub broken: Option<String>,
    /// What is done to requests on their way here alone.
    pub request: Changes,
    pub response: Changes,
}

/// What is done to headers: set, then added, then removed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

impl Changes {
    pub fn apply(&self, headers: &mut http::HeaderMap) {
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

/// What becomes of a path.
#[derive(Debug, Clone)]
pub enum PathChange {
    Whole(String),
    /// In place of the prefix that fitted.
    Prefix(String),
    /// With the groups of the expression that fitted (`/$2`).
    Groups(String),
}

/// The client is sent elsewhere.
#[derive(Debug, Clone)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<PathChange>,
    pub code: StatusCode,
    /// Those who came by TLS already aren't.
    pub only_plain: bool,
}

/// Which requests a rule is for.
#[derive(Debug, Clone)]
pub struct Match {
    pub path: Pattern,
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, Text)>,
    pub query: Vec<(String, Text)>,
}

#[derive(Debug, Clone)]
pub enum Pattern {
    Exact(String),
    /// By elements of the path: `/a` fits `/a/b`, not `/ab`. Without a slash at its end.
    Prefix(String),
    Expression(Regex),
}

#[derive(Debug, Clone)]
pub enum Text {
    Exact(String),
    Expression(Regex),
}

impl Text {
    fn fits(&self, text: &str) -> bool {
        match self {
            Text::Exact(exact) => exact == text,
            Text::Expression(expression) => expression.is_match(text),
        }
    }
}

/// Where requests go, and what is done to them on the way.
#[derive(Debug, Default)]
pub struct Action {
    pub redirect: Option<Redirect>,
    pub backends: Vec<Backend>,
    /// What the backend is asked for instead.
    pub path: Option<PathChange>,
    /// Whom the backend is told it is.
    pub host: Option<String>,
    pub request: Changes,
    pub response: Changes,
    /// The largest body of a request, in bytes.
    pub largest_body: Option<u64>,
    /// How long everything may take until the answer begins, and how long one backend.
    pub timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    /// Whether requests are logged.
    pub log: bool,
}

#[derive(Debug)]
pub struct Rule {
    pub when: Match,
    pub then: Arc<Action>,
}

/// The rules of a port.
#[derive(Debug, Default)]
pub struct Hosts {
    /// By the name of a host; `*.example.com` for one name more, `**.example.com` for any number; or empty for all others.
    rules: HashMap<String, Vec<Arc<Rule>>>,
    pub default: Option<Arc<Action>>,
}

/// Where requests may come in, and what becomes of them there.
#[derive(Debug, Default)]
pub struct Table {
    pub ports: BTreeMap<u16, Port>,
}

#[derive(Debug, Default)]
pub struct Port {
    pub secure: bool,
    pub hosts: Hosts,
}

/// What a request was found to be for.
#[derive(Debug, Clone)]
pub struct Found {
    pub action: Arc<Action>,
    rule: Option<Arc<Rule>>,
}

impl Hosts {
    pub fn add(&mut self, host: &str, rule: Rule) {
        self.rules.entry(host.to_ascii_lowercase()).or_default().push(Arc::new(rule));
    }

    /// A host that has no rules, so that it isn't looked for among those of others.
    pub fn reserve(&mut self, host: &str) {
        self.rules.entry(host.to_ascii_lowercase()).or_default();
    }

    /// The number of all rules.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rules.values().map(Vec::len).sum()
    }

    /// Brings rules into the order in which they are tried: exact paths first, longer ones before shorter, those that ask more before
    /// those that ask less; what came first decides the rest.
    pub fn sort(&mut self) {
        for rules in self.rules.values_mut() {
            rules.sort_by_key(|rule| {
                let (kind, length) = match &rule.when.path {
                    Pattern::Exact(path) => (0, path.len()),
                    Pattern::Prefix(path) => (1, path.len()),
                    Pattern::Expression(path) => (1, path.as_str().len()),
                };
                let asks = (rule.when.method.is_some(), rule.when.headers.len(), rule.when.query.len());
                (kind, std::cmp::Reverse((length, asks)))
            });
        }
    }

    /// What a request to a host (without a port) is for.
    pub fn find(&self, host: &str, request: &Parts) -> Option<Found> {
        let host = host.to_ascii_lowercase();
        let rule = self.of(&host).and_then(|rules| rules.iter().find(|rule| rule.when.fits(request)));
        match rule {
            Some(rule) => Some(Found { action: rule.then.clone(), rule: Some(rule.clone()) }),
            None => self.default.clone().map(|action| Found { action, rule: None }),
        }
    }

    /// The rules of the name that fits best. A host that has rules of its own isn't looked for among those of others.
    fn of(&self, host: &str) -> Option<&Vec<Arc<Rule>>> {
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

impl Match {
    pub fn path(path: Pattern) -> Self {
        Match { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    fn fits(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        let fits = match &self.path {
            Pattern::Exact(exact) => exact == path,
            Pattern::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Pattern::Expression(expression) => expression.is_match(path),
        };
        let header = |(name, text): &(HeaderName, Text)| {
            request.headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|value| text.fits(value))
        };
        let query = |(name, text): &(String, Text)| {
            let mut pairs = form_urlencoded::parse(request.uri.query().unwrap_or("").as_bytes());
            pairs.find(|(key, _)| key == name.as_str()).is_some_and(|(_, value)| text.fits(&value))
        };
        fits && self.method.as_ref().is_none_or(|m| *m == request.method)
            && self.headers.iter().all(header)
            && self.query.iter().all(query)
    }
}

impl Found {
    /// A path as a change makes it.
    pub fn path(&self, change: Option<&PathChange>, path: &str) -> String {
        let pattern = self.rule.as_ref().map(|rule| &rule.when.path);
        let changed = match (change, pattern) {
            (None, _) => path.to_string(),
            (Some(PathChange::Whole(whole)), _) => whole.clone(),
            (Some(PathChange::Prefix(new)), Some(Pattern::Prefix(old))) => {
                let rest = path.strip_prefix(old.as_str()).unwrap_or(path);
                format!("{}{rest}", new.trim_end_matches('/'))
            }
            (Some(PathChange::Groups(target)), Some(Pattern::Expression(expression))) => {
                let mut made = String::new();
                if let Some(groups) = expression.captures(path) {
                    groups.expand(target, &mut made);
                }
                made
            }
            (Some(PathChange::Prefix(new) | PathChange::Groups(new)), _) => new.clone(),
        };
        if changed.starts_with('/') { changed } else { format!("/{changed}") }
    }
}
