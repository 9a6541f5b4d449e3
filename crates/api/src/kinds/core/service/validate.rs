//! What is checked of a Service.

use std::collections::HashSet;

use apimachinery::{Cause, Family, ObjectExt as _, names};
use serde_json::{Value, json};

use crate::validate::field::{Causes, Field};
use crate::validate::{meta, status};

pub fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
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
    meta::labels(spec.at("selector").value, "spec.selector", causes);
    service_ports(&spec, kind, causes);
    traffic(&spec, kind, causes);
}

/// Who balances the load, of a service that has somebody.
pub fn status(object: &Value, _: &Value, causes: &mut Causes) {
    let status = status::of(object);
    let places = status.at("loadBalancer").at("ingress");
    if object["spec"]["type"] != "LoadBalancer" && !places.is_empty() {
        return places.forbid("may only be used when `spec.type` is \"LoadBalancer\"", causes);
    }
    status::load_balancer(&status, causes);
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
    if let Some(old) = old {
        addresses_stay(old, &ips, &names, &policy, causes);
    }
}

/// Once given, an address stays; the second may go with its family.
fn addresses_stay(old: &Value, ips: &[&str], names: &[&str], policy: &Field<'_>, causes: &mut Causes) {
    let may_lose = policy.text() == "SingleStack";
    for (field, new) in [("clusterIPs", ips), ("ipFamilies", names)] {
        for (i, was) in old.strings_at(&[field]).into_iter().enumerate() {
            let path = format!("spec.{field}[{i}]");
            match new.get(i) {
                Some(is) if *is == was => {}
                None if i > 0 && may_lose => {}
                None if i > 0 => {
                    let what = if field == "clusterIPs" { "clusterIP" } else { "ipFamily" };
                    let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
                    causes.push(Cause::invalid("spec.ipFamilyPolicy", policy.value, &why));
                }
                _ => causes.push(Cause::invalid(&path, &json!(new), "may not change once set")),
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
        port.at("appProtocol").is_if_said(names::qualified_name, causes);
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
        address.not_special(causes);
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
    spec.at("loadBalancerClass").is_if_said(names::qualified_name, causes);
    let reaches_out = balanced || kind == "NodePort" || !spec.at("externalIPs").is_empty();
    if spec.at("externalTrafficPolicy").is_set() && !spec.at("externalTrafficPolicy").is_empty() && !reaches_out {
        let why = "may only be set for externally-accessible services";
        spec.at("externalTrafficPolicy").invalid(why, causes);
    }
}
