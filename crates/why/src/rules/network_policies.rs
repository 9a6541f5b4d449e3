//! Network policies: what they cut off, and whether one pod may reach another.

use std::net::IpAddr;

use serde_json::Value;

use super::pod;
use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, int, items, name, namespace, pairs, selects, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// Tells of policies that select nothing, that let nobody in, or that keep pods from the DNS.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for policy in s.all(Kind::NetworkPolicy) {
        out.extend(selects_nothing(s, policy));
    }
    for service in s.all(Kind::Service) {
        out.extend(nobody_comes_in(s, service));
    }
    let mut told = std::collections::BTreeSet::new();
    for pod in pod::pods(s).filter(|pod| !object::is_true(pod, "/spec/hostNetwork")) {
        if let Some(finding) = no_dns(s, pod).filter(|_| told.insert(pod::owner(s, pod))) {
            out.push(finding);
        }
    }
}

fn selected<'a>(s: &'a Snapshot, policy: &'a Value) -> impl Iterator<Item = &'a Value> {
    let selector = object::selector(policy, "/spec/podSelector");
    s.within(Kind::Pod, namespace(policy))
        .filter(move |pod| selector.as_ref().is_some_and(|selector| selects(selector, pod)))
}

fn selects_nothing(s: &Snapshot, policy: &Value) -> Option<Finding> {
    if !s.knows(Kind::Pod, namespace(policy)) || selected(s, policy).next().is_some() {
        return None;
    }
    let next = format!("kubectl -n {} get pods --show-labels", namespace(policy));
    Some(
        Finding::new(
            &codes::NETPOL_SELECTS_NOTHING,
            ObjectRef::of(Kind::NetworkPolicy, policy),
            "it selects no pod, so it does nothing",
        )
        .next(next),
    )
}

/// Whether a policy is about a direction: `Ingress` or `Egress`.
fn is_about(policy: &Value, direction: &str) -> bool {
    let types = items(policy, "/spec/policyTypes");
    if types.is_empty() {
        return direction == "Ingress" || policy.pointer("/spec/egress").is_some();
    }
    types.iter().any(|t| t == direction)
}

/// The policies that are about a pod in a direction.
fn policies<'a>(s: &'a Snapshot, pod: &'a Value, direction: &'static str) -> Vec<&'a Value> {
    let all = s.within(Kind::NetworkPolicy, namespace(pod));
    all.filter(|policy| {
        is_about(policy, direction)
            && object::selector(policy, "/spec/podSelector").is_some_and(|selector| selects(&selector, pod))
    })
    .collect()
}

fn rules<'a>(policy: &'a Value, direction: &str) -> &'a [Value] {
    items(policy, if direction == "Ingress" { "/spec/ingress" } else { "/spec/egress" })
}

fn nobody_comes_in(s: &Snapshot, service: &Value) -> Option<Finding> {
    let selector = pairs(service, "/spec/selector");
    if selector.is_empty() {
        return None;
    }
    let pods = super::services::selected_pods(s, namespace(service), &selector);
    let pod = *pods.first()?;
    let own = policies(s, pod, "Ingress");
    if own.is_empty() || own.iter().any(|policy| !rules(policy, "Ingress").is_empty()) {
        return None;
    }
    let names: Vec<String> = own.iter().map(|policy| format!("{:?}", name(policy))).collect();
    let says = format!("network policy {} lets nobody reach its pods", names.join(", "));
    let next =
        format!("kubectl -n {} describe networkpolicy {}", namespace(service), own.first().map_or("", |p| name(p)));
    Some(
        Finding::new(&codes::NETPOL_NOBODY, ObjectRef::of(Kind::Service, service), says)
            .follows("connections to it time out, but those from the pods' own nodes")
            .next(next),
    )
}

/// A pod whose egress is limited, and that may ask nobody on port 53.
fn no_dns(s: &Snapshot, pod: &Value) -> Option<Finding> {
    let own = policies(s, pod, "Egress");
    if own.is_empty() || ["None", "Default"].contains(&text(pod, "/spec/dnsPolicy")) {
        return None;
    }
    let lets = |rule: &Value| port_fits(items(rule, "/ports"), "UDP", 53, None);
    if own.iter().any(|policy| rules(policy, "Egress").iter().any(lets)) {
        return None;
    }
    let names: Vec<String> = own.iter().map(|policy| format!("{:?}", name(policy))).collect();
    let says = format!("network policy {} doesn't let it ask the DNS (port 53)", names.join(", "));
    let next = format!("kubectl -n {} edit networkpolicy {}", namespace(pod), own.first().map_or("", |p| name(p)));
    let finding = Finding::new(&codes::NETPOL_DNS, ObjectRef::of(Kind::Pod, pod), says);
    Some(finding.follows("no name resolves in it").next(next))
}

/// Whether a rule's ports have one: none means all.
fn port_fits(ports: &[Value], protocol: &str, wanted: i64, target: Option<&Value>) -> bool {
    ports.is_empty()
        || ports.iter().any(|port| {
            let own = text(port, "/protocol");
            let own = if own.is_empty() { "TCP" } else { own };
            if own != protocol {
                return false;
            }
            match port.pointer("/port") {
                None | Some(Value::Null) => true,
                Some(Value::String(word)) => target.is_some_and(|pod| named_port(pod, word, protocol) == Some(wanted)),
                Some(number) => {
                    let first = number.as_i64().unwrap_or(0);
                    let last = int(port, "/endPort").unwrap_or(first);
                    (first..=last).contains(&wanted)
                }
            }
        })
}

fn named_port(pod: &Value, word: &str, protocol: &str) -> Option<i64> {
    let containers = pod::containers(pod);
    let mut ports = containers.iter().flat_map(|c| items(c.spec, "/ports"));
    let found = ports.find(|p| text(p, "/name") == word && ["", protocol].contains(&text(p, "/protocol")))?;
    int(found, "/containerPort")
}

/// Whether a CIDR has an address.
fn covers(cidr: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let same = |one: u128, other: u128, width: u32| {
        let Some(shift) = width.checked_sub(bits) else { return false };
        one.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
    };
    match (network, address) {
        (IpAddr::V4(one), IpAddr::V4(other)) => same(one.to_bits().into(), other.to_bits().into(), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => same(one.to_bits(), other.to_bits(), 128),
        _ => false,
    }
}

/// Whether a rule's peers have a pod: none means everybody.
fn peer_fits(s: &Snapshot, policy: &Value, peers: &[Value], other: &Value) -> bool {
    peers.is_empty()
        || peers.iter().any(|peer| {
            if let Some(cidr) = peer.pointer("/ipBlock/cidr").and_then(Value::as_str) {
                let Ok(address) = text(other, "/status/podIP").parse() else { return false };
                let except = items(peer, "/ipBlock/except").iter().filter_map(Value::as_str);
                return covers(cidr, address) && !except.into_iter().any(|cidr| covers(cidr, address));
            }
            let in_namespace = match object::selector(peer, "/namespaceSelector") {
                Some(selector) => s.get(Kind::Namespace, "", namespace(other)).is_some_and(|n| selects(&selector, n)),
                None => namespace(other) == namespace(policy),
            };
            in_namespace && object::selector(peer, "/podSelector").is_none_or(|selector| selects(&selector, other))
        })
}

/// What keeps one pod from reaching a port of another: the policies that are about one of them, none of which lets it.
pub fn cut(s: &Snapshot, from: &Value, to: &Value, protocol: &str, port: i64) -> Option<Finding> {
    for (pod, other, direction, field, side) in
        [(from, to, "Egress", "/to", "out of"), (to, from, "Ingress", "/from", "into")]
    {
        let own = policies(s, pod, direction);
        let lets = |policy: &&Value| {
            rules(policy, direction).iter().any(|rule| {
                peer_fits(s, policy, items(rule, field), other)
                    && port_fits(items(rule, "/ports"), protocol, port, Some(to))
            })
        };
        if own.is_empty() || own.iter().any(lets) {
            continue;
        }
        let names: Vec<String> = own.iter().map(|policy| format!("{:?}", name(policy))).collect();
        let says = format!(
            "it can't reach Pod {}/{} on port {port}/{protocol}: network policy {} doesn't let that {side} Pod {}/{}",
            namespace(to),
            name(to),
            names.join(", "),
            namespace(pod),
            name(pod)
        );
        let label = |pod: &Value| {
            pairs(pod, "/metadata/labels").iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
        };
        let next = format!("kubectl -n {} edit networkpolicy {}", namespace(pod), own.first().map_or("", |p| name(p)));
        return Some(
            Finding::new(&codes::NETPOL_CUT, ObjectRef::of(Kind::Pod, from), says)
                .detail(format!("labels of the one: {}", label(from)))
                .detail(format!(
                    "labels of the other: {} (namespace: {})",
                    label(to),
                    s.get(Kind::Namespace, "", namespace(to)).map_or(String::new(), label)
                ))
                .detail(format!("what is missing: a rule for {} with port {port}/{protocol}", direction.to_lowercase()))
                .follows("the connection times out")
                .next(next),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_their_networks() {
        assert!(covers("10.42.0.0/16", "10.42.3.4".parse().unwrap()));
        assert!(!covers("10.42.0.0/16", "10.43.3.4".parse().unwrap()));
        assert!(covers("0.0.0.0/0", "1.2.3.4".parse().unwrap()));
        assert!(covers("fd00::/8", "fd12::1".parse().unwrap()));
        assert!(!covers("nonsense", "1.2.3.4".parse().unwrap()));
    }
}
