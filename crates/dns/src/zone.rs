//! What the cluster's names mean: an index of services and endpoints, and answers from it. No I/O.
//!
//! Source: the specification of DNS-based service discovery 1.1.0, and where it leaves a choice, what CoreDNS answers. A name is read from its
//! end: zone, `svc` or `pod`, namespace, service, and before that an endpoint, or a port and a protocol.
//!
//! Resolvers in pods go through a search path (`default.svc.cluster.local`, `svc.cluster.local`, `cluster.local`). Names
//! that lead nowhere there are answered at once from memory, so the search costs no round trip beyond the node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

/// Seconds that answers may be kept. Endpoints change; upstream's CoreDNS has the same value in most set-ups.
const TTL: u32 = 5;
/// The version of the specification, and how long that may be kept.
const VERSION: &str = "1.1.0";
const VERSION_TTL: u32 = 28_800;

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Records(Vec<Record>),
    /// The name exists, but has nothing of that type. With the zone's SOA.
    NoData(Record),
    NoSuchName(Record),
    /// It is a name of the cluster, whose names aren't known yet.
    NotYet,
    /// Not a name of the cluster.
    Elsewhere,
}

/// A service with its endpoints, as the caches have them.
#[derive(Debug, Clone)]
struct Entry {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
}

/// Something that a name leads to: an address, and a port for those who ask for one.
struct Found {
    address: IpAddr,
    port: u16,
    /// The name that has the address.
    owner: String,
}

/// What the labels before a service's name say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    All,
    Endpoint(&'a str),
    Port { name: &'a str, protocol: &'a str },
}

/// The meaning of a name.
enum Meaning {
    Found(Vec<Found>),
    Alias(Name),
    /// It is there, and nothing has it.
    Empty,
    Nothing,
}

/// All names of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    domain: String,
    /// The server's own address.
    server: Option<IpAddr>,
    is_ready: bool,
    namespaces: HashSet<String>,
    /// By `name.namespace`.
    services: HashMap<Arc<str>, Entry>,
    /// Services by their own addresses, and by those of their endpoints.
    owners: HashMap<IpAddr, Arc<str>>,
    members: HashMap<IpAddr, Vec<Arc<str>>>,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_default();
    name.set_fqdn(true);
    name
}

/// `10.42.0.2` → `10-42-0-2`, the label of an endpoint without a host name.
fn dashed(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    // No label ends with a dash.
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

/// The address of a label of [`dashed`].
fn undashed(label: &str) -> Option<IpAddr> {
    let separator = if label.matches('-').count() == 3 && !label.contains("--") { "." } else { ":" };
    label.replace('-', separator).parse().ok()
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` is of.
fn reversed(text: &str) -> Option<IpAddr> {
    if let Some(v4) = text.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = v4.rsplit('.').collect();
        return parts.join(".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = text.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    if nibbles.len() != 32 {
        return None;
    }
    let mut address = 0u128;
    for nibble in nibbles {
        let value = u128::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
        address = address << 4u32 | value;
    }
    Some(IpAddr::V6(address.into()))
}

/// An empty answer to `question`.
pub fn response_to(question: &Message) -> Message {
    let mut answer = question.clone();
    answer.answers.clear();
    answer.authorities.clear();
    answer.additionals.clear();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer.metadata.truncation = false;
    answer
}

impl Entry {
    fn is_external(&self) -> bool {
        self.service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("ExternalName"))
    }

    fn is_headless(&self) -> bool {
        self.service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let listed = self.service.spec.iter().flat_map(|s| s.cluster_ips.iter().flatten());
        listed.filter_map(|ip| ip.parse().ok())
    }

    /// The ready endpoints: label, address, and the slice that they are in.
    fn endpoints(&self) -> impl Iterator<Item = (String, IpAddr, &EndpointSlice)> {
        let unready = self.service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true));
        self.slices.iter().flat_map(move |slice| {
            let ready = move |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
                unready || e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
            };
            slice.endpoints.iter().flatten().filter(ready).flat_map(move |endpoint| {
                endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(move |address| {
                    let label = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
                    let label = label.map_or_else(|| dashed(address), |name| name.to_ascii_lowercase());
                    (label, address, slice.as_ref())
                })
            })
        })
    }

    /// What a part of the service's name leads to; `base` is that name in full.
    fn find(&self, part: Part<'_>, base: &str) -> Vec<Found> {
        let wanted = |name: Option<&str>, protocol: Option<&str>| match part {
            Part::Port { name: n, protocol: p } => {
                name.unwrap_or("").eq_ignore_ascii_case(n) && protocol.unwrap_or("TCP").eq_ignore_ascii_case(p)
            }
            _ => true,
        };
        let number = |port: i32| u16::try_from(port).unwrap_or(0);
        if self.is_headless() || matches!(part, Part::Endpoint(_)) {
            let of_name = |label: &str| !matches!(part, Part::Endpoint(asked) if asked != label);
            let endpoints = self.endpoints().filter(|(label, ..)| of_name(label));
            return endpoints
                .flat_map(|(label, address, slice)| {
                    let owner = format!("{label}.{base}");
                    let ports = slice.ports.as_deref().unwrap_or_default();
                    let open = ports.iter().filter(|p| wanted(p.name.as_deref(), p.protocol.as_deref()));
                    let mut ports: Vec<u16> = open.map(|p| p.port.map_or(0, number)).collect();
                    // Who serves no port at all has an address all the same.
                    if slice.ports.as_ref().is_none_or(Vec::is_empty) && !matches!(part, Part::Port { .. }) {
                        ports.push(0);
                    }
                    ports.into_iter().map(move |port| Found { address, port, owner: owner.clone() })
                })
                .collect();
        }
        let ports = self.service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let ports = ports.filter(|p| wanted(p.name.as_deref(), p.protocol.as_deref()));
        ports
            .flat_map(|p| {
                self.addresses().map(|address| Found { address, port: number(p.port), owner: base.to_string() })
            })
            .collect()
    }
}

impl Zone {
    /// A zone that knows nothing but that it is one.
    pub fn unknown(domain: &str) -> Self {
        Zone { domain: domain.to_ascii_lowercase(), ..Zone::default() }
    }

    pub fn build(
        domain: &str,
        server: Option<IpAddr>,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        namespaces: &[Arc<Namespace>],
    ) -> Self {
        let namespaces = namespaces.iter().map(|n| n.name_any()).collect();
        let mut zone = Zone { server, is_ready: true, namespaces, ..Zone::unknown(domain) };
        let mut by_service: BTreeMap<(&str, &str), Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            if let (Some(namespace), Some(service)) =
                (slice.metadata.namespace.as_deref(), labels.and_then(|l| l.get("kubernetes.io/service-name")))
            {
                by_service.entry((namespace, service.as_str())).or_default().push(slice.clone());
            }
        }
        for service in services {
            let meta = &service.metadata;
            let (Some(namespace), Some(own)) = (meta.namespace.as_deref(), meta.name.as_deref()) else { continue };
            let key: Arc<str> = format!("{own}.{namespace}").into();
            let slices = by_service.remove(&(namespace, own)).unwrap_or_default();
            let entry = Entry { service: service.clone(), slices };
            if !entry.is_external() {
                zone.owners.extend(entry.addresses().map(|address| (address, key.clone())));
                for (_, address, _) in entry.endpoints() {
                    let members = zone.members.entry(address).or_default();
                    if members.last() != Some(&key) {
                        members.push(key.clone());
                    }
                }
            }
            zone.services.insert(key, entry);
        }
        zone
    }

    fn soa(&self) -> Record {
        let zone = name(&self.domain);
        let soa = SOA::new(
            name(&format!("ns.dns.{}", self.domain)),
            name(&format!("hostmaster.{}", self.domain)),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Record::from_rdata(zone, TTL, RData::SOA(soa))
    }

    /// The names of who has an address: of a service, or else of all endpoints, those with a host name first.
    fn pointers(&self, address: IpAddr) -> Vec<String> {
        if let Some(key) = self.owners.get(&address) {
            return vec![format!("{key}.svc.{}", self.domain)];
        }
        let mut names = Vec::new();
        for key in self.members.get(&address).into_iter().flatten() {
            let Some(entry) = self.services.get(key) else { continue };
            let labels = entry.endpoints().filter(|(_, of, _)| *of == address).map(|(label, ..)| label);
            names.extend(labels.map(|label| format!("{label}.{key}.svc.{}", self.domain)));
        }
        let plain = format!("{}.", dashed(address));
        names.sort_by_key(|name| name.starts_with(&plain));
        names.dedup();
        names
    }

    pub fn answer(&self, asked: &Name, kind: RecordType) -> Answer {
        let text = asked.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa") {
            let names = reversed(text).map(|address| self.pointers(address)).unwrap_or_default();
            return match kind {
                _ if names.is_empty() => Answer::Elsewhere,
                RecordType::PTR | RecordType::ANY => {
                    let record = |n: &String| Record::from_rdata(asked.clone(), TTL, RData::PTR(PTR(name(n))));
                    Answer::Records(names.iter().map(record).collect())
                }
                _ => Answer::NoData(self.soa()),
            };
        }
        let Some(inside) = self.inside(text) else { return Answer::Elsewhere };
        if !self.is_ready {
            return Answer::NotYet;
        }
        if let Some(records) = self.of_the_zone(asked, inside, kind) {
            return if records.is_empty() { Answer::NoData(self.soa()) } else { Answer::Records(records) };
        }
        match self.meaning(inside) {
            Meaning::Nothing => Answer::NoSuchName(self.soa()),
            meaning => {
                let records = self.records(asked, &meaning, kind);
                if records.is_empty() { Answer::NoData(self.soa()) } else { Answer::Records(records) }
            }
        }
    }

    /// What stands before the zone's name, if a name is the zone's.
    fn inside<'t>(&self, text: &'t str) -> Option<&'t str> {
        let before = text.strip_suffix(self.domain.as_str()).filter(|_| !self.domain.is_empty())?;
        if before.is_empty() { Some(before) } else { before.strip_suffix('.') }
    }

    /// Records of the zone itself.
    fn of_the_zone(&self, asked: &Name, inside: &str, kind: RecordType) -> Option<Vec<Record>> {
        let is = |wanted: RecordType| kind == wanted || kind == RecordType::ANY;
        let record = |ttl: u32, data: RData| Record::from_rdata(asked.clone(), ttl, data);
        let mut records = Vec::new();
        match inside {
            "" => {
                if is(RecordType::SOA) {
                    records.push(self.soa());
                }
                if is(RecordType::NS) {
                    records.push(record(TTL, RData::NS(NS(name(&format!("ns.dns.{}", self.domain))))));
                }
            }
            "dns-version" if is(RecordType::TXT) => {
                records.push(record(VERSION_TTL, RData::TXT(TXT::new(vec![VERSION.into()]))));
            }
            "dns-version" | "svc" | "pod" => {}
            "ns.dns" => records.extend(self.server.and_then(|address| address_record(asked, address, kind))),
            _ => return None,
        }
        Some(records)
    }

    fn meaning(&self, inside: &str) -> Meaning {
        let mut labels = inside.rsplit('.');
        let (branch, namespace) = (labels.next().unwrap_or(""), labels.next().unwrap_or(""));
        if !matches!(branch, "svc" | "pod") || !self.namespaces.contains(namespace) {
            return Meaning::Nothing;
        }
        let Some(own) = labels.next() else { return Meaning::Empty };
        let before: Vec<&str> = labels.collect();
        if branch == "pod" {
            // As upstream's `pods insecure`: the address is in the name.
            return match undashed(own).filter(|_| before.is_empty()) {
                Some(address) => Meaning::Found(vec![Found { address, port: 0, owner: String::new() }]),
                None => Meaning::Nothing,
            };
        }
        let part = match before.as_slice() {
            [] => Part::All,
            [endpoint] => Part::Endpoint(endpoint),
            [protocol, port] => {
                let plain = |label| str::strip_prefix(label, '_').unwrap_or(label);
                Part::Port { name: plain(port), protocol: plain(protocol) }
            }
            _ => return Meaning::Nothing,
        };
        let key = format!("{own}.{namespace}");
        let Some(entry) = self.services.get(key.as_str()) else { return Meaning::Nothing };
        if entry.is_external() {
            let target = entry.service.spec.as_ref().and_then(|s| s.external_name.as_deref()).unwrap_or("");
            // An address is no name that another could lead to.
            return match part {
                Part::All if !target.is_empty() && target.parse::<IpAddr>().is_err() => Meaning::Alias(name(target)),
                _ => Meaning::Nothing,
            };
        }
        let found = entry.find(part, &format!("{key}.svc.{}", self.domain));
        match found.is_empty() {
            // A headless service without ready endpoints has no name (2.4.1).
            true if entry.is_headless() || part != Part::All => Meaning::Nothing,
            // One without ports has its addresses all the same.
            true => {
                let owner = format!("{key}.svc.{}", self.domain);
                let found = entry.addresses().map(|address| Found { address, port: 0, owner: owner.clone() });
                Meaning::Found(found.collect())
            }
            false => Meaning::Found(found),
        }
    }

    /// Answers a short name as the search path of a pod in `namespace` would find it, by an alias of the full name.
    /// Resolvers that ask for `web-0.nginx` as it is (busybox does) find it too, and others save the search.
    pub fn search(&self, asked: &Name, kind: RecordType, namespace: &str) -> Option<Vec<Record>> {
        /// Names with as many dots are taken as they are (`ndots` in pods' resolv.conf).
        const NDOTS: usize = 5;
        let text = asked.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if text.is_empty() || text.matches('.').count() >= NDOTS {
            return None;
        }
        let candidates = [format!("{text}.{namespace}.svc"), format!("{text}.svc"), text.to_string()];
        let (inside, meaning) = candidates.into_iter().find_map(|inside| match self.meaning(&inside) {
            meaning @ (Meaning::Found(_) | Meaning::Alias(_)) => Some((inside, meaning)),
            _ => None,
        })?;
        let full = name(&format!("{inside}.{}", self.domain));
        let mut records = vec![Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(full.clone())))];
        records.extend(self.records(&full, &meaning, kind));
        Some(records)
    }

    /// The addresses of those names that SRV and NS records lead to, so that nobody has to ask for them (RFC 2782).
    pub fn targets(&self, answers: &[Record]) -> Vec<Record> {
        let target = |record: &Record| match &record.data {
            RData::SRV(srv) => Some(srv.target.clone()),
            RData::NS(server) => Some(server.0.clone()),
            _ => None,
        };
        let targets: std::collections::BTreeSet<Name> = answers.iter().filter_map(target).collect();
        let of = |target: &Name| {
            [RecordType::A, RecordType::AAAA]
                .into_iter()
                .flat_map(|kind| match self.answer(target, kind) {
                    Answer::Records(records) => records,
                    _ => Vec::new(),
                })
                .collect::<Vec<_>>()
        };
        targets.iter().flat_map(of).collect()
    }

    fn records(&self, asked: &Name, meaning: &Meaning, kind: RecordType) -> Vec<Record> {
        let found = match meaning {
            Meaning::Alias(alias) => {
                return vec![Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(alias.clone())))];
            }
            Meaning::Found(found) => found,
            Meaning::Empty | Meaning::Nothing => return Vec::new(),
        };
        if kind == RecordType::SRV {
            // Each has its share, as CoreDNS counts it.
            let shares = u16::try_from(found.len()).unwrap_or(u16::MAX);
            let weight = 100u16.checked_div(shares).unwrap_or(100).max(1);
            let mut seen = HashSet::new();
            let record = |f: &Found| RData::SRV(SRV::new(0, weight, f.port, name(&f.owner)));
            let first = found.iter().filter(|f| f.port > 0 && !f.owner.is_empty());
            let first = first.filter(|f| seen.insert((f.owner.as_str(), f.port)));
            return first.map(|f| Record::from_rdata(asked.clone(), TTL, record(f))).collect();
        }
        let mut seen = HashSet::new();
        let first = found.iter().filter(|f| seen.insert(f.address));
        first.filter_map(|f| address_record(asked, f.address, kind)).collect()
    }
}

fn address_record(asked: &Name, address: IpAddr, kind: RecordType) -> Option<Record> {
    let any = kind == RecordType::ANY;
    let data = match address {
        IpAddr::V4(ip) if any || kind == RecordType::A => RData::A(A(ip)),
        IpAddr::V6(ip) if any || kind == RecordType::AAAA => RData::AAAA(AAAA(ip)),
        _ => return None,
    };
    Some(Record::from_rdata(asked.clone(), TTL, data))
}

#[cfg(test)]
mod tests;
