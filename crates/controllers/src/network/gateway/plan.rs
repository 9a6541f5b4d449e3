//! What statuses say of Gateways and routes. Pure.

use gateway::kinds::{
    Address, Gateway, GatewayStatus, HTTPRoute, HTTPRouteFilter, HTTPRouteStatus, ListenerStatus, RouteParentStatus,
};
use gateway::{CONTROLLER_NAME, GatewaySnapshot, Problem};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use crate::toolkit::conditions::{self, NewCondition};

/// Filters that are served.
const FILTERS: [&str; 4] = ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"];

type ServiceCheck<'a> = dyn Fn(&str, &str, Option<u16>) -> Result<(), String> + Sync + 'a;

/// What is to be known beside the objects of the Gateway API.
pub struct Around<'a> {
    /// The nodes' addresses.
    pub addresses: &'a [String],
    /// What is wrong with the certificate in a secret, by namespace and name.
    pub certificate: &'a (dyn Fn(&str, &str) -> Result<(), String> + Sync),
    /// What is wrong with a service's port, by namespace, name and number.
    pub service: &'a ServiceCheck<'a>,
    pub now: Timestamp,
}

/// Makes the conditions of an object.
struct Conditions<'a> {
    old: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    made: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(old: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Conditions { old, generation, now, made: Vec::new() }
    }

    fn say(&mut self, type_: &str, is: bool, reason: &str, message: &str) {
        let status = if is { "True" } else { "False" };
        let condition =
            NewCondition { generation: self.generation, ..NewCondition::new(type_, status, reason, message) };
        self.made.push(conditions::next(self.old, condition, self.now));
    }

    /// True with `reason`, or what the problem says.
    fn unless(&mut self, type_: &str, problem: Option<&Problem>, reason: &str) {
        match problem {
            Some(problem) => self.say(type_, false, problem.reason, &problem.message),
            None => self.say(type_, true, reason, ""),
        }
    }
}

/// Of a class that is ours.
pub fn class_status(old: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = Conditions::new(old, generation, now);
    conditions.say("Accepted", true, "Accepted", "Gateways of this class are served by every node");
    conditions.made
}

pub fn gateway_status(snapshot: &GatewaySnapshot, gateway: &Gateway, around: &Around<'_>) -> GatewayStatus {
    let old = gateway.status.clone().unwrap_or_default();
    let generation = gateway.metadata.generation;
    let listeners = gateway.spec.listeners.iter().enumerate();
    let listeners: Vec<ListenerStatus> =
        listeners.map(|(i, _)| listener_status(snapshot, gateway, i, around)).collect();
    let served = |l: &&ListenerStatus| l.conditions.iter().any(|c| c.type_ == "Programmed" && c.status == "True");
    let served = listeners.iter().filter(served).count();
    let mut conditions = Conditions::new(&old.conditions, generation, around.now);
    let addresses = addresses(gateway, around);
    match (served == listeners.len(), &addresses) {
        (_, Err(problem)) if problem.reason == "UnsupportedAddress" => {
            conditions.unless("Accepted", Some(problem), "");
        }
        (true, _) => conditions.say("Accepted", true, "Accepted", ""),
        (false, _) => {
            let message = format!("{served} of {} listeners are served; their conditions say why", listeners.len());
            conditions.say("Accepted", served > 0, "ListenersNotValid", &message);
        }
    }
    match &addresses {
        Err(problem) => conditions.unless("Programmed", Some(problem), ""),
        Ok(all) if all.is_empty() => {
            conditions.say("Programmed", false, "AddressNotAssigned", "no node that is ready has an address");
        }
        Ok(_) if served == 0 => conditions.say("Programmed", false, "Invalid", "no listener is served"),
        Ok(_) => conditions.say("Programmed", true, "Programmed", ""),
    }
    GatewayStatus { addresses: addresses.unwrap_or_default(), conditions: conditions.made, listeners }
}

/// Those that the Gateway asks for, or those of all nodes.
fn addresses(gateway: &Gateway, around: &Around<'_>) -> Result<Vec<Address>, Problem> {
    let of = |value: &String| Address { type_: Some("IPAddress".into()), value: Some(value.clone()) };
    let asked: Vec<&Address> = gateway.spec.addresses.iter().filter(|a| a.value.is_some()).collect();
    if asked.is_empty() {
        return Ok(around.addresses.iter().map(of).collect());
    }
    for address in &asked {
        let (kind, value) =
            (address.type_.as_deref().unwrap_or("IPAddress"), address.value.clone().unwrap_or_default());
        if kind != "IPAddress" {
            let message = format!("addresses of type {kind} aren't served; IPAddress is");
            return Err(Problem { condition: "Accepted", reason: "UnsupportedAddress", message });
        }
        if !around.addresses.contains(&value) {
            let message = format!("no node that is ready has the address {value}");
            return Err(Problem { condition: "Programmed", reason: "AddressNotUsable", message });
        }
    }
    Ok(asked.into_iter().cloned().collect())
}

fn listener_status(snapshot: &GatewaySnapshot, gateway: &Gateway, index: usize, around: &Around<'_>) -> ListenerStatus {
    let listener = &gateway.spec.listeners[index];
    let old = gateway.status.iter().flat_map(|s| &s.listeners).find(|l| l.name == listener.name);
    let old = old.map(|l| l.conditions.as_slice()).unwrap_or_default();
    let (supported_kinds, asks_others) = GatewaySnapshot::supported_kinds(listener);
    let refused = snapshot.listener_problem(gateway, index);
    let unresolved = |reason, message: String| Problem { condition: "ResolvedRefs", reason, message };
    let certificates = listener.tls.iter().flat_map(|tls| &tls.certificate_refs).map(|to| {
        let (namespace, name) = snapshot.certificate_secret(gateway, to)?;
        let wrong = |why| unresolved("InvalidCertificateRef", format!("secret {namespace}/{name}: {why}"));
        (around.certificate)(&namespace, &name).map_err(wrong)
    });
    let mut problem = certificates.into_iter().find_map(Result::err);
    if listener.protocol == "HTTPS" && listener.tls.as_ref().is_none_or(|tls| tls.certificate_refs.is_empty()) {
        let message = "tls.certificateRefs: HTTPS needs a certificate".to_string();
        problem = problem.or_else(|| Some(unresolved("InvalidCertificateRef", message)));
    }
    if asks_others {
        let message = "allowedRoutes.kinds: only HTTPRoute is served".to_string();
        problem = problem.or_else(|| Some(unresolved("InvalidRouteKinds", message)));
    }
    let mut conditions = Conditions::new(old, gateway.metadata.generation, around.now);
    conditions.unless("Accepted", refused.as_ref(), "Accepted");
    match refused.as_ref().filter(|p| p.condition == "Conflicted") {
        Some(conflict) => conditions.say("Conflicted", true, conflict.reason, &conflict.message),
        None => conditions.say("Conflicted", false, "NoConflicts", ""),
    }
    conditions.unless("ResolvedRefs", problem.as_ref(), "ResolvedRefs");
    let served = refused.is_none() && problem.as_ref().is_none_or(|p| p.reason == "InvalidRouteKinds");
    match served {
        true => conditions.say("Programmed", true, "Programmed", ""),
        false => conditions.say("Programmed", false, "Invalid", "another condition says why"),
    }
    ListenerStatus {
        name: listener.name.clone(),
        attached_routes: snapshot.attached_routes(gateway, index),
        conditions: conditions.made,
        supported_kinds,
    }
}

/// With what other controllers say as they say it.
pub fn route_status(snapshot: &GatewaySnapshot, route: &HTTPRoute, around: &Around<'_>) -> HTTPRouteStatus {
    let old = route.status.clone().unwrap_or_default();
    let others = old.parents.iter().filter(|p| p.controller_name != CONTROLLER_NAME).cloned();
    let mut parents: Vec<RouteParentStatus> = others.collect();
    let (unsupported, unresolved) = (unsupported(route), unresolved(snapshot, route, around));
    for parent in snapshot.route_parents(route) {
        let before = |p: &&RouteParentStatus| p.controller_name == CONTROLLER_NAME && p.parent_ref == *parent.reference;
        let before = old.parents.iter().find(before).map(|p| p.conditions.as_slice()).unwrap_or_default();
        let mut conditions = Conditions::new(before, route.metadata.generation, around.now);
        conditions.unless("Accepted", parent.attached.as_ref().err().or(unsupported.as_ref()), "Accepted");
        conditions.unless("ResolvedRefs", unresolved.as_ref(), "ResolvedRefs");
        parents.push(RouteParentStatus {
            parent_ref: parent.reference.clone(),
            controller_name: CONTROLLER_NAME.into(),
            conditions: conditions.made,
        });
    }
    HTTPRouteStatus { parents }
}

fn unsupported(route: &HTTPRoute) -> Option<Problem> {
    let own = |filters: &[HTTPRouteFilter]| {
        filters.iter().map(|f| f.type_.clone()).find(|kind| !FILTERS.contains(&kind.as_str()))
    };
    let backends = |filters: &[HTTPRouteFilter]| {
        let kinds = filters.iter().map(|f| f.type_.clone());
        kinds.into_iter().find(|kind| !FILTERS[..2].contains(&kind.as_str()))
    };
    let found = route.spec.rules.iter().find_map(|rule| {
        own(&rule.filters).or_else(|| rule.backend_refs.iter().find_map(|backend| backends(&backend.filters)))
    });
    found.map(|kind| Problem {
        condition: "Accepted",
        reason: "UnsupportedValue",
        message: format!("filters: {kind} isn't supported here"),
    })
}

fn unresolved(snapshot: &GatewaySnapshot, route: &HTTPRoute, around: &Around<'_>) -> Option<Problem> {
    let backends = route.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
    let check = |to| {
        let (namespace, name) = snapshot.backend_service(route, to)?;
        let missing = |message| Problem { condition: "ResolvedRefs", reason: "BackendNotFound", message };
        (around.service)(&namespace, &name, to.port).map_err(missing)
    };
    backends.map(check).find_map(Result::err)
}

/// Whether a route has a status that says anything of us.
pub fn has_our_status(route: &HTTPRoute) -> bool {
    route.status.iter().flat_map(|s| &s.parents).any(|p| p.controller_name == CONTROLLER_NAME)
}

/// For people: which of our Gateways a route isn't accepted by.
pub fn refusals(status: &HTTPRouteStatus) -> Vec<String> {
    let ours = status.parents.iter().filter(|p| p.controller_name == CONTROLLER_NAME);
    let refused = ours.flat_map(|p| p.conditions.iter().filter(|c| c.status == "False").map(move |c| (p, c)));
    refused.map(|(p, c)| format!("Gateway {}: {}: {}", p.parent_ref.name, c.reason, c.message)).collect()
}

#[cfg(test)]
mod tests;
