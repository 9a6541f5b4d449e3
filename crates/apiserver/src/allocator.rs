//! Gives services their addresses and node ports, each to one service only.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Cause, ObjectExt as _, Status};
use ipnet::IpNet;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};

use api::Kind;

use crate::Config;
use crate::cache::Cache;
use crate::object::Filter;

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

pub struct Allocator {
    cidr: IpNet,
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
        taken.addresses.extend(kubernetes_address(&config.service_cidr));
        for entry in cache.named("services").list(&Filter::default()).0 {
            let held = held(&entry.parse());
            taken.addresses.extend(held.addresses);
            taken.ports.extend(held.ports);
        }
        Allocator { cidr: config.service_cidr, ports: config.node_ports, taken: Arc::new(Mutex::new(taken)) }
    }

    pub fn release(&self, kind: &Kind, object: &Value) {
        if kind.plural == "services" {
            free(&mut self.taken.lock(), &held(object));
        }
    }

    /// Fills in what a service should have and doesn't, and refuses what another one has.
    pub fn assign(&self, kind: &Kind, object: &mut Value, old: Option<&Value>) -> Result<Lease, Status> {
        let mut lease = Lease { taken: self.taken.clone(), new: Taken::default(), gone: Taken::default() };
        if kind.plural != "services" || !kind.group.is_empty() {
            return Ok(lease);
        }
        let before = old.map(held).unwrap_or_default();
        if let Some(old) = old {
            carry_over(object, old);
        }
        let mut causes = Vec::new();
        let mut taken = self.taken.lock();
        self.address(object, &before, &mut taken, &mut lease, &mut causes);
        self.node_ports(object, &before, &mut taken, &mut lease, &mut causes);
        self.health_port(object, &before, &mut taken, &mut lease, &mut causes);
        drop(taken);
        if !causes.is_empty() {
            return Err(Status::invalid("", "Service", object.name(), causes));
        }
        let after = held(object);
        lease.gone.addresses = before.addresses.difference(&after.addresses).copied().collect();
        lease.gone.ports = before.ports.difference(&after.ports).copied().collect();
        Ok(lease)
    }

    fn address(
        &self,
        object: &mut Value,
        before: &Taken,
        taken: &mut Taken,
        lease: &mut Lease,
        causes: &mut Vec<Cause>,
    ) {
        let spec = &mut object["spec"];
        if spec["type"] == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if let Some(map) = spec.as_object_mut() {
                    map.remove(field);
                }
            }
            return;
        }
        let family = if self.cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let asked = spec.str_at(&["clusterIP"]).to_string();
        let address = match asked.as_str() {
            "None" => "None".to_string(),
            "" => match self.free_address(taken) {
                Some(address) => {
                    taken.addresses.insert(address);
                    lease.new.addresses.insert(address);
                    address.to_string()
                }
                None => {
                    let detail = "failed to allocate a serviceIP: range is full";
                    causes.push(Cause::invalid("spec.clusterIPs", &json!([]), detail));
                    return;
                }
            },
            text => {
                // A malformed address is refused by the validation that follows.
                let Ok(address) = text.parse::<IpAddr>() else { return };
                if !before.addresses.contains(&address) {
                    let value = json!([text]);
                    // The two fixed addresses are there for the two services that are made for them.
                    let fixed = object_is_fixed(object);
                    if !self.cidr.contains(&address) {
                        let detail = format!(
                            "failed to allocate IP {address}: the provided IP is not in the valid range. The range of valid IPs is {}",
                            self.cidr
                        );
                        causes.push(Cause::invalid("spec.clusterIPs", &value, &detail));
                    } else if !fixed && !taken.addresses.insert(address) {
                        let detail = format!("failed to allocate IP {address}: provided IP is already allocated");
                        causes.push(Cause::invalid("spec.clusterIPs", &value, &detail));
                    } else if !fixed {
                        lease.new.addresses.insert(address);
                    }
                }
                text.to_string()
            }
        };
        let spec = &mut object["spec"];
        spec["clusterIP"] = address.as_str().into();
        spec["clusterIPs"] = json!([address]);
        if spec["ipFamilies"].is_null() {
            spec["ipFamilies"] = json!([family]);
        }
        if spec["ipFamilyPolicy"].is_null() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
    }

    fn free_address(&self, taken: &Taken) -> Option<IpAddr> {
        let size = 1u64 << (u32::from(self.cidr.max_prefix_len() - self.cidr.prefix_len())).min(20);
        let at = |offset: u64| -> IpAddr {
            match self.cidr.network() {
                IpAddr::V4(base) => IpAddr::from((u32::from(base) + offset as u32).to_be_bytes()),
                IpAddr::V6(base) => IpAddr::from((u128::from(base) + u128::from(offset)).to_be_bytes()),
            }
        };
        // By chance first, then in order once the range is nearly full. First and last address are not given out.
        let mut rng = rand::rng();
        let random = (0..64).map(|_| rng.random_range(1..size - 1)).map(at).find(|a| !taken.addresses.contains(a));
        random.or_else(|| (1..size - 1).map(at).find(|a| !taken.addresses.contains(a)))
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

/// The first address of the range, which the `kubernetes` service has.
pub fn kubernetes_address(cidr: &IpNet) -> Option<IpAddr> {
    cidr.hosts().next()
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
