//! Ingresses into rules of the routing table. Pure.
//!
//! Source: <https://kubernetes.io/docs/concepts/services-networking/ingress/>; the most used annotations of ingress-nginx are supported.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use gateway::nginx::{self, Annotations, BackendProtocol, CanaryValue, Cors};
use http::{HeaderName, StatusCode};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass};
use kube::ResourceExt as _;
use regex::Regex;

use crate::CONTROLLER_NAME;
use crate::expressions::Expressions;
use crate::services::{PortRef, Services};
use crate::table::{
    Access, Backend, Canary, CanaryHeader, HeaderChanges, PathMatch, PathRewrite, Protocol, Redirect, RequestMatch,
    RouteAction, Rule, StringMatch, VirtualHosts,
};

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// The Ingresses that this controller serves: those of its classes, and those without a class if one of its
/// classes is the default.
pub fn served(ingresses: &[Arc<Ingress>], classes: &[Arc<IngressClass>]) -> Vec<Arc<Ingress>> {
    let own: Vec<&Arc<IngressClass>> = classes
        .iter()
        .filter(|c| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER_NAME))
        .collect();
    let has = |name: &str| own.iter().any(|c| c.name_any() == name);
    let default = own.iter().any(|c| c.annotations().get(DEFAULT_CLASS_ANNOTATION).is_some_and(|v| v == "true"));
    let mut mine: Vec<Arc<Ingress>> = ingresses
        .iter()
        .filter(|i| {
            let annotated = i.annotations().get("kubernetes.io/ingress.class").map(String::as_str);
            let class = i.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref()).or(annotated);
            class.map_or(default, has)
        })
        .cloned()
        .collect();
    // The oldest wins a conflict.
    mine.sort_by_key(|i| (i.metadata.creation_timestamp.as_ref().map(|t| t.0), i.namespace(), i.name_any()));
    mine
}

/// The TLS secrets: namespace, name, hosts.
pub fn secrets(served: &[Arc<Ingress>]) -> Vec<(String, String, Vec<String>)> {
    let mut all = Vec::new();
    for ingress in served {
        for tls in ingress.spec.iter().flat_map(|s| s.tls.iter().flatten()) {
            let Some(name) = tls.secret_name.clone().filter(|n| !n.is_empty()) else { continue };
            all.push((ingress.namespace().unwrap_or_default(), name, tls.hosts.clone().unwrap_or_default()));
        }
    }
    all
}

/// Adds the rules of Ingresses to those of a port.
pub fn add(hosts: &mut VirtualHosts, served: &[Arc<Ingress>], services: &Services<'_>, expressions: &mut Expressions) {
    let builders: Vec<RuleBuilder<'_>> = served.iter().map(|ingress| RuleBuilder::new(ingress, services)).collect();
    let (canaries, mains): (Vec<_>, Vec<_>) = builders.iter().partition(|one| one.annotations.canary.is_some());
    let canaries = Canaries::new(&canaries);
    for builder in mains {
        let Some(spec) = &builder.ingress.spec else { continue };
        if let Some(backend) = &spec.default_backend
            && hosts.default.is_none()
        {
            hosts.default = Some(Arc::new(builder.action(backend, false, false)));
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.clone().unwrap_or_default();
            hosts.add_host(&host);
            let secure = spec.tls.iter().flatten().any(|t| {
                t.hosts
                    .as_ref()
                    .is_none_or(|hosts| hosts.is_empty() || hosts.iter().any(|h| h.eq_ignore_ascii_case(&host)))
            });
            if let Some(rule) = builder.app_root() {
                hosts.add(&host, rule);
            }
            for path in rule.http.iter().flat_map(|h| h.paths.iter()) {
                let canary = canaries.of(builder.ingress, &host, path);
                if let Some(rule) = builder.rule(path, secure, canary, expressions) {
                    hosts.add(&host, rule);
                }
            }
        }
    }
}

/// The canaries, by the namespace, host, path and type of path of the rules that they take a share of. (Those of other namespaces take none,
/// other than with ingress-nginx: a namespace's requests are its own.)
struct Canaries<'a>(HashMap<CanaryKey, CanaryRule<'a>>);

/// Namespace, host, path and type of path.
type CanaryKey = (String, String, String, String);

/// The canary's Ingress, and where it sends its share.
type CanaryRule<'a> = (&'a RuleBuilder<'a>, &'a IngressBackend);

impl<'a> Canaries<'a> {
    fn new(builders: &[&'a RuleBuilder<'a>]) -> Self {
        let mut all = HashMap::new();
        for builder in builders {
            for rule in builder.ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten()) {
                for path in rule.http.iter().flat_map(|http| &http.paths) {
                    let key = Self::key(builder.ingress, rule.host.as_deref().unwrap_or(""), path);
                    // The oldest wins.
                    all.entry(key).or_insert((*builder, &path.backend));
                }
            }
        }
        Canaries(all)
    }

    fn key(ingress: &Ingress, host: &str, path: &HTTPIngressPath) -> CanaryKey {
        let text = path.path.clone().unwrap_or_default();
        (ingress.namespace().unwrap_or_default(), host.to_ascii_lowercase(), text, path.path_type.clone())
    }

    fn of(&self, ingress: &Ingress, host: &str, path: &HTTPIngressPath) -> Option<&CanaryRule<'a>> {
        self.0.get(&Self::key(ingress, host, path))
    }
}

/// Builds the rules of one Ingress.
struct RuleBuilder<'a> {
    ingress: &'a Ingress,
    annotations: Annotations,
    /// Shared by all its rules.
    access: Arc<Access>,
    cors: Option<Arc<Cors>>,
    services: &'a Services<'a>,
}

impl<'a> RuleBuilder<'a> {
    fn new(ingress: &'a Ingress, services: &'a Services<'a>) -> Self {
        let mut annotations = nginx::read(ingress.annotations()).0;
        let access = Access {
            allowed: std::mem::take(&mut annotations.allowed_sources),
            denied: std::mem::take(&mut annotations.denied_sources),
            refused: annotations.refused.take(),
        };
        let cors = annotations.cors.take().map(Arc::new);
        RuleBuilder { ingress, annotations, access: Arc::new(access), cors, services }
    }

    fn namespace(&self) -> String {
        self.ingress.namespace().unwrap_or_default()
    }

    fn rule(
        &self,
        path: &HTTPIngressPath,
        secure: bool,
        canary: Option<&CanaryRule<'_>>,
        expressions: &mut Expressions,
    ) -> Option<Rule> {
        let text = path.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
        let groups = self.annotations.rewrite_target.as_ref().is_some_and(|t| t.contains('$'));
        let pattern = match path.path_type.as_str() {
            "Exact" => PathMatch::Exact(text),
            _ if self.annotations.use_regex || groups => {
                PathMatch::Regex(expressions.get(&self.namespace(), &format!("^{text}"), true)?)
            }
            _ => PathMatch::Prefix(text.trim_end_matches('/').to_string()),
        };
        let is_expression = matches!(pattern, PathMatch::Regex(_));
        let mut action = self.action(&path.backend, secure, is_expression);
        action.canary = canary.and_then(|(builder, backend)| builder.canary(backend, expressions));
        Some(Rule { matcher: RequestMatch::path(pattern), action: Arc::new(action) })
    }

    /// The redirect of `/` that `app-root` asks for.
    fn app_root(&self) -> Option<Rule> {
        let path = PathRewrite::Full(self.annotations.app_root.clone()?);
        let redirect = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: Some(path),
            url: None,
            code: StatusCode::FOUND,
            only_http: false,
        };
        let action = RouteAction { redirect: Some(redirect), access: self.access.clone(), ..RouteAction::default() };
        Some(Rule { matcher: RequestMatch::path(PathMatch::Exact("/".into())), action: Arc::new(action) })
    }

    fn redirect(&self, secure: bool) -> Option<Redirect> {
        let annotations = &self.annotations;
        let to_https = annotations.force_ssl_redirect || (secure && annotations.ssl_redirect);
        let (code, url, scheme) = match &annotations.redirect {
            Some((code, url)) => (*code, Some(url.clone()), None),
            None if to_https => (StatusCode::PERMANENT_REDIRECT, None, Some("https".into())),
            None => return None,
        };
        let only_http = url.is_none();
        Some(Redirect { scheme, host: None, port: None, path: None, url, code, only_http })
    }

    fn action(&self, backend: &IngressBackend, secure: bool, is_expression: bool) -> RouteAction {
        let annotations = &self.annotations;
        let path = annotations.rewrite_target.as_ref().map(|target| match is_expression {
            true => PathRewrite::RegexGroups(groups(target)),
            false => PathRewrite::Full(target.clone()),
        });
        let mut request = HeaderChanges::default();
        request.set.extend(annotations.forwarded_prefix.clone().map(|prefix| (FORWARDED_PREFIX, prefix)));
        RouteAction {
            redirect: self.redirect(secure),
            backends: vec![self.backend(backend)],
            path,
            host: annotations.upstream_host.clone(),
            request,
            max_body_bytes: annotations.max_body_bytes,
            backend_timeout: annotations.read_timeout,
            log: annotations.access_log,
            access: self.access.clone(),
            cors: self.cors.clone(),
            ..RouteAction::default()
        }
    }

    /// What this Ingress, a canary, takes of the requests of another one.
    fn canary(&self, backend: &IngressBackend, expressions: &mut Expressions) -> Option<Canary> {
        let wanted = self.annotations.canary.as_ref()?;
        let header = match &wanted.header {
            None => None,
            Some((name, CanaryValue::Always)) => Some((name.clone(), CanaryHeader::Always)),
            Some((name, CanaryValue::Exact(value))) => {
                Some((name.clone(), CanaryHeader::Value(StringMatch::Exact(value.clone()))))
            }
            // One that can't be read takes nothing by the header.
            Some((name, CanaryValue::Pattern(text))) => expressions
                .get(&self.namespace(), text, false)
                .map(|pattern| (name.clone(), CanaryHeader::Value(StringMatch::Regex(pattern)))),
        };
        let backend = self.backend(backend);
        Some(Canary { header, cookie: wanted.cookie.clone(), weight: wanted.weight, total: wanted.total, backend })
    }

    fn backend(&self, backend: &IngressBackend) -> Backend {
        let namespace = self.namespace();
        let annotated = self.annotations.backend_protocol.map(|protocol| match protocol {
            BackendProtocol::Http => Protocol::Http,
            BackendProtocol::Https => Protocol::Https,
            BackendProtocol::Grpc => Protocol::Grpc,
            BackendProtocol::Grpcs => Protocol::Grpcs,
        });
        let (name, known) = match &backend.service {
            Some(service) => {
                let port = service.port.as_ref();
                let number = PortRef::Number(port.and_then(|p| p.number).unwrap_or(0));
                let port = port.and_then(|p| p.name.as_deref()).map_or(number, PortRef::Name);
                let known = self.services.find(&namespace, &service.name, port);
                (format!("{namespace}/{}:{}", service.name, port.display()), known.ok())
            }
            None => (format!("{namespace}: a backend that is no service"), None),
        };
        let protocol = annotated.or_else(|| known.as_ref()?.protocol).unwrap_or(Protocol::Http);
        Backend {
            name,
            endpoints: known.map(|known| known.endpoints).unwrap_or_default(),
            protocol,
            weight: 1,
            invalid: None,
            request: HeaderChanges::default(),
            response: HeaderChanges::default(),
        }
    }
}

/// `$2` as nginx reads it: the number of a group, where the crate `regex` would take the longest possible name.
fn groups(target: &str) -> String {
    static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\$(\d)").ok());
    NUMBER.as_ref().map_or(target.into(), |number| number.replace_all(target, "$${$1}").into_owned())
}

#[cfg(test)]
mod tests;
