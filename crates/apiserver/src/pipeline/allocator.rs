//! Gives services their addresses and node ports, each to one service only.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::addresses::nth;
use apimachinery::{AddressRanges, Cause, Family, ObjectExt as _, Status};
use ipnet::IpNet;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};

use api::{Kind, kinds, service_families as families};

use crate::Config;
use crate::registry::{Cache, Filter};

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

pub struct Allocator {
    ranges: AddressRanges,
    ports: (u16, u16),
    taken: Arc<Mutex<Taken>>,
}

/// What was taken for a write that isn't done yet. Given back when dropped, unless kept.
pub struct Lease {
    taken: Arc<Mutex<Taken>>,
    new: Taken,
    /// Of the old object; free once the write is done.
    gone: Taken,
}

impl Lease {
    /// The write succeeded.
    pub fn keep(mut self) {
        self.new = Taken::default();
        let gone = std::mem::take(&mut self.gone);
        free(&mut self.taken.lock(), &gone);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        free(&mut self.taken.lock(), &self.new);
    }
}

fn free(taken: &mut Taken, gone: &Taken) {
    taken.addresses.retain(|a| !gone.addresses.contains(a));
    taken.ports.retain(|p| !gone.ports.contains(p));
}

/// What a stored service holds.
fn held(service: &Value) -> Taken {
    let spec = &service["spec"];
    Taken {
        addresses: spec.strings_at(&["clusterIPs"]).iter().filter_map(|a| a.parse().ok()).collect(),
        ports: spec
            .array_at(&["ports"])
            .iter()
            .filter_map(|p| p.i64_at(&["nodePort"]))
            .chain(spec.i64_at(&["healthCheckNodePort"]))
            .filter_map(|p| u16::try_from(p).ok())
            .filter(|p| *p > 0)
            .collect(),
    }
}

impl Allocator {
    pub fn new(config: &Config, cache: &Cache) -> Self {
        let mut taken = Taken::default();
        // Fixed addresses, that no service gets by chance.
        taken.addresses.insert(config.cluster_dns);
        taken.addresses.insert(kubernetes_address(&config.service_cidr));
        for entry in cache.of(kinds::SERVICES).list(&Filter::default()).0 {
            let held = held(&entry.parse());
            taken.addresses.extend(held.addresses);
            taken.ports.extend(held.ports);
        }
        Allocator { ranges: config.service_cidr.clone(), ports: config.node_ports, taken: Arc::new(Mutex::new(taken)) }
    }

    pub fn release(&self, kind: &Kind, object: &Value) {
        if kind == kinds::SERVICES {
            free(&mut self.taken.lock(), &held(object));
        }
    }

    /// Fills in what a service should have and doesn't, and refuses what another one has.
    pub fn assign(&self, kind: &Kind, object: &mut Value, old: Option<&Value>) -> Result<Lease, Status> {
        let mut lease = Lease { taken: self.taken.clone(), new: Taken::default(), gone: Taken::default() };
        if kind != kinds::SERVICES {
            return Ok(lease);
        }
        let before = old.map(held).unwrap_or_default();
        if let Some(old) = old {
            carry_over(object, old);
        }
        let mut causes = Vec::new();
        let mut taken = self.taken.lock();
        self.address(object, (old, &before), &mut taken, &mut lease, &mut causes);
        self.node_ports(object, &before, &mut taken, &mut lease, &mut causes);
        self.health_port(object, &before, &mut taken, &mut lease, &mut causes);
        drop(taken);
        if !causes.is_empty() {
            return Err(kind.invalid(object.name(), causes));
        }
        let after = held(object);
        lease.gone.addresses = before.addresses.difference(&after.addresses).copied().collect();
        lease.gone.ports = before.ports.difference(&after.ports).copied().collect();
        Ok(lease)
    }

    fn address(
        &self,
        object: &mut Value,
        (old, before): (Option<&Value>, &Taken),
        taken: &mut Taken,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        // Addresses stay from one update to the next, unless the service was one without.
        let old = old.map(|old| &old["spec"]).filter(|old| old["type"] != "ExternalName");
        let spec = &mut object["spec"];
        if spec["type"] == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if let Some(map) = spec.as_object_mut() {
                    map.remove(field);
                }
            }
            return;
        }
        let families: Vec<Family> = self.ranges.families().collect();
        families::settle(spec, old, &families, causes);
        let wanted = spec.strings_at(&["ipFamilies"]).into_iter().filter_map(families::family).collect::<Vec<_>>();
        let asked: Vec<String> = spec.strings_at(&["clusterIPs"]).into_iter().map(String::from).collect();
        if !causes.is_empty() || asked.first().is_some_and(|a| a == "None") {
            return;
        }
        let fixed = object_is_fixed(object);
        let mut addresses = Vec::new();
        for (i, text) in asked.iter().enumerate() {
            // A malformed address is refused by the validation that follows.
            let Ok(address) = text.parse::<IpAddr>() else { return };
            // The two fixed addresses are there for the two services that are made for them.
            if !before.addresses.contains(&address) && !fixed {
                match self.take(address, taken) {
                    Ok(()) => _ = lease.new.addresses.insert(address),
                    Err(why) => {
                        let detail = format!("failed to allocate IP {address}: {why}");
                        causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), &json!(text), &detail));
                    }
                }
            }
            addresses.push(text.clone());
        }
        for family in wanted.into_iter().skip(asked.len()) {
            let Some(address) = self.ranges.of(family).and_then(|range| free_address(range, taken)) else {
                let detail = format!("failed to allocate a serviceIP: the {family} range is full");
                causes.push(Cause::invalid("spec.clusterIPs", &json!([]), &detail));
                return;
            };
            taken.addresses.insert(address);
            lease.new.addresses.insert(address);
            addresses.push(address.to_string());
        }
        let first = &mut object["spec"]["clusterIP"];
        if first.as_str().is_none_or(str::is_empty) {
            *first = addresses.first().map_or("", String::as_str).into();
        }
        object["spec"]["clusterIPs"] = addresses.into();
    }

    /// Takes the address that is asked for.
    fn take(&self, address: IpAddr, taken: &mut Taken) -> Result<(), String> {
        if !self.ranges.contains(address) {
            let ranges = &self.ranges;
            return Err(format!("the provided IP is not in the valid range. The range of valid IPs is {ranges}"));
        }
        if taken.addresses.insert(address) { Ok(()) } else { Err("provided IP is already allocated".into()) }
    }

    fn node_ports(
        &self,
        object: &mut Value,
        before: &Taken,
        taken: &mut Taken,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        let kind = object.str_at(&["spec", "type"]).to_string();
        let balancer = kind == "LoadBalancer" && object["spec"]["allocateLoadBalancerNodePorts"] != false;
        let wants = kind == "NodePort" || balancer;
        let mut used_here: Vec<(u16, String)> = Vec::new();
        let ports = object["spec"].get_mut("ports").and_then(Value::as_array_mut);
        for (i, port) in ports.into_iter().flatten().enumerate() {
            let asked = port.i64_at(&["nodePort"]).unwrap_or(0);
            let protocol = port.str_at(&["protocol"]).to_string();
            if asked == 0 && !wants {
                continue;
            }
            let mut number = u16::try_from(asked).unwrap_or(0);
            // The service's own, or the same number for another protocol.
            let own = before.ports.contains(&number) || used_here.iter().any(|(n, p)| *n == number && *p != protocol);
            match self.take_port(asked, asked != 0 && own, taken, lease) {
                Ok(taken) => {
                    number = taken;
                    port["nodePort"] = number.into();
                }
                Err(why) => causes.push(Cause::invalid(format!("spec.ports[{i}].nodePort"), &json!(asked), &why)),
            }
            used_here.push((number, protocol));
        }
    }

    /// The port that is asked for, or any that is free for 0; `own` ports are the service's already.
    fn take_port(&self, asked: i64, own: bool, taken: &mut Taken, lease: &mut Lease) -> Result<u16, String> {
        let (first, last) = self.ports;
        let number = match asked {
            0 => self.free_port(taken).ok_or("failed to allocate a nodePort: range is full")?,
            asked => u16::try_from(asked).unwrap_or(0),
        };
        if number < first || number > last {
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        }
        if !own {
            if !taken.ports.insert(number) {
                return Err("provided port is already allocated".into());
            }
            lease.new.ports.insert(number);
        }
        Ok(number)
    }

    /// A balancer outside asks at this port which nodes have endpoints (`externalTrafficPolicy: Local`).
    fn health_port(
        &self,
        object: &mut Value,
        before: &Taken,
        taken: &mut Taken,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        const FIELD: &str = "healthCheckNodePort";
        let spec = &object["spec"];
        let wants = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
        let asked = spec.i64_at(&[FIELD]).unwrap_or(0);
        if !wants {
            // What nobody wrote and nobody wants goes; what somebody wrote is refused by the validation.
            if (asked == 0 || u16::try_from(asked).is_ok_and(|p| before.ports.contains(&p)))
                && let Some(spec) = object["spec"].as_object_mut()
            {
                spec.remove(FIELD);
            }
            return;
        }
        let own = u16::try_from(asked).is_ok_and(|port| before.ports.contains(&port));
        match self.take_port(asked, own, taken, lease) {
            Ok(number) => object["spec"][FIELD] = number.into(),
            Err(why) => causes.push(Cause::invalid(format!("spec.{FIELD}"), &json!(asked), &why)),
        }
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let (first, last) = self.ports;
        let mut rng = rand::rng();
        let random = (0..64).map(|_| rng.random_range(first..=last)).find(|p| !taken.ports.contains(p));
        random.or_else(|| (first..=last).find(|p| !taken.ports.contains(p)))
    }
}

/// An address that no service has, neither the first nor the last of the range.
fn free_address(range: IpNet, taken: &Taken) -> Option<IpAddr> {
    let size = 1u32 << (u32::from(range.max_prefix_len() - range.prefix_len())).min(20);
    let at = |place: u32| nth(range, place);
    // By chance first, then in order once the range is nearly full.
    let mut rng = rand::rng();
    let random = (0..64).map(|_| rng.random_range(1..size - 1)).map(at).find(|a| !taken.addresses.contains(a));
    random.or_else(|| (1..size - 1).map(at).find(|a| !taken.addresses.contains(a)))
}

/// The first address of the range, which the `kubernetes` service has.
pub fn kubernetes_address(ranges: &AddressRanges) -> IpAddr {
    ranges.nth(1)
}

fn object_is_fixed(object: &Value) -> bool {
    matches!((object.namespace(), object.name()), ("default", "kubernetes") | ("kube-system", "kube-dns"))
}

/// A manifest that is applied again doesn't name what was given out; it keeps it.
fn carry_over(object: &mut Value, old: &Value) {
    let (new_type, old_type) = (object.str_at(&["spec", "type"]).to_string(), old.str_at(&["spec", "type"]));
    if new_type != "ExternalName" && old_type != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if object["spec"][field].is_null() || object["spec"][field] == "" {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.retain(|_, v| !v.is_null());
        }
    }
    let health = &old["spec"]["healthCheckNodePort"];
    let balanced = new_type == "LoadBalancer" && object["spec"]["externalTrafficPolicy"] == "Local";
    if balanced && !health.is_null() && object["spec"]["healthCheckNodePort"].is_null() {
        object["spec"]["healthCheckNodePort"] = health.clone();
    }
    let exposed = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    let old_ports = old.array_at(&["spec", "ports"]).to_vec();
    for port in object["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = old_ports.iter().find(|o| {
            o["protocol"] == port["protocol"]
                && (o["port"] == port["port"] || (o["name"].is_string() && o["name"] == port["name"]))
        });
        let had = same.map_or(Value::Null, |o| o["nodePort"].clone());
        if exposed(&new_type) && port["nodePort"].is_null() && !had.is_null() {
            port["nodePort"] = had;
        } else if !exposed(&new_type)
            && exposed(old_type)
            && port["nodePort"] == had
            && let Some(map) = port.as_object_mut()
        {
            map.remove("nodePort");
        }
    }
}
