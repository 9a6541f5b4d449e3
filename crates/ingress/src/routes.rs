//! Which backend a request goes to. Pure.
//!
//! Source: <https://kubernetes.io/docs/concepts/services-networking/ingress/>; annotations are those of ingress-nginx that
//! people use most.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass};
use kube::ResourceExt as _;
use regex::Regex;

use crate::CONTROLLER;

const NGINX: &str = "nginx.ingress.kubernetes.io/";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

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

/// Where a request goes, and what is done to it on the way.
#[derive(Debug)]
pub struct Backend {
    /// For people: `namespace/service:port`.
    pub name: String,
    /// `address:port` of those that are ready.
    pub endpoints: Vec<String>,
    pub protocol: Protocol,
    /// What replaces the path; may refer to groups of the path's expression (`/$2`).
    pub rewrite: Option<String>,
    /// Plain HTTP is sent to HTTPS.
    pub redirect: bool,
    /// The largest body of a request, in bytes.
    pub largest_body: Option<u64>,
}

#[derive(Debug)]
enum Pattern {
    Exact(String),
    /// By elements of the path: `/a` fits `/a/b`, not `/ab`.
    Prefix(String),
    Expression(Regex),
}

#[derive(Debug)]
struct Route {
    pattern: Pattern,
    backend: Arc<Backend>,
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes {
    /// By the name of a host, `*.example.com`, or empty for all others.
    hosts: HashMap<String, Vec<Route>>,
    default: Option<Arc<Backend>>,
}

/// What a request was found to be for.
#[derive(Debug)]
pub struct Found {
    pub backend: Arc<Backend>,
    /// The path that the backend is asked for, without the query.
    pub path: String,
}

/// The Ingresses that this controller serves: those of a class of its own, and those without a class if one of its
/// classes is the default.
pub fn ours(ingresses: &[Arc<Ingress>], classes: &[Arc<IngressClass>]) -> Vec<Arc<Ingress>> {
    let own: Vec<&Arc<IngressClass>> =
        classes.iter().filter(|c| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER)).collect();
    let has = |name: &str| own.iter().any(|c| c.name_any() == name);
    let default = own.iter().any(|c| c.annotations().get(DEFAULT_CLASS).is_some_and(|v| v == "true"));
    let mut mine: Vec<Arc<Ingress>> = ingresses
        .iter()
        .filter(|i| {
            let annotated = i.annotations().get("kubernetes.io/ingress.class").map(String::as_str);
            let class = i.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref()).or(annotated);
            class.map_or(default, has)
        })
        .cloned()
        .collect();
    // The older one wins where two want the same.
    mine.sort_by_key(|i| (i.metadata.creation_timestamp.as_ref().map(|t| t.0), i.namespace(), i.name_any()));
    mine
}

/// The secrets with certificates: namespace, name, hosts.
pub fn secrets(ours: &[Arc<Ingress>]) -> Vec<(String, String, Vec<String>)> {
    let mut all = Vec::new();
    for ingress in ours {
        for tls in ingress.spec.iter().flat_map(|s| s.tls.iter().flatten()) {
            let Some(name) = tls.secret_name.clone().filter(|n| !n.is_empty()) else { continue };
            all.push((ingress.namespace().unwrap_or_default(), name, tls.hosts.clone().unwrap_or_default()));
        }
    }
    all
}

pub fn build(ours: &[Arc<Ingress>], services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Routes {
    let services: HashMap<(String, String), &Arc<Service>> =
        services.iter().map(|s| ((s.namespace().unwrap_or_default(), s.name_any()), s)).collect();
    let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(name) = slice.labels().get("kubernetes.io/service-name") {
            by_service.entry((slice.namespace().unwrap_or_default(), name.clone())).or_default().push(slice);
        }
    }
    let mut routes = Routes::default();
    for ingress in ours {
        let Some(spec) = &ingress.spec else { continue };
        let maker = Maker { ingress, services: &services, slices: &by_service };
        if let Some(backend) = &spec.default_backend
            && routes.default.is_none()
        {
            routes.default = Some(Arc::new(maker.backend(backend, false)));
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.clone().unwrap_or_default().to_ascii_lowercase();
            let paths = rule.http.iter().flat_map(|h| h.paths.iter());
            let secure = spec.tls.iter().flatten().any(|t| {
                t.hosts
                    .as_ref()
                    .is_none_or(|hosts| hosts.is_empty() || hosts.iter().any(|h| h.eq_ignore_ascii_case(&host)))
            });
            let made = paths.filter_map(|path| maker.route(path, secure));
            routes.hosts.entry(host).or_default().extend(made);
        }
    }
    for list in routes.hosts.values_mut() {
        // Exact before expressions and prefixes, longer before shorter; the order of creation decides the rest.
        list.sort_by_key(|route| match &route.pattern {
            Pattern::Exact(path) => (0, std::cmp::Reverse(path.len())),
            Pattern::Prefix(path) => (1, std::cmp::Reverse(path.len())),
            Pattern::Expression(path) => (1, std::cmp::Reverse(path.as_str().len())),
        });
    }
    routes
}

/// Makes the routes of one Ingress.
struct Maker<'a> {
    ingress: &'a Ingress,
    services: &'a HashMap<(String, String), &'a Arc<Service>>,
    slices: &'a BTreeMap<(String, String), Vec<&'a EndpointSlice>>,
}

impl Maker<'_> {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.ingress.annotations().get(&format!("{NGINX}{name}")).map(String::as_str)
    }

    fn route(&self, path: &HTTPIngressPath, secure: bool) -> Option<Route> {
        let text = path.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
        let groups = self.annotation("rewrite-target").is_some_and(|t| t.contains('$'));
        let expression = self.annotation("use-regex") == Some("true") || groups;
        let pattern = match path.path_type.as_str() {
            "Exact" => Pattern::Exact(text),
            _ if expression => {
                let built =
                    regex::RegexBuilder::new(&format!("^{text}")).size_limit(1 << 20).case_insensitive(true).build();
                Pattern::Expression(built.ok()?)
            }
            _ => Pattern::Prefix(text.trim_end_matches('/').to_string()),
        };
        Some(Route { pattern, backend: Arc::new(self.backend(&path.backend, secure)) })
    }

    fn backend(&self, backend: &IngressBackend, secure: bool) -> Backend {
        let namespace = self.ingress.namespace().unwrap_or_default();
        let protocol = match self.annotation("backend-protocol").map(str::to_ascii_uppercase).as_deref() {
            Some("GRPC") => Protocol::Grpc,
            Some("GRPCS") => Protocol::Grpcs,
            Some("HTTPS") => Protocol::Https,
            _ => Protocol::Http,
        };
        let forced = self.annotation("force-ssl-redirect") == Some("true");
        let (name, endpoints) = match &backend.service {
            Some(service) => {
                let port = service.port.as_ref();
                let (number, text) = (port.and_then(|p| p.number), port.and_then(|p| p.name.clone()));
                let shown = text.clone().unwrap_or_else(|| number.unwrap_or(0).to_string());
                let endpoints = self.endpoints(&namespace, &service.name, number, text.as_deref());
                (format!("{namespace}/{}:{shown}", service.name), endpoints)
            }
            None => (format!("{namespace}: a backend that is no service"), Vec::new()),
        };
        Backend {
            name,
            endpoints,
            protocol,
            rewrite: self.annotation("rewrite-target").map(String::from),
            redirect: forced || (secure && self.annotation("ssl-redirect") != Some("false")),
            largest_body: self.annotation("proxy-body-size").and_then(size),
        }
    }

    /// The ready endpoints of a service's port.
    fn endpoints(&self, namespace: &str, name: &str, number: Option<i32>, text: Option<&str>) -> Vec<String> {
        let key = (namespace.to_string(), name.to_string());
        let Some(service) = self.services.get(&key) else { return Vec::new() };
        let Some(spec) = &service.spec else { return Vec::new() };
        let port = spec.ports.iter().flatten().find(|p| match text {
            Some(text) => p.name.as_deref() == Some(text),
            None => Some(p.port) == number,
        });
        let Some(port) = port else { return Vec::new() };
        if spec.type_.as_deref() == Some("ExternalName") {
            return spec.external_name.iter().map(|host| format!("{host}:{}", port.port)).collect();
        }
        let wanted = port.name.as_deref().unwrap_or("");
        let mut found = Vec::new();
        for slice in self.slices.get(&key).into_iter().flatten() {
            let number = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or("") == wanted);
            let Some(number) = number.and_then(|p| p.port) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                let ready = endpoint.addresses.iter().filter(|_| ready);
                found.extend(ready.map(|address| apimachinery::authority(address, number)));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// `8m`, `1g`, `512k` or bytes; 0 is no limit.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text.as_str(), ""),
    };
    let shift = match unit {
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => 0,
    };
    number.parse::<u64>().ok().filter(|n| *n > 0).and_then(|n| n.checked_shl(shift))
}

impl Routes {
    /// The backend for a host (without a port) and path (without a query).
    pub fn find(&self, host: &str, path: &str) -> Option<Found> {
        let host = host.to_ascii_lowercase();
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let lists = [Some(host), wildcard, Some(String::new())];
        // A host that has rules of its own isn't looked for among those of others.
        let list = lists.into_iter().flatten().find_map(|name| self.hosts.get(&name));
        let route = list.and_then(|list| list.iter().find_map(|route| route.found(path)));
        route.or_else(|| self.default.as_ref().map(|backend| Found { backend: backend.clone(), path: path.into() }))
    }
}

impl Route {
    fn found(&self, path: &str) -> Option<Found> {
        let groups = match &self.pattern {
            Pattern::Exact(exact) => (exact == path).then_some(None)?,
            Pattern::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then_some(None)?
            }
            Pattern::Expression(expression) => Some(expression.captures(path)?),
        };
        let path = match (&self.backend.rewrite, groups) {
            (None, _) => path.to_string(),
            (Some(target), None) => target.clone(),
            (Some(target), Some(groups)) => {
                let mut made = String::new();
                // `$2` as nginx means it: a group's number, not the longest name.
                let target =
                    Regex::new(r"\$(\d)").map_or(target.clone(), |r| r.replace_all(target, "$${$1}").into_owned());
                groups.expand(&target, &mut made);
                made
            }
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Some(Found { backend: self.backend.clone(), path })
    }
}

#[cfg(test)]
mod tests;
