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
struct Allocated {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// The addresses and node ports of services.
pub struct Allocator {
    ranges: AddressRanges,
    ports: (u16, u16),
    taken: Arc<Mutex<Allocated>>,
}

/// Addresses and ports that a write took; given back when dropped, unless kept.
pub struct Lease {
    taken: Arc<Mutex<Allocated>>,
    new: Allocated,
    /// Those of the old object that the new one hasn't; free once the write is done.
    gone: Allocated,
}

impl Lease {
    /// The write succeeded.
    pub fn commit(mut self) {
        self.new = Allocated::default();
        let gone = std::mem::take(&mut self.gone);
        free(&mut self.taken.lock(), &gone);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        free(&mut self.taken.lock(), &self.new);
    }
}

fn free(taken: &mut Allocated, gone: &Allocated) {
    taken.addresses.retain(|a| !gone.addresses.contains(a));
    taken.ports.retain(|p| !gone.ports.contains(p));
}

/// The addresses and ports of a stored service.
fn held(service: &Value) -> Allocated {
    let spec = &service["spec"];
    Allocated {
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
    /// The allocator of a configuration's ranges, of which the stored services have theirs.
    pub fn new(config: &Config, cache: &Cache) -> Self {
        let mut taken = Allocated::default();
        // Reserved addresses, which no service gets by chance.
        taken.addresses.insert(config.cluster_dns);
        taken.addresses.insert(kubernetes_address(&config.service_cidr));
        for entry in cache.of(kinds::SERVICES).list(&Filter::default()).0 {
            let held = held(&entry.parse());
            taken.addresses.extend(held.addresses);
            taken.ports.extend(held.ports);
        }
        Allocator { ranges: config.service_cidr.clone(), ports: config.node_ports, taken: Arc::new(Mutex::new(taken)) }
    }

    /// Gives the addresses and ports of a service that is gone back.
    pub fn release(&self, kind: &Kind, object: &Value) {
        if kind == kinds::SERVICES {
            let mut held = held(object);
            if is_reserved(object) {
                // They stay reserved for the service of that name.
                held.addresses.clear();
            }
            free(&mut self.taken.lock(), &held);
        }
    }

    /// Sets the addresses and ports that a service lacks, and takes those that it names.
    ///
    /// # Errors
    /// 422 for addresses and ports that aren't in their range, or are another service's, and when a range is full.
    pub fn assign(&self, kind: &Kind, object: &mut Value, old: Option<&Value>) -> Result<Lease, Status> {
        let mut lease = Lease { taken: self.taken.clone(), new: Allocated::default(), gone: Allocated::default() };
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
        (old, before): (Option<&Value>, &Allocated),
        taken: &mut Allocated,
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
        let requested: Vec<String> = spec.strings_at(&["clusterIPs"]).into_iter().map(String::from).collect();
        if !causes.is_empty() || requested.first().is_some_and(|a| a == "None") {
            return;
        }
        let fixed = is_reserved(object);
        let mut addresses = Vec::new();
        for (i, text) in requested.iter().enumerate() {
            // A malformed address is refused by the validation that follows.
            let Ok(address) = text.parse::<IpAddr>() else { return };
            // The two reserved addresses are for the services `kubernetes` and `kube-dns`.
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
        for family in wanted.into_iter().skip(requested.len()) {
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

    /// Takes the address that is requested for.
    fn take(&self, address: IpAddr, taken: &mut Allocated) -> Result<(), String> {
        if !self.ranges.contains(address) {
            let ranges = &self.ranges;
            return Err(format!("the provided IP is not in the valid range. The range of valid IPs is {ranges}"));
        }
        if taken.addresses.insert(address) { Ok(()) } else { Err("provided IP is already allocated".into()) }
    }

    fn node_ports(
        &self,
        object: &mut Value,
        before: &Allocated,
        taken: &mut Allocated,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        let kind = object.str_at(&["spec", "type"]).to_string();
        let balancer = kind == "LoadBalancer" && object["spec"]["allocateLoadBalancerNodePorts"] != false;
        let wants = kind == "NodePort" || balancer;
        let mut used_here: Vec<(u16, String)> = Vec::new();
        let ports = object["spec"].get_mut("ports").and_then(Value::as_array_mut);
        for (i, port) in ports.into_iter().flatten().enumerate() {
            let requested = port.i64_at(&["nodePort"]).unwrap_or(0);
            let protocol = port.str_at(&["protocol"]).to_string();
            if requested == 0 && !wants {
                continue;
            }
            let mut number = u16::try_from(requested).unwrap_or(0);
            // The service's own, or the same number for another protocol.
            let own = before.ports.contains(&number) || used_here.iter().any(|(n, p)| *n == number && *p != protocol);
            match self.take_port(requested, requested != 0 && own, taken, lease) {
                Ok(taken) => {
                    number = taken;
                    port["nodePort"] = number.into();
                }
                Err(why) => causes.push(Cause::invalid(format!("spec.ports[{i}].nodePort"), &json!(requested), &why)),
            }
            used_here.push((number, protocol));
        }
    }

    /// The port that is requested for, or any that is free for 0; `own` ports are the service's already.
    fn take_port(&self, requested: i64, own: bool, taken: &mut Allocated, lease: &mut Lease) -> Result<u16, String> {
        let (first, last) = self.ports;
        let number = match requested {
            0 => self.free_port(taken).ok_or("failed to allocate a nodePort: range is full")?,
            requested => u16::try_from(requested).unwrap_or(0),
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
        before: &Allocated,
        taken: &mut Allocated,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        const FIELD: &str = "healthCheckNodePort";
        let spec = &object["spec"];
        let wants = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
        let requested = spec.i64_at(&[FIELD]).unwrap_or(0);
        if !wants {
            // A port that was allocated and is no longer needed is removed; one that the client wrote is refused by the validation.
            if (requested == 0 || u16::try_from(requested).is_ok_and(|p| before.ports.contains(&p)))
                && let Some(spec) = object["spec"].as_object_mut()
            {
                spec.remove(FIELD);
            }
            return;
        }
        let own = u16::try_from(requested).is_ok_and(|port| before.ports.contains(&port));
        match self.take_port(requested, own, taken, lease) {
            Ok(number) => object["spec"][FIELD] = number.into(),
            Err(why) => causes.push(Cause::invalid(format!("spec.{FIELD}"), &json!(requested), &why)),
        }
    }

    fn free_port(&self, taken: &Allocated) -> Option<u16> {
        let (first, last) = self.ports;
        let mut rng = rand::rng();
        let random = (0..64).map(|_| rng.random_range(first..=last)).find(|p| !taken.ports.contains(p));
        random.or_else(|| (first..=last).find(|p| !taken.ports.contains(p)))
    }
}

/// An address that no service has, neither the first nor the last of the range.
fn free_address(range: IpNet, taken: &Allocated) -> Option<IpAddr> {
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

fn is_reserved(object: &Value) -> bool {
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
