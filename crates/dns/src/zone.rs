//! The zone of the cluster domain: an index of services and endpoints, and records from it. No I/O.
//!
//! Source: the specification "Kubernetes DNS-Based Service Discovery" 1.1.0, and CoreDNS' plugin `kubernetes` where it leaves a choice. A
//! name is parsed from its end: zone, `svc` or `pod`, namespace, service, and before that an endpoint, or a port and a protocol.
//!
//! Stub resolvers in pods try a search path (`default.svc.cluster.local`, `svc.cluster.local`, `cluster.local`). Names of it that don't
//! exist are answered from memory, so the search costs no round trip beyond the node.

mod entry;
mod labels;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use entry::{Entry, Found, NamePart};
use labels::{address_label, parse_address_label, parse_name, parse_reverse_name};

/// TTL of records: CoreDNS' default.
const TTL_SECONDS: u32 = 5;
/// The version of the specification, in the TXT record `dns-version`, and its TTL.
const DNS_SD_VERSION: &str = "1.1.0";
const VERSION_TTL_SECONDS: u32 = 28_800;

/// The zone's answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub enum ZoneAnswer {
    /// The answer section.
    Records(Vec<Record>),
    /// NODATA (RFC 2308): the name exists without records of that type. With the zone's SOA.
    NoData(Record),
    /// NXDOMAIN, with the zone's SOA.
    NameError(Record),
    /// A name of the zone, which isn't loaded yet.
    NotReady,
    /// Not a name of the zone.
    NotInZone,
}

/// What a name of the zone resolves to.
enum Resolution {
    Found(Vec<Found>),
    Alias(Name),
    /// It exists without records.
    Empty,
    Nothing,
}

/// The zone's index.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    domain: String,
    /// The address of the DNS service.
    server: Option<IpAddr>,
    is_ready: bool,
    namespaces: HashSet<String>,
    /// By `name.namespace`.
    services: HashMap<Arc<str>, Entry>,
    /// Services by their cluster IPs; the next field by the addresses of their endpoints.
    owners: HashMap<IpAddr, Arc<str>>,
    members: HashMap<IpAddr, Vec<Arc<str>>>,
}

/// A response to `question` without records.
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

impl Zone {
    /// A zone that isn't loaded yet.
    pub fn not_ready(domain: &str) -> Self {
        Zone { domain: domain.to_ascii_lowercase(), ..Zone::default() }
    }

    /// Builds the index of a zone.
    pub fn build(
        domain: &str,
        server: Option<IpAddr>,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        namespaces: &[Arc<Namespace>],
    ) -> Self {
        let namespaces = namespaces.iter().map(|n| n.name_any()).collect();
        let mut zone = Zone { server, is_ready: true, namespaces, ..Zone::not_ready(domain) };
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
        let zone = parse_name(&self.domain);
        let soa = SOA::new(
            parse_name(&format!("ns.dns.{}", self.domain)),
            parse_name(&format!("hostmaster.{}", self.domain)),
            1,
            7200,
            1800,
            86400,
            TTL_SECONDS,
        );
        Record::from_rdata(zone, TTL_SECONDS, RData::SOA(soa))
    }

    /// Targets of PTR records: the service with this cluster IP, else all endpoints with the address, those with a hostname first.
    fn pointer_names(&self, address: IpAddr) -> Vec<String> {
        if let Some(key) = self.owners.get(&address) {
            return vec![format!("{key}.svc.{}", self.domain)];
        }
        let mut names = Vec::new();
        for key in self.members.get(&address).into_iter().flatten() {
            let Some(entry) = self.services.get(key) else { continue };
            let labels = entry.endpoints().filter(|(_, of, _)| *of == address).map(|(label, ..)| label);
            names.extend(labels.map(|label| format!("{label}.{key}.svc.{}", self.domain)));
        }
        let label = format!("{}.", address_label(address));
        names.sort_by_key(|name| name.starts_with(&label));
        names.dedup();
        names
    }

    /// Answers a query from the index.
    pub fn answer(&self, name: &Name, kind: RecordType) -> ZoneAnswer {
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa") {
            let names = parse_reverse_name(text).map(|address| self.pointer_names(address)).unwrap_or_default();
            return match kind {
                _ if names.is_empty() => ZoneAnswer::NotInZone,
                RecordType::PTR | RecordType::ANY => {
                    let record =
                        |n: &String| Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(parse_name(n))));
                    ZoneAnswer::Records(names.iter().map(record).collect())
                }
                _ => ZoneAnswer::NoData(self.soa()),
            };
        }
        let Some(relative_name) = self.relative_name(text) else { return ZoneAnswer::NotInZone };
        if !self.is_ready {
            return ZoneAnswer::NotReady;
        }
        if let Some(records) = self.apex_records(name, relative_name, kind) {
            return if records.is_empty() { ZoneAnswer::NoData(self.soa()) } else { ZoneAnswer::Records(records) };
        }
        match self.resolve(relative_name) {
            Resolution::Nothing => ZoneAnswer::NameError(self.soa()),
            resolution => {
                let records = self.records(name, &resolution, kind);
                if records.is_empty() { ZoneAnswer::NoData(self.soa()) } else { ZoneAnswer::Records(records) }
            }
        }
    }

    /// The part of a name before the zone's name, if it is in the zone.
    fn relative_name<'t>(&self, text: &'t str) -> Option<&'t str> {
        let before = text.strip_suffix(self.domain.as_str()).filter(|_| !self.domain.is_empty())?;
        if before.is_empty() { Some(before) } else { before.strip_suffix('.') }
    }

    /// Records of the zone's apex, of `dns-version` and the name server.
    fn apex_records(&self, name: &Name, relative_name: &str, kind: RecordType) -> Option<Vec<Record>> {
        let is = |wanted: RecordType| kind == wanted || kind == RecordType::ANY;
        let record = |ttl: u32, data: RData| Record::from_rdata(name.clone(), ttl, data);
        let mut records = Vec::new();
        match relative_name {
            "" => {
                if is(RecordType::SOA) {
                    records.push(self.soa());
                }
                if is(RecordType::NS) {
                    records.push(record(TTL_SECONDS, RData::NS(NS(parse_name(&format!("ns.dns.{}", self.domain))))));
                }
            }
            "dns-version" if is(RecordType::TXT) => {
                records.push(record(VERSION_TTL_SECONDS, RData::TXT(TXT::new(vec![DNS_SD_VERSION.into()]))));
            }
            "dns-version" | "svc" | "pod" => {}
            "ns.dns" => records.extend(self.server.and_then(|address| address_record(name, address, kind))),
            _ => return None,
        }
        Some(records)
    }

    fn resolve(&self, relative_name: &str) -> Resolution {
        let mut labels = relative_name.rsplit('.');
        let (branch, namespace) = (labels.next().unwrap_or(""), labels.next().unwrap_or(""));
        if !matches!(branch, "svc" | "pod") || !self.namespaces.contains(namespace) {
            return Resolution::Nothing;
        }
        let Some(own) = labels.next() else { return Resolution::Empty };
        let before: Vec<&str> = labels.collect();
        if branch == "pod" {
            // As CoreDNS' `pods insecure`: the address is in the name.
            return match parse_address_label(own).filter(|_| before.is_empty()) {
                Some(address) => Resolution::Found(vec![Found { address, port: 0, owner: String::new() }]),
                None => Resolution::Nothing,
            };
        }
        let part = match before.as_slice() {
            [] => NamePart::All,
            [endpoint] => NamePart::Endpoint(endpoint),
            [protocol, port] => {
                let text = |label| str::strip_prefix(label, '_').unwrap_or(label);
                NamePart::Port { name: text(port), protocol: text(protocol) }
            }
            _ => return Resolution::Nothing,
        };
        let key = format!("{own}.{namespace}");
        let Some(entry) = self.services.get(key.as_str()) else { return Resolution::Nothing };
        if entry.is_external() {
            let target = entry.service.spec.as_ref().and_then(|s| s.external_name.as_deref()).unwrap_or("");
            // An externalName that is an IP address can't be the target of a CNAME.
            return match part {
                NamePart::All if !target.is_empty() && target.parse::<IpAddr>().is_err() => {
                    Resolution::Alias(parse_name(target))
                }
                _ => Resolution::Nothing,
            };
        }
        let found = entry.find(part, &format!("{key}.svc.{}", self.domain));
        match found.is_empty() {
            // A headless service without ready endpoints has no name (specification, section 2.4.1).
            true if entry.is_headless() || part != NamePart::All => Resolution::Nothing,
            // A service without ports has addresses nevertheless.
            true => {
                let owner = format!("{key}.svc.{}", self.domain);
                let found = entry.addresses().map(|address| Found { address, port: 0, owner: owner.clone() });
                Resolution::Found(found.collect())
            }
            false => Resolution::Found(found),
        }
    }

    /// Resolves a short name by the search path of a pod in `namespace`, with a CNAME to the full name (CoreDNS' plugin `autopath`).
    /// Resolvers that query `web-0.nginx` as it is (busybox's) find it, too, and others save the search.
    pub fn search(&self, name: &Name, kind: RecordType, namespace: &str) -> Option<Vec<Record>> {
        /// Names with this many dots are absolute (`ndots` in pods' resolv.conf).
        const NDOTS: usize = 5;
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if text.is_empty() || text.matches('.').count() >= NDOTS {
            return None;
        }
        let candidates = [format!("{text}.{namespace}.svc"), format!("{text}.svc"), text.to_string()];
        let (relative_name, resolution) =
            candidates.into_iter().find_map(|relative_name| match self.resolve(&relative_name) {
                resolution @ (Resolution::Found(_) | Resolution::Alias(_)) => Some((relative_name, resolution)),
                _ => None,
            })?;
        let full = parse_name(&format!("{relative_name}.{}", self.domain));
        let mut records = vec![Record::from_rdata(name.clone(), TTL_SECONDS, RData::CNAME(CNAME(full.clone())))];
        records.extend(self.records(&full, &resolution, kind));
        Some(records)
    }

    /// The additional section: addresses of the targets of SRV and NS records (RFC 2782).
    pub fn additional_records(&self, answers: &[Record]) -> Vec<Record> {
        let target = |record: &Record| match &record.data {
            RData::SRV(srv) => Some(srv.target.clone()),
            RData::NS(server) => Some(server.0.clone()),
            _ => None,
        };
        let additional_records: std::collections::BTreeSet<Name> = answers.iter().filter_map(target).collect();
        let of = |target: &Name| {
            [RecordType::A, RecordType::AAAA]
                .into_iter()
                .flat_map(|kind| match self.answer(target, kind) {
                    ZoneAnswer::Records(records) => records,
                    _ => Vec::new(),
                })
                .collect::<Vec<_>>()
        };
        additional_records.iter().flat_map(of).collect()
    }

    fn records(&self, name: &Name, resolution: &Resolution, kind: RecordType) -> Vec<Record> {
        let found = match resolution {
            Resolution::Alias(alias) => {
                return vec![Record::from_rdata(name.clone(), TTL_SECONDS, RData::CNAME(CNAME(alias.clone())))];
            }
            Resolution::Found(found) => found,
            Resolution::Empty | Resolution::Nothing => return Vec::new(),
        };
        if kind == RecordType::SRV {
            // Each has its share, as CoreDNS counts it.
            let shares = u16::try_from(found.len()).unwrap_or(u16::MAX);
            let weight = 100u16.checked_div(shares).unwrap_or(100).max(1);
            let mut seen = HashSet::new();
            let record = |f: &Found| RData::SRV(SRV::new(0, weight, f.port, parse_name(&f.owner)));
            let first = found.iter().filter(|f| f.port > 0 && !f.owner.is_empty());
            let first = first.filter(|f| seen.insert((f.owner.as_str(), f.port)));
            return first.map(|f| Record::from_rdata(name.clone(), TTL_SECONDS, record(f))).collect();
        }
        let mut seen = HashSet::new();
        let first = found.iter().filter(|f| seen.insert(f.address));
        first.filter_map(|f| address_record(name, f.address, kind)).collect()
    }
}

fn address_record(name: &Name, address: IpAddr, kind: RecordType) -> Option<Record> {
    let any = kind == RecordType::ANY;
    let data = match address {
        IpAddr::V4(ip) if any || kind == RecordType::A => RData::A(A(ip)),
        IpAddr::V6(ip) if any || kind == RecordType::AAAA => RData::AAAA(AAAA(ip)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL_SECONDS, data))
}

#[cfg(test)]
mod tests;
