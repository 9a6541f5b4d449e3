//! Attachment of routes to listeners (GEP-1426, GEP-709), and the reasons of conditions where it fails. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apimachinery::LabelSelector;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;

use crate::CONTROLLER_NAME;
use crate::kinds::{
    GROUP, Gateway, GatewayClass, GroupKind, HTTPBackendRef, HTTPRoute, Listener, ParentReference, Reference,
    ReferenceGrant,
};

/// Ports of nodes whose protocol is fixed: port, protocol, user.
const RESERVED_PORTS: [(u16, &str, &str); 3] =
    [(80, "HTTP", "Ingresses"), (443, "HTTPS", "Ingresses"), (10250, "the API", "kubelets")];

/// All Gateway API objects of the cluster, as of one moment.
#[derive(Debug, Default)]
pub struct GatewaySnapshot {
    /// Gateways whose class names our controller, oldest first: the oldest wins a conflict.
    pub gateways: Vec<Arc<Gateway>>,
    /// Routes, oldest first.
    pub routes: Vec<Arc<HTTPRoute>>,
    /// Grants for references across namespaces.
    pub grants: Vec<Arc<ReferenceGrant>>,
    /// Labels of namespaces, by their name.
    pub labels: HashMap<String, BTreeMap<String, String>>,
}

/// Type, reason and message of a condition that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The condition's type: `Accepted`, `Conflicted` or `ResolvedRefs`.
    pub condition: &'static str,
    /// The condition's reason.
    pub reason: &'static str,
    /// The condition's message.
    pub message: String,
}

fn problem(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { condition, reason, message: message.into() }
}

/// A listener that a route attaches to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedListener {
    /// Its index among the Gateway's listeners.
    pub listener: usize,
    /// The intersection of their hostnames; `""` matches all.
    pub hosts: Vec<String>,
}

/// A Gateway of ours in a route's `parentRefs`.
pub struct RouteParent<'a> {
    /// The reference to it.
    pub reference: &'a ParentReference,
    /// The Gateway.
    pub gateway: &'a Arc<Gateway>,
    /// The listeners that the route attaches to, or why it attaches to none.
    pub attached: Result<Vec<AttachedListener>, Problem>,
}

impl GatewaySnapshot {
    /// A snapshot of these objects; Gateways of other controllers' classes are left out.
    pub fn new(
        classes: &[Arc<GatewayClass>],
        mut gateways: Vec<Arc<Gateway>>,
        mut routes: Vec<Arc<HTTPRoute>>,
        grants: Vec<Arc<ReferenceGrant>>,
        namespaces: &[Arc<Namespace>],
    ) -> Self {
        let ours =
            |name: &str| classes.iter().any(|c| c.name_any() == name && c.spec.controller_name == CONTROLLER_NAME);
        gateways.retain(|g| ours(&g.spec.gateway_class_name));
        gateways.sort_by_key(|g| (g.creation_timestamp().map(|t| t.0), g.namespace(), g.name_any()));
        routes.sort_by_key(|r| (r.creation_timestamp().map(|t| t.0), r.namespace(), r.name_any()));
        let labels = namespaces.iter().map(|n| (n.name_any(), n.labels().clone())).collect();
        GatewaySnapshot { gateways, routes, grants, labels }
    }

    /// Why a listener isn't served; none if it is.
    pub fn listener_problem(&self, gateway: &Gateway, index: usize) -> Option<Problem> {
        let listener = gateway.spec.listeners.get(index)?;
        if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS") {
            let why = format!("protocol {:?} isn't served; HTTP and HTTPS are", listener.protocol);
            return Some(problem("Accepted", "UnsupportedProtocol", why));
        }
        let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref());
        if listener.protocol == "HTTPS" && mode.is_some_and(|mode| mode != "Terminate") {
            return Some(problem("Accepted", "UnsupportedValue", "tls.mode: only Terminate is served"));
        }
        let others = |(i, other): &(usize, &Listener)| *i != index && other.port == listener.port;
        for (_, other) in gateway.spec.listeners.iter().enumerate().filter(others) {
            if other.protocol != listener.protocol {
                let why = format!("listener {:?} wants {} on port {}", other.name, other.protocol, other.port);
                return Some(problem("Conflicted", "ProtocolConflict", why));
            }
            if other.hostname == listener.hostname {
                let why = format!("listener {:?} has the same port and hostname", other.name);
                return Some(problem("Conflicted", "HostnameConflict", why));
            }
        }
        if let Some((port, serves, whom)) =
            RESERVED_PORTS.iter().find(|t| t.0 == listener.port && t.1 != listener.protocol)
        {
            return Some(problem("Accepted", "PortUnavailable", format!("port {port} serves {serves} for {whom}")));
        }
        // All Gateways share the nodes' addresses, so a port has one protocol for all of them.
        let older = self.gateways.iter().take_while(|other| other.uid() != gateway.uid());
        for other in older {
            let clash = |l: &&Listener| l.port == listener.port && l.protocol != listener.protocol;
            if let Some(clash) = other.spec.listeners.iter().find(clash) {
                let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
                let why = format!("port {} serves {} for Gateway {namespace}/{name}", clash.port, clash.protocol);
                return Some(problem("Accepted", "PortUnavailable", why));
            }
        }
        None
    }

    /// The listener's `supportedKinds`, and whether its `allowedRoutes.kinds` has others.
    pub fn supported_kinds(listener: &Listener) -> (Vec<GroupKind>, bool) {
        let route = GroupKind { group: Some(GROUP.into()), kind: "HTTPRoute".into() };
        let Some(kinds) = listener.allowed_routes.as_ref().and_then(|a| a.kinds.as_ref()).filter(|k| !k.is_empty())
        else {
            return (vec![route], false);
        };
        let is_route = |k: &&GroupKind| k.kind == route.kind && k.group.as_deref().unwrap_or(GROUP) == GROUP;
        let known: Vec<GroupKind> = kinds.iter().filter(is_route).map(|_| route.clone()).take(1).collect();
        (known, !kinds.iter().all(|k| is_route(&k)))
    }

    /// Namespace and name of the secret of a listener's `certificateRefs`.
    ///
    /// # Errors
    /// When it refers to another kind (`InvalidCertificateRef`, `InvalidKind`), or to another namespace without a ReferenceGrant
    /// (`RefNotPermitted`).
    pub fn certificate_secret(&self, gateway: &Gateway, to: &Reference) -> Result<(String, String), Problem> {
        let (group, kind) = (to.group.as_deref().unwrap_or(""), to.kind.as_deref().unwrap_or("Secret"));
        if (group, kind) != ("", "Secret") {
            let why = format!("certificateRefs: a certificate is in a Secret, not in a {kind}");
            return Err(problem("ResolvedRefs", "InvalidCertificateRef", why));
        }
        let own = gateway.namespace().unwrap_or_default();
        let namespace = to.namespace.clone().unwrap_or_else(|| own.clone());
        if !self.reference_granted("Gateway", &own, "Secret", &namespace, &to.name) {
            let why = format!("certificateRefs: no ReferenceGrant in {namespace} allows Gateways of {own} its secrets");
            return Err(problem("ResolvedRefs", "RefNotPermitted", why));
        }
        Ok((namespace, to.name.clone()))
    }

    /// Namespace and name of the service of a route's `backendRefs`.
    ///
    /// # Errors
    /// When it refers to another kind (`InvalidCertificateRef`, `InvalidKind`), or to another namespace without a ReferenceGrant
    /// (`RefNotPermitted`).
    pub fn backend_service(&self, route: &HTTPRoute, to: &HTTPBackendRef) -> Result<(String, String), Problem> {
        let (group, kind) = (to.to.group.as_deref().unwrap_or(""), to.to.kind.as_deref().unwrap_or("Service"));
        if !matches!((group, kind), ("" | "core", "Service")) {
            let why = format!("backendRefs: {kind} of group {group:?} isn't known; use a Service");
            return Err(problem("ResolvedRefs", "InvalidKind", why));
        }
        let own = route.namespace().unwrap_or_default();
        let namespace = to.to.namespace.clone().unwrap_or_else(|| own.clone());
        if !self.reference_granted("HTTPRoute", &own, "Service", &namespace, &to.to.name) {
            let why = format!("backendRefs: no ReferenceGrant in {namespace} allows HTTPRoutes of {own} its services");
            return Err(problem("ResolvedRefs", "RefNotPermitted", why));
        }
        Ok((namespace, to.to.name.clone()))
    }

    /// Whether a ReferenceGrant allows an object to refer to one of the core group in another namespace (GEP-709).
    fn reference_granted(&self, from: &str, from_namespace: &str, to: &str, to_namespace: &str, name: &str) -> bool {
        from_namespace == to_namespace
            || self.grants.iter().filter(|g| g.namespace().as_deref() == Some(to_namespace)).any(|grant| {
                let spec = &grant.spec;
                let asks =
                    spec.from.iter().any(|f| f.group == GROUP && f.kind == from && f.namespace == from_namespace);
                let fits = |n: &Option<String>| n.as_deref().is_none_or(|n| n.is_empty() || n == name);
                asks && spec.to.iter().any(|t| t.group.is_empty() && t.kind == to && fits(&t.name))
            })
    }

    /// The Gateways of ours in a route's `parentRefs`, in that order.
    pub fn route_parents<'a>(&'a self, route: &'a HTTPRoute) -> Vec<RouteParent<'a>> {
        let own = route.namespace().unwrap_or_default();
        let of = |reference: &'a ParentReference| {
            let is_gateway = reference.group.as_deref().unwrap_or(GROUP) == GROUP
                && reference.kind.as_deref().unwrap_or("Gateway") == "Gateway";
            let namespace = reference.namespace.as_deref().unwrap_or(&own);
            let named =
                |g: &&Arc<Gateway>| g.name_any() == reference.name && g.namespace().as_deref() == Some(namespace);
            let gateway = self.gateways.iter().find(named).filter(|_| is_gateway)?;
            Some(RouteParent { reference, gateway, attached: self.attach_route(route, reference, gateway) })
        };
        route.spec.parent_refs.iter().filter_map(of).collect()
    }

    fn attach_route(
        &self,
        route: &HTTPRoute,
        reference: &ParentReference,
        gateway: &Gateway,
    ) -> Result<Vec<AttachedListener>, Problem> {
        let named = |(_, l): &(usize, &Listener)| {
            reference.section_name.as_deref().is_none_or(|name| name == l.name)
                && reference.port.is_none_or(|port| port == l.port)
        };
        let candidates: Vec<(usize, &Listener)> = gateway.spec.listeners.iter().enumerate().filter(named).collect();
        if candidates.is_empty() {
            return Err(problem("Accepted", "NoMatchingParent", "the Gateway has no such listener"));
        }
        let (from, to) = (route.namespace().unwrap_or_default(), gateway.namespace().unwrap_or_default());
        let allowed = |(_, l): &&(usize, &Listener)| {
            self.namespace_allowed(l, &from, &to) && !Self::supported_kinds(l).0.is_empty()
        };
        let allowed: Vec<&(usize, &Listener)> = candidates.iter().filter(allowed).collect();
        if allowed.is_empty() {
            let why = format!("no listener allows HTTPRoutes of namespace {from}");
            return Err(problem("Accepted", "NotAllowedByListeners", why));
        }
        let with_hosts = allowed.into_iter().filter_map(|(index, listener)| {
            let hosts = intersect_hostnames(listener.hostname.as_deref().unwrap_or(""), &route.spec.hostnames);
            (!hosts.is_empty()).then_some(AttachedListener { listener: *index, hosts })
        });
        let attached: Vec<AttachedListener> = with_hosts.collect();
        if attached.is_empty() {
            let why = "no listener has a hostname that one of the route's fits";
            return Err(problem("Accepted", "NoMatchingListenerHostname", why));
        }
        Ok(attached)
    }

    fn namespace_allowed(&self, listener: &Listener, from: &str, own: &str) -> bool {
        let namespaces = listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref());
        match namespaces.and_then(|n| n.from.as_deref()).unwrap_or("Same") {
            "All" => true,
            "Same" => from == own,
            "Selector" => {
                let selector = namespaces.and_then(|n| n.selector.clone()).unwrap_or_default();
                let read = serde_json::to_value(selector).ok().and_then(|v| LabelSelector::from_json(&v).ok());
                read.is_some_and(|selector| selector.matches_map(self.labels.get(from)))
            }
            _ => false,
        }
    }

    /// The listener's `status.attachedRoutes`.
    pub fn attached_routes(&self, gateway: &Gateway, index: usize) -> i32 {
        let attaches = |parent: RouteParent<'_>| {
            let here = |attached: Vec<AttachedListener>| attached.iter().any(|a| a.listener == index);
            parent.gateway.uid() == gateway.uid() && parent.attached.is_ok_and(here)
        };
        self.routes.iter().filter(|route| self.route_parents(route).into_iter().any(attaches)).count() as i32
    }
}

/// The intersection of the hostnames of a listener and a route. `*` in `*.example.com` matches one or more labels.
fn intersect_hostnames(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.to_ascii_lowercase()];
    }
    let common = |host: &String| {
        let (host, listener) = (host.to_ascii_lowercase(), listener.to_ascii_lowercase());
        let within = |narrow: &str, wide: &str| wide.strip_prefix('*').is_some_and(|rest| narrow.ends_with(rest));
        match () {
            () if listener.is_empty() || host == listener || within(&host, &listener) => Some(host),
            () if within(&listener, &host) => Some(listener),
            () => None,
        }
    };
    let mut hosts: Vec<String> = route.iter().filter_map(common).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests;
