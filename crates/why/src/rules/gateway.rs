//! Gateways and routes that lead nowhere.

use serde_json::Value;

use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, nearest, short, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of Gateways without a class or with listeners that don't work, and of routes without a Gateway or a Service.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for gateway in s.all(Kind::Gateway).filter(|gateway| !object::is_deleted(gateway)) {
        out.extend(class(s, gateway));
        listeners(gateway, out);
    }
    for route in s.all(Kind::HttpRoute).filter(|route| !object::is_deleted(route)) {
        parents(s, route, out);
        backends(s, route, out);
    }
}

fn class(s: &Snapshot, gateway: &Value) -> Option<Finding> {
    let wanted = text(gateway, "/spec/gatewayClassName");
    let object = ObjectRef::of(Kind::Gateway, gateway);
    let next = "kubectl get gatewayclasses";
    if s.lacks(Kind::GatewayClass, "", wanted) {
        let classes: Vec<&str> = s.all(Kind::GatewayClass).map(name).collect();
        let near = nearest(wanted, classes.iter().copied())
            .map_or(String::new(), |near| format!("there is {near:?}: is that the one?"));
        return Some(
            Finding::new(&codes::GATEWAY_CLASS, object, format!("its class {wanted:?} doesn't exist"))
                .detail(format!("gateway classes of this cluster: {}", classes.join(", ")))
                .detail(near)
                .follows("no controller serves it")
                .next(next),
        );
    }
    let class = s.get(Kind::GatewayClass, "", wanted)?;
    let refused = object::condition(class, "Accepted").filter(|c| text(c, "/status") == "False")?;
    let says = format!("its class {wanted:?} isn't accepted: {}", short(text(refused, "/message"), 160));
    Some(Finding::new(&codes::GATEWAY_CLASS, object, says).follows("no controller serves it").next(next))
}

/// Conditions of a status that say no.
fn refusals(conditions: &[Value]) -> impl Iterator<Item = &Value> {
    conditions.iter().filter(|c| {
        ["Accepted", "Programmed", "ResolvedRefs"].contains(&text(c, "/type")) && text(c, "/status") == "False"
    })
}

fn listeners(gateway: &Value, out: &mut Vec<Finding>) {
    let show = format!("kubectl -n {} describe gateway {}", namespace(gateway), name(gateway));
    let object = ObjectRef::of(Kind::Gateway, gateway);
    for listener in items(gateway, "/status/listeners") {
        let Some(refusal) = refusals(items(listener, "/conditions")).next() else { continue };
        let says = format!(
            "its listener {:?} doesn't work: {}",
            text(listener, "/name"),
            short(text(refusal, "/message"), 200)
        );
        let finding = Finding::new(&codes::GATEWAY_LISTENER, object.clone(), says)
            .detail(format!("reason: {}", text(refusal, "/reason")));
        out.push(finding.follows("nobody is served by it").next(show.clone()));
    }
    let attached: i64 = items(gateway, "/status/listeners").iter().filter_map(|l| int(l, "/attachedRoutes")).sum();
    if attached == 0 && !items(gateway, "/status/listeners").is_empty() {
        let says = "no route is attached to it";
        let next = format!("kubectl -n {} get httproutes", namespace(gateway));
        out.push(Finding::new(&codes::GATEWAY_NO_ROUTES, object, says).follows("requests are answered 404").next(next));
    }
}

fn parents(s: &Snapshot, route: &Value, out: &mut Vec<Finding>) {
    let object = ObjectRef::of(Kind::HttpRoute, route);
    let show = format!("kubectl -n {} describe httproute {}", namespace(route), name(route));
    for parent in items(route, "/spec/parentRefs") {
        if !["", "Gateway"].contains(&text(parent, "/kind")) {
            continue;
        }
        let own = text(parent, "/namespace");
        let space = if own.is_empty() { namespace(route) } else { own };
        let wanted = text(parent, "/name");
        if s.lacks(Kind::Gateway, space, wanted) {
            let near = nearest(wanted, s.within(Kind::Gateway, space).map(name));
            let elsewhere = s.all(Kind::Gateway).find(|g| name(g) == wanted).map(namespace);
            let hint = match (near, elsewhere) {
                (_, Some(other)) => format!("there is one in namespace {other:?}: parentRefs[].namespace names it"),
                (Some(near), None) => format!("there is {near:?}: is that the one?"),
                _ => String::new(),
            };
            let says = format!("its Gateway {space}/{wanted} doesn't exist");
            let finding = Finding::new(&codes::ROUTE_PARENT, object.clone(), says).detail(hint);
            out.push(finding.follows("nobody is led by it").next(format!("kubectl -n {space} get gateways")));
        }
    }
    for status in items(route, "/status/parents") {
        let parent = text(status, "/parentRef/name");
        let refusal = refusals(items(status, "/conditions")).find(|c| text(c, "/type") == "Accepted");
        if let Some(refusal) = refusal {
            let says = format!("Gateway {parent:?} doesn't accept it: {}", short(text(refusal, "/message"), 200));
            let finding = Finding::new(&codes::ROUTE_PARENT, object.clone(), says)
                .detail(format!("reason: {}", text(refusal, "/reason")));
            out.push(finding.follows("nobody is led by it").next(show.clone()));
        }
    }
}

fn backends(s: &Snapshot, route: &Value, out: &mut Vec<Finding>) {
    let object = ObjectRef::of(Kind::HttpRoute, route);
    let mut found = false;
    for backend in items(route, "/spec/rules").iter().flat_map(|rule| items(rule, "/backendRefs")) {
        if !["", "Service"].contains(&text(backend, "/kind")) {
            continue;
        }
        let own = text(backend, "/namespace");
        let space = if own.is_empty() { namespace(route) } else { own };
        let service = text(backend, "/name");
        let (says, because) = match s.get(Kind::Service, space, service) {
            None if s.knows(Kind::Service, space) => {
                (format!("it leads to Service {space}/{service}, which doesn't exist"), None)
            }
            Some(there) => {
                let port = int(backend, "/port");
                let reference = ObjectRef::of(Kind::Service, there);
                if !items(there, "/spec/ports").iter().any(|p| int(p, "/port") == port) {
                    (
                        format!(
                            "it leads to port {} of Service {space}/{service}, which it hasn't got",
                            port.unwrap_or(0)
                        ),
                        None,
                    )
                } else if s.knows(Kind::EndpointSlice, space) && !super::admission::answers(s, space, service) {
                    (format!("it leads to Service {space}/{service}, where nobody answers"), Some(reference))
                } else {
                    continue;
                }
            }
            None => continue,
        };
        found = true;
        let near = nearest(service, s.within(Kind::Service, space).map(name)).filter(|near| *near != service);
        let mut finding = Finding::new(&codes::ROUTE_BACKEND, object.clone(), says)
            .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")));
        finding.because.extend(because);
        out.push(finding.follows("requests are answered 500 or 503").next(format!("kubectl -n {space} get services")));
    }
    if found {
        return;
    }
    for status in items(route, "/status/parents") {
        if let Some(refusal) = refusals(items(status, "/conditions")).find(|c| text(c, "/type") == "ResolvedRefs") {
            let says = format!("one of its backends can't be used: {}", short(text(refusal, "/message"), 200));
            let next = format!("kubectl -n {} describe httproute {}", namespace(route), name(route));
            let finding = Finding::new(&codes::ROUTE_BACKEND, object.clone(), says)
                .detail(format!("reason: {}", text(refusal, "/reason")));
            out.push(finding.follows("requests are answered 500").next(next));
        }
    }
}
