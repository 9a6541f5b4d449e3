//! Services, Ingresses, network policies, endpoints.

use std::collections::HashSet;
use std::net::IpAddr;

use apimachinery::{Cause, Family, ObjectExt as _, names};
use serde_json::{Value, json};

use super::field::{Causes, Field, too_many};

pub fn service(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let spec = object.at("spec");
    let kind = spec.at("type").text();
    spec.at("type").must_be(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    affinity(&spec, causes);
    let cluster_ip = spec.at("clusterIP").text();
    let headless = cluster_ip == "None";
    if spec.at("ports").is_empty() && kind != "ExternalName" && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        if !cluster_ip.is_empty() {
            causes.push(Cause::forbidden("spec.clusterIPs", "may not be set for ExternalName services"));
        }
        let name = spec.at("externalName");
        if name.require("", causes) {
            let trimmed = name.text().trim_end_matches('.');
            if let Err(why) = names::dns1123_subdomain(trimmed) {
                name.invalid(&why, causes);
            }
        }
    } else {
        if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            let detail = format!("may not be set to 'None' for {kind} services");
            causes.push(Cause::invalid("spec.clusterIPs[0]", &json!("None"), &detail));
        }
        let old = old.filter(|old| old["spec"]["type"] != "ExternalName").map(|old| &old["spec"]);
        cluster_addresses(&spec, old, causes);
    }
    super::meta::labels(spec.at("selector").value, "spec.selector", causes);
    service_ports(&spec, kind, causes);
    traffic(&spec, kind, causes);
}

/// One address of each family, as the families and their policy say (KEP-563).
fn cluster_addresses(spec: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let (addresses, families) = (spec.at("clusterIPs"), spec.at("ipFamilies"));
    let (ips, names) = (addresses.texts(), families.texts());
    for field in [&addresses, &families] {
        if field.value.as_array().is_some_and(|list| list.len() > 2) {
            field.invalid("may only hold up to 2 values", causes);
        }
    }
    if ips.first().is_some_and(|first| *first != spec.at("clusterIP").text()) {
        addresses.invalid("first value must match `clusterIP`", causes);
    }
    if ips.len() > 1 && ips.contains(&"None") {
        addresses.invalid("'None' must be the first and only value", causes);
    }
    let family = |text: &str| text.parse().ok().map(|a| Family::of(a).name());
    for (i, ip) in addresses.items().enumerate().filter(|(_, ip)| ip.text() != "None") {
        match (family(ip.text()), names.get(i)) {
            (None, _) => ip.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", causes),
            (Some(is), Some(wanted)) if is != *wanted => {
                ip.invalid(&format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`"), causes);
            }
            _ => {}
        }
    }
    if let [a, b] = ips.as_slice()
        && family(a).is_some()
        && family(a) == family(b)
    {
        addresses.invalid("may specify no more than one IP for each IP family", causes);
    }
    for (i, name) in families.items().enumerate() {
        name.one_of(&["IPv4", "IPv6"], causes);
        if names[..i].contains(&name.text()) {
            causes.push(Cause::duplicate(&name.path, name.value));
        }
    }
    let policy = spec.at("ipFamilyPolicy");
    if matches!(policy.text(), "" | "SingleStack") {
        for (what, count) in [("multiple 'ipFamilies'", names.len()), ("multiple cluster IPs", ips.len())] {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when {what} are specified");
            if count > 1 {
                policy.invalid(&why, causes);
            }
        }
    }
    let Some(old) = old else { return };
    // Once given, an address stays; the second may go with its family.
    let may_lose = policy.text() == "SingleStack";
    for (field, new) in [("clusterIPs", &ips), ("ipFamilies", &names)] {
        for (i, was) in old.strings_at(&[field]).into_iter().enumerate() {
            let path = format!("spec.{field}[{i}]");
            match new.get(i) {
                Some(is) if *is == was => {}
                None if i > 0 && may_lose => {}
                None if i > 0 => {
                    let why = "must be 'SingleStack' to release the secondary one";
                    causes.push(Cause::invalid("spec.ipFamilyPolicy", policy.value, why));
                }
                is => causes.push(Cause::invalid(&path, &json!(is), "may not change once set")),
            }
        }
    }
}

fn affinity(spec: &Field<'_>, causes: &mut Causes) {
    spec.at("sessionAffinity").must_be(&["ClientIP", "None"], causes);
    let config = spec.at("sessionAffinityConfig");
    let seconds = config.at("clientIP").at("timeoutSeconds");
    if seconds.value.as_i64().is_some_and(|n| n <= 0 || n > 86_400) {
        seconds.invalid("must be greater than 0 and less than 86400", causes);
    }
    if spec.at("sessionAffinity").text() == "None" && config.is_set() {
        config.forbid("must not be set when session affinity is None", causes);
    }
}

fn service_ports(spec: &Field<'_>, kind: &str, causes: &mut Causes) {
    let ports = spec.at("ports");
    let several = ports.value.as_array().map_or(0, Vec::len) > 1;
    let (mut names_seen, mut pairs, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for port in ports.items() {
        let name = port.at("name");
        if name.is_empty() && several {
            causes.push(Cause::required(&name.path, ""));
        }
        name.is(names::dns1123_label, causes);
        if !name.is_empty() && !names_seen.insert(name.text()) {
            causes.push(Cause::duplicate(&name.path, name.value));
        }
        port.at("port").port(causes);
        port.at("targetPort").port_or_name(causes);
        port.at("protocol").must_be(&["SCTP", "TCP", "UDP"], causes);
        port.at("appProtocol").is(names::qualified_name, causes);
        let pair = (port.at("port").value, port.at("protocol").value);
        if !pairs.insert((pair.0.as_i64(), pair.1.as_str())) {
            causes.push(Cause::duplicate(&port.path, &json!({"port": pair.0, "protocol": pair.1})));
        }
        let node_port = port.at("nodePort");
        if node_port.value.as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            node_port.forbid(&format!("may not be used when `type` is '{kind}'"), causes);
        }
        if !node_ports.insert((node_port.value.as_i64(), port.at("protocol").text())) {
            causes.push(Cause::duplicate(&node_port.path, node_port.value));
        }
    }
}

fn traffic(spec: &Field<'_>, kind: &str, causes: &mut Causes) {
    for address in spec.at("externalIPs").items() {
        address.address(causes);
        not_special(&address, causes);
    }
    spec.at("internalTrafficPolicy").one_of(&["Cluster", "Local"], causes);
    spec.at("externalTrafficPolicy").one_of(&["Cluster", "Local"], causes);
    spec.at("trafficDistribution").one_of(&["PreferClose", "PreferSameNode", "PreferSameZone"], causes);
    spec.at("ipFamilyPolicy").one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"], causes);
    let balanced = kind == "LoadBalancer";
    for range in spec.at("loadBalancerSourceRanges").items() {
        range.network(causes);
    }
    let local = spec.at("externalTrafficPolicy").text() == "Local";
    if !(balanced && local) && spec.at("healthCheckNodePort").value.as_i64().unwrap_or(0) != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        spec.at("healthCheckNodePort").invalid(why, causes);
    }
    for (field, why) in [
        ("loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"),
        ("loadBalancerClass", "may only be used when `type` is 'LoadBalancer'"),
        ("allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'"),
    ] {
        if !balanced && spec.at(field).is_set() && !spec.at(field).is_empty() {
            spec.at(field).forbid(why, causes);
        }
    }
    spec.at("loadBalancerClass").is(names::qualified_name, causes);
    let reaches_out = balanced || kind == "NodePort" || !spec.at("externalIPs").is_empty();
    if spec.at("externalTrafficPolicy").is_set() && !spec.at("externalTrafficPolicy").is_empty() && !reaches_out {
        let why = "may only be set for externally-accessible services";
        spec.at("externalTrafficPolicy").invalid(why, causes);
    }
}

fn host(field: &Field<'_>, causes: &mut Causes) {
    if field.is_empty() {
        return;
    }
    if field.text().parse::<std::net::IpAddr>().is_ok() {
        field.invalid("must be a DNS name, not an IP address", causes);
        return;
    }
    let name = field.text().strip_prefix("*.").unwrap_or(field.text());
    if let Err(why) = names::dns1123_subdomain(name) {
        field.invalid(&why, causes);
    }
}

fn backend(backend: &Field<'_>, causes: &mut Causes) {
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    match (service.is_set(), resource.is_set()) {
        (false, false) => causes.push(Cause::required(&backend.path, "must specify a service or a resource backend")),
        (true, true) => backend.invalid("cannot set both resource and service backends", causes),
        (true, false) => {
            if service.at("name").require("", causes) {
                service.at("name").is(names::dns1035_label, causes);
            }
            let (name, number) = (service.at("port").at("name"), service.at("port").at("number"));
            let has_number = number.value.as_i64().unwrap_or(0) != 0;
            match (name.is_empty(), has_number) {
                (true, false) => causes.push(Cause::required(service.path, "port name or number is required")),
                (false, true) => service.invalid("cannot set both port name & port number", causes),
                (false, false) => name.is(names::port_name, causes),
                (true, true) => number.port(causes),
            }
        }
        (false, true) => {
            resource.at("kind").require("", causes);
            resource.at("name").require("", causes);
        }
    }
}

pub fn ingress(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    if spec.at("rules").is_empty() && !spec.at("defaultBackend").is_set() {
        spec.invalid("either `defaultBackend` or `rules` must be specified", causes);
    }
    if spec.at("defaultBackend").is_set() {
        backend(&spec.at("defaultBackend"), causes);
    }
    spec.at("ingressClassName").is(names::dns1123_subdomain, causes);
    for tls in spec.at("tls").items() {
        for name in tls.at("hosts").items() {
            host(&name, causes);
        }
    }
    for rule in spec.at("rules").items() {
        host(&rule.at("host"), causes);
        if rule.at("http").is_set() {
            rule.at("http").at("paths").require("", causes);
        }
        for path in rule.at("http").at("paths").items() {
            path.at("pathType").must_be(&["Exact", "ImplementationSpecific", "Prefix"], causes);
            check_path(&path, causes);
            backend(&path.at("backend"), causes);
        }
    }
}

fn check_path(path: &Field<'_>, causes: &mut Causes) {
    let text = path.at("path");
    let free = path.at("pathType").text() == "ImplementationSpecific";
    let may_lack = free && text.is_empty();
    if !may_lack && !text.text().starts_with('/') {
        text.invalid("must be an absolute path", causes);
    }
    if free {
        return;
    }
    for bad in ["//", "/./", "/../", "%2f", "%2F"] {
        if text.text().contains(bad) {
            text.invalid(&format!("must not contain '{bad}'"), causes);
        }
    }
    for bad in ["/..", "/."] {
        if text.text().ends_with(bad) {
            text.invalid(&format!("cannot end with '{bad}'"), causes);
        }
    }
}

pub fn ingress_class(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let controller = object.at("spec").at("controller");
    controller.immutable(old, causes);
    if controller.text().len() > 250 {
        controller.invalid("must be no more than 250 characters", causes);
    }
    let prefixed = controller
        .text()
        .split_once('/')
        .is_some_and(|(domain, path)| names::dns1123_subdomain(domain).is_ok() && !path.is_empty());
    if controller.require("", causes) && !prefixed {
        controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")", causes);
    }
    let parameters = object.at("spec").at("parameters");
    if parameters.is_set() {
        parameters.at("kind").require("kind is required", causes);
        parameters.at("name").require("name is required", causes);
        parameters.at("scope").one_of(&["Cluster", "Namespace"], causes);
        if parameters.at("scope").text() == "Namespace" {
            parameters.at("namespace").require("`parameters.scope` is set to 'Namespace'", causes);
        }
    }
}

pub fn policy(object: &Field<'_>, causes: &mut Causes) {
    let spec = object.at("spec");
    spec.at("podSelector").selector(causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(direction).items() {
            for port in rule.at("ports").items() {
                policy_port(&port, causes);
            }
            for peer in rule.at(peers).items() {
                policy_peer(&peer, causes);
            }
        }
    }
    too_many(&spec.at("policyTypes"), 2, causes);
    for kind in spec.at("policyTypes").items() {
        kind.one_of(&["Egress", "Ingress"], causes);
    }
}

fn policy_port(of: &Field<'_>, causes: &mut Causes) {
    of.at("protocol").one_of(&["SCTP", "TCP", "UDP"], causes);
    let (port, end) = (of.at("port"), of.at("endPort"));
    if port.is_set() {
        port.port_or_name(causes);
    }
    if !end.is_set() {
        return;
    }
    match port.value.as_i64() {
        None if port.is_set() => end.invalid("may not be specified when `port` is non-numeric", causes),
        None => causes.push(Cause::required(port.path, "must be specified when `endPort` is specified")),
        Some(from) if end.value.as_i64().is_some_and(|to| to < from) => {
            end.invalid("must be greater than or equal to `port`", causes);
        }
        Some(_) => end.port(causes),
    }
}

fn policy_peer(peer: &Field<'_>, causes: &mut Causes) {
    let block = peer.at("ipBlock");
    let selectors = ["podSelector", "namespaceSelector"].map(|s| peer.at(s));
    for selector in selectors.iter().filter(|s| s.is_set()) {
        selector.selector(causes);
    }
    let any_selector = selectors.iter().any(Field::is_set);
    if !block.is_set() {
        if !any_selector {
            causes.push(Cause::required(&peer.path, "must specify a peer"));
        }
        return;
    }
    if any_selector {
        peer.forbid("may not specify both ipBlock and another peer", causes);
    }
    let Some(network) = block.at("cidr").network(causes) else { return };
    for except in block.at("except").items() {
        if let Some(inner) = except.network(causes)
            && (!network.contains(&inner) || network == inner)
        {
            let why = format!("must be a strict subset of `cidr`: {network}");
            except.invalid(&why, causes);
        }
    }
}

pub fn endpoint_slice(object: &Field<'_>, old: Option<&Value>, causes: &mut Causes) {
    let kind = object.at("addressType");
    kind.must_be(&["FQDN", "IPv4", "IPv6"], causes);
    kind.immutable(old, causes);
    too_many(&object.at("endpoints"), 1000, causes);
    for endpoint in object.at("endpoints").items() {
        let addresses = endpoint.at("addresses");
        addresses.require("must contain at least 1 address", causes);
        too_many(&addresses, 100, causes);
        for address in addresses.items() {
            match kind.text() {
                "IPv4" if address.text().parse::<std::net::Ipv4Addr>().is_err() => {
                    address.invalid("must be a valid IPv4 address", causes);
                }
                "IPv6" if address.text().parse::<std::net::Ipv6Addr>().is_err() => {
                    address.invalid("must be a valid IPv6 address", causes);
                }
                "FQDN" => address.is(names::dns1123_subdomain, causes),
                _ => not_special(&address, causes),
            }
        }
    }
    object.at("ports").unique("name", causes);
    too_many(&object.at("ports"), 100, causes);
    for port in object.at("ports").items() {
        port.at("name").is(names::dns1123_label, causes);
        port.at("protocol").must_be(&["SCTP", "TCP", "UDP"], causes);
        if port.at("port").is_set() {
            port.at("port").port(causes);
        }
    }
}

/// Refuses addresses that mean another machine for everybody who reads them (upstream's `ValidateNonSpecialIP`).
fn not_special(field: &Field<'_>, causes: &mut Causes) {
    let Ok(ip) = field.text().parse::<IpAddr>() else { return };
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let why = match ip {
        _ if ip.is_unspecified() => format!("may not be unspecified ({ip})"),
        _ if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
        _ if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into(),
        _ if ip.is_multicast() => "may not be in the multicast range (224.0.0.0/4, ff00::/8)".into(),
        IpAddr::V4(v4) if v4.is_broadcast() => "may not be the broadcast address".into(),
        _ => return,
    };
    field.invalid(&why, causes);
}

pub fn endpoints(object: &Field<'_>, causes: &mut Causes) {
    for subset in object.at("subsets").items() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.at(list));
        if lists.iter().all(Field::is_empty) {
            causes.push(Cause::required(&subset.path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for address in lists.iter().flat_map(Field::items) {
            address.at("ip").address(causes);
            not_special(&address.at("ip"), causes);
        }
        for port in subset.at("ports").items() {
            port.at("port").port(causes);
            port.at("protocol").one_of(&["SCTP", "TCP", "UDP"], causes);
        }
    }
}
