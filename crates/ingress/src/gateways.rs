//! Gateways and HTTPRoutes into rules of the routing table. Pure.
//!
//! Source: <https://gateway-api.sigs.k8s.io/reference/spec/>

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gateway::kinds::{
    HTTPBackendRef, HTTPRoute, HTTPRouteFilter, HTTPRouteMatch, HTTPRouteRule, HeaderModifier, PathModifier,
    RequestRedirect, ValueMatch,
};
use gateway::{AttachedListener, GatewaySnapshot};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use kube::ResourceExt as _;
use regex::Regex;

use crate::expressions::Expressions;
use crate::services::{PortRef, Services};
use crate::table::{
    Backend, HeaderChanges, PathMatch, PathRewrite, Protocol, Redirect, RequestMatch, RouteAction, Rule, StringMatch,
    Table,
};

/// The TLS secrets of listeners: port, namespace, name, hosts.
pub fn secrets(snapshot: &GatewaySnapshot) -> Vec<(u16, String, String, Vec<String>)> {
    let mut all = Vec::new();
    for gateway in &snapshot.gateways {
        for (index, listener) in gateway.spec.listeners.iter().enumerate() {
            if listener.protocol != "HTTPS" || snapshot.listener_problem(gateway, index).is_some() {
                continue;
            }
            for reference in listener.tls.iter().flat_map(|tls| &tls.certificate_refs) {
                if let Ok((namespace, name)) = snapshot.certificate_secret(gateway, reference) {
                    all.push((listener.port, namespace, name, listener.hostname.iter().cloned().collect()));
                }
            }
        }
    }
    all
}

/// What one route may become at most: its matches, for each of its hosts, at each listener of each of its Gateways. What is more is left out.
const MAX_RULES: usize = 20_000;

/// Adds the ports of Gateways, and what routes say of them.
pub fn add(table: &mut Table, snapshot: &GatewaySnapshot, services: &Services<'_>, expressions: &mut Expressions) {
    for gateway in &snapshot.gateways {
        for (index, listener) in gateway.spec.listeners.iter().enumerate() {
            if snapshot.listener_problem(gateway, index).is_none() {
                let port = table.ports.entry(listener.port).or_default();
                port.secure = listener.protocol == "HTTPS";
                port.hosts.add_host(&key(listener.hostname.as_deref().unwrap_or("")));
            }
        }
    }
    for route in &snapshot.routes {
        let namespace = route.namespace().unwrap_or_default();
        let parents = snapshot.route_parents(route).into_iter();
        let attached = parents.flat_map(|p| p.attached.unwrap_or_default().into_iter().map(move |a| (p.gateway, a)));
        let (mut attached_to, mut count) = (HashSet::new(), 0usize);
        for (gateway, AttachedListener { listener, hosts }) in attached {
            // A route may name a Gateway in several ways.
            if snapshot.listener_problem(gateway, listener).is_some()
                || !attached_to.insert((gateway.namespace(), gateway.name_any(), listener, hosts.clone()))
            {
                continue;
            }
            let Some(port) = table.ports.get_mut(&gateway.spec.listeners[listener].port) else { continue };
            for rule in &route.spec.rules {
                let action = Arc::new(action(snapshot, route, rule, services));
                let any = [HTTPRouteMatch::default()];
                let matches = if rule.matches.is_empty() { any.iter() } else { rule.matches.iter() };
                for wanted in matches {
                    count = count.saturating_add(hosts.len());
                    if count > MAX_RULES {
                        break;
                    }
                    let Some(matcher) = matcher(wanted, &namespace, expressions) else { continue };
                    for host in &hosts {
                        port.hosts.add(&key(host), Rule { matcher: matcher.clone(), action: action.clone() });
                    }
                }
            }
        }
    }
}

/// `*.example.com` of a Gateway matches any number of labels.
fn key(host: &str) -> String {
    if host.starts_with("*.") { format!("*{host}") } else { host.to_string() }
}

/// An expression must fit all of a text.
fn expression(text: &str, namespace: &str, expressions: &mut Expressions) -> Option<Regex> {
    expressions.get(namespace, &format!("^(?:{text})$"), false)
}

fn text(wanted: &ValueMatch, namespace: &str, expressions: &mut Expressions) -> Option<StringMatch> {
    match wanted.type_.as_deref() {
        Some("RegularExpression") => expression(&wanted.value, namespace, expressions).map(StringMatch::Regex),
        _ => Some(StringMatch::Exact(wanted.value.clone())),
    }
}

/// Nothing for what can't be read: such a rule fits no request.
fn matcher(wanted: &HTTPRouteMatch, namespace: &str, expressions: &mut Expressions) -> Option<RequestMatch> {
    let path = wanted.path.clone().unwrap_or_default();
    let value = path.value.unwrap_or_else(|| "/".into());
    let path = match path.type_.as_deref() {
        Some("Exact") => PathMatch::Exact(value),
        Some("RegularExpression") => PathMatch::Regex(expression(&value, namespace, expressions)?),
        _ => PathMatch::Prefix(value.trim_end_matches('/').to_string()),
    };
    let (mut headers, mut query) = (Vec::new(), Vec::new());
    for header in &wanted.headers {
        headers.push((HeaderName::try_from(header.name.as_str()).ok()?, text(header, namespace, expressions)?));
    }
    for parameter in &wanted.query_params {
        query.push((parameter.name.clone(), text(parameter, namespace, expressions)?));
    }
    let method = wanted.method.as_ref().map(|m| Method::from_bytes(m.as_bytes())).transpose().ok()?;
    Some(RequestMatch { path, method, headers, query })
}

fn action(snapshot: &GatewaySnapshot, route: &HTTPRoute, rule: &HTTPRouteRule, services: &Services<'_>) -> RouteAction {
    let mut action = RouteAction {
        backends: rule.backend_refs.iter().map(|to| backend(snapshot, route, to, services)).collect(),
        ..RouteAction::default()
    };
    for filter in &rule.filters {
        match filter.type_.as_str() {
            "RequestHeaderModifier" => action.request = changes(filter.request_header_modifier.as_ref()),
            "ResponseHeaderModifier" => action.response = changes(filter.response_header_modifier.as_ref()),
            "RequestRedirect" => action.redirect = filter.request_redirect.as_ref().map(redirect),
            "URLRewrite" => {
                let rewrite = filter.url_rewrite.clone().unwrap_or_default();
                action.path = rewrite.path.as_ref().and_then(path_change);
                action.host = rewrite.hostname;
            }
            // A route with an unsupported filter is refused rather than served without it.
            other => {
                let why = format!("filter {other} isn't supported");
                action.backends.iter_mut().for_each(|backend| backend.invalid = Some(why.clone()));
            }
        }
    }
    let time = |text: &Option<String>| {
        let nanoseconds = apimachinery::duration::parse(text.as_deref()?).filter(|n| *n > 0)?;
        Some(Duration::from_nanos(nanoseconds.unsigned_abs()))
    };
    if let Some(timeouts) = &rule.timeouts {
        (action.timeout, action.backend_timeout) = (time(&timeouts.request), time(&timeouts.backend_request));
    }
    action
}

fn backend(snapshot: &GatewaySnapshot, route: &HTTPRoute, to: &HTTPBackendRef, services: &Services<'_>) -> Backend {
    let port = PortRef::Number(to.port.map_or(0, i32::from));
    let namespace = to.to.namespace.clone().or_else(|| route.namespace()).unwrap_or_default();
    let known = snapshot.backend_service(route, to).map_err(|problem| problem.message);
    let known = known.and_then(|(namespace, name)| services.find(&namespace, &name, port));
    let filter = |kind: &str| to.filters.iter().find(|f: &&HTTPRouteFilter| f.type_ == kind);
    let (endpoints, protocol, invalid) = match known {
        Ok(known) => (known.endpoints, known.protocol.unwrap_or(Protocol::Http), None),
        Err(why) => (Vec::new(), Protocol::Http, Some(why)),
    };
    Backend {
        name: format!("{namespace}/{}:{}", to.to.name, port.display()),
        endpoints,
        protocol,
        weight: to.weight.unwrap_or(1),
        invalid,
        request: changes(filter("RequestHeaderModifier").and_then(|f| f.request_header_modifier.as_ref())),
        response: changes(filter("ResponseHeaderModifier").and_then(|f| f.response_header_modifier.as_ref())),
    }
}

fn changes(wanted: Option<&HeaderModifier>) -> HeaderChanges {
    let Some(wanted) = wanted else { return HeaderChanges::default() };
    let name = |name: &str| HeaderName::try_from(name).ok();
    let pair = |h: &gateway::kinds::Header| Some((name(&h.name)?, HeaderValue::try_from(h.value.as_str()).ok()?));
    HeaderChanges {
        set: wanted.set.iter().filter_map(pair).collect(),
        add: wanted.add.iter().filter_map(pair).collect(),
        remove: wanted.remove.iter().filter_map(|n| name(n)).collect(),
    }
}

fn path_change(wanted: &PathModifier) -> Option<PathRewrite> {
    let whole = wanted.replace_full_path.clone().map(PathRewrite::Full);
    whole.or_else(|| wanted.replace_prefix_match.clone().map(PathRewrite::Prefix))
}

fn redirect(wanted: &RequestRedirect) -> Redirect {
    let code = wanted.status_code.and_then(|code| StatusCode::from_u16(code).ok());
    Redirect {
        scheme: wanted.scheme.clone(),
        host: wanted.hostname.clone(),
        port: wanted.port,
        path: wanted.path.as_ref().and_then(path_change),
        url: None,
        code: code.unwrap_or(StatusCode::FOUND),
        only_http: false,
    }
}

#[cfg(test)]
mod tests;
