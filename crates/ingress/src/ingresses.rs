//! Ingresses into rules of the routing table. Pure.
//!
//! Source: <https://kubernetes.io/docs/concepts/services-networking/ingress/>; the most used annotations of ingress-nginx are supported.

use std::sync::{Arc, LazyLock};

use http::StatusCode;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass};
use kube::ResourceExt as _;
use regex::Regex;

use crate::CONTROLLER_NAME;
use crate::expressions::Expressions;
use crate::services::{PortRef, Services};
use crate::table::{
    Backend, HeaderChanges, PathMatch, PathRewrite, Protocol, Redirect, RequestMatch, RouteAction, Rule, VirtualHosts,
};

const NGINX_ANNOTATION_PREFIX: &str = "nginx.ingress.kubernetes.io/";
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
    for ingress in served {
        let Some(spec) = &ingress.spec else { continue };
        let builder = RuleBuilder { ingress, services };
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
            for path in rule.http.iter().flat_map(|h| h.paths.iter()) {
                if let Some(rule) = builder.rule(path, secure, expressions) {
                    hosts.add(&host, rule);
                }
            }
        }
    }
}

/// Builds the rules of one Ingress.
struct RuleBuilder<'a> {
    ingress: &'a Ingress,
    services: &'a Services<'a>,
}

impl RuleBuilder<'_> {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.ingress.annotations().get(&format!("{NGINX_ANNOTATION_PREFIX}{name}")).map(String::as_str)
    }

    fn rule(&self, path: &HTTPIngressPath, secure: bool, expressions: &mut Expressions) -> Option<Rule> {
        let text = path.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
        let groups = self.annotation("rewrite-target").is_some_and(|t| t.contains('$'));
        let is_expression = self.annotation("use-regex") == Some("true") || groups;
        let pattern = match path.path_type.as_str() {
            "Exact" => PathMatch::Exact(text),
            _ if is_expression => {
                let namespace = self.ingress.namespace().unwrap_or_default();
                PathMatch::Regex(expressions.get(&namespace, &format!("^{text}"), true)?)
            }
            _ => PathMatch::Prefix(text.trim_end_matches('/').to_string()),
        };
        let is_expression = matches!(pattern, PathMatch::Regex(_));
        let action = Arc::new(self.action(&path.backend, secure, is_expression));
        Some(Rule { matcher: RequestMatch::path(pattern), action })
    }

    fn action(&self, backend: &IngressBackend, secure: bool, is_expression: bool) -> RouteAction {
        let forced = self.annotation("force-ssl-redirect") == Some("true");
        let redirect = forced || (secure && self.annotation("ssl-redirect") != Some("false"));
        let path = self.annotation("rewrite-target").map(|target| match is_expression {
            true => PathRewrite::RegexGroups(groups(target)),
            false => PathRewrite::Full(target.into()),
        });
        RouteAction {
            redirect: redirect.then(|| Redirect {
                scheme: Some("https".into()),
                host: None,
                port: None,
                path: None,
                code: StatusCode::PERMANENT_REDIRECT,
                only_http: true,
            }),
            backends: vec![self.backend(backend)],
            path,
            max_body_bytes: self.annotation("proxy-body-size").and_then(size),
            log: self.annotation("enable-access-log") == Some("true"),
            ..RouteAction::default()
        }
    }

    fn backend(&self, backend: &IngressBackend) -> Backend {
        let namespace = self.ingress.namespace().unwrap_or_default();
        let annotated = match self.annotation("backend-protocol").map(str::to_ascii_uppercase).as_deref() {
            Some("GRPC") => Some(Protocol::Grpc),
            Some("GRPCS") => Some(Protocol::Grpcs),
            Some("HTTPS") => Some(Protocol::Https),
            Some(_) => Some(Protocol::Http),
            None => None,
        };
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

#[cfg(test)]
mod tests;
