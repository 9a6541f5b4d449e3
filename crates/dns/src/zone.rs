//! What the cluster's names mean: an index of services and endpoints, and answers from it. No I/O.
//!
//! Resolvers in pods go through a search path (`default.svc.cluster.local`, `svc.cluster.local`, `cluster.local`). Names
//! that lead nowhere there are answered at once from memory, so the search costs no round trip beyond the node.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Seconds that answers may be kept. Endpoints change; upstream's CoreDNS has the same value in most set-ups.
const TTL: u32 = 5;

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Records(Vec<Record>),
    /// The name exists, but has nothing of that type. With the zone's SOA.
    NoData(Record),
    NoSuchName(Record),
    /// Not a name of the cluster.
    Elsewhere,
}

#[derive(Debug, Clone, Default)]
struct Node {
    addresses: Vec<IpAddr>,
    /// Priority and weight are the same for all: port and target.
    services: Vec<(u16, Name)>,
    alias: Option<Name>,
}

/// All names of the cluster, in lower case and without the last dot.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    domain: String,
    names: HashMap<String, Node>,
    /// From reverse names (`2.0.42.10.in-addr.arpa`).
    pointers: HashMap<String, Vec<Name>>,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_default();
    name.set_fqdn(true);
    name
}

/// `10.42.0.2` → `10-42-0-2`, the label of an endpoint without a host name.
fn dashed(address: &IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn reverse(address: &IpAddr) -> String {
    let mut name: Name = (*address).into();
    name.set_fqdn(false);
    name.to_ascii().to_ascii_lowercase().trim_end_matches('.').into()
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

impl Zone {
    pub fn build(domain: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Self {
        let mut zone = Zone { domain: domain.to_ascii_lowercase(), ..Zone::default() };
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            if let (Some(namespace), Some(service)) =
                (slice.metadata.namespace.as_deref(), labels.and_then(|l| l.get("kubernetes.io/service-name")))
            {
                by_service.entry((namespace, service.as_str())).or_default().push(slice);
            }
        }
        for branch in ["", "svc.", "pod."] {
            zone.names.entry(format!("{branch}{}", zone.domain)).or_default();
        }
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or("");
            let service_name = service.metadata.name.as_deref().unwrap_or("");
            let slices = by_service.get(&(namespace, service_name)).map(Vec::as_slice).unwrap_or_default();
            zone.add(service, namespace, service_name, slices);
        }
        zone
    }

    fn add(&mut self, service: &Service, namespace: &str, service_name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let base = format!("{service_name}.{namespace}.svc.{}", self.domain);
        self.names.entry(format!("{namespace}.svc.{}", self.domain)).or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                self.names.entry(base).or_default().alias = Some(name(target));
            }
            return;
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            let unready = spec.publish_not_ready_addresses.unwrap_or(false);
            for slice in slices {
                self.add_endpoints(&base, slice, unready);
            }
            return;
        }
        for address in spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            self.names.entry(base.clone()).or_default().addresses.push(address);
            self.pointers.entry(reverse(&address)).or_default().push(name(&base));
        }
        for port in spec.ports.iter().flatten() {
            let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            let number = u16::try_from(port.port).unwrap_or(0);
            let target = (number, name(&base));
            self.names.entry(format!("_{label}._{protocol}.{base}")).or_default().services.push(target.clone());
            self.names.entry(base.clone()).or_default().services.push(target);
        }
    }

    /// A headless service: the name of the service has all addresses, and each endpoint a name of its own.
    fn add_endpoints(&mut self, base: &str, slice: &EndpointSlice, unready: bool) {
        self.names.entry(base.into()).or_default();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if !ready && !unready {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(&address));
                let own = format!("{label}.{base}");
                self.names.entry(base.into()).or_default().addresses.push(address);
                self.names.entry(own.clone()).or_default().addresses.push(address);
                if endpoint.hostname.is_some() {
                    // What has a name of its own answers to it when asked by address, before what has not.
                    self.pointers.entry(reverse(&address)).or_default().insert(0, name(&own));
                } else {
                    self.pointers.entry(reverse(&address)).or_default().push(name(&own));
                }
                for port in slice.ports.iter().flatten() {
                    let (Some(label), Some(number)) = (port.name.as_deref().filter(|n| !n.is_empty()), port.port)
                    else {
                        continue;
                    };
                    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                    let target = (u16::try_from(number).unwrap_or(0), name(&own));
                    self.names.entry(format!("_{label}._{protocol}.{base}")).or_default().services.push(target);
                }
            }
        }
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
            TTL as i32 as u32,
        );
        Record::from_rdata(zone, TTL, RData::SOA(soa))
    }

    pub fn answer(&self, asked: &Name, kind: RecordType) -> Answer {
        let text = asked.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa") {
            return match self.pointers.get(text) {
                Some(names) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                    let record = |n: &Name| Record::from_rdata(asked.clone(), TTL, RData::PTR(PTR(n.clone())));
                    Answer::Records(names.iter().take(1).map(record).collect())
                }
                Some(_) => Answer::NoData(self.soa()),
                None => Answer::Elsewhere,
            };
        }
        let ours =
            text == self.domain || text.strip_suffix(self.domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
        if !ours || self.domain.is_empty() {
            return Answer::Elsewhere;
        }
        let Some(node) = self.names.get(text) else {
            return self.pod(asked, text, kind).unwrap_or_else(|| Answer::NoSuchName(self.soa()));
        };
        let records = self.records(asked, node, kind);
        if records.is_empty() { Answer::NoData(self.soa()) } else { Answer::Records(records) }
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
        let domain = &self.domain;
        let candidates =
            [format!("{text}.{namespace}.svc.{domain}"), format!("{text}.svc.{domain}"), format!("{text}.{domain}")];
        let (full, node) = candidates.into_iter().find_map(|full| {
            let node = self.names.get(&full).filter(|n| !n.addresses.is_empty() || n.alias.is_some())?;
            Some((name(&full), node))
        })?;
        let mut records = vec![Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(full.clone())))];
        records.extend(self.records(&full, node, kind));
        Some(records)
    }

    /// The addresses of those names that SRV records lead to, so that nobody has to ask for them (RFC 2782).
    pub fn targets(&self, answers: &[Record]) -> Vec<Record> {
        let target = |record: &Record| match &record.data {
            RData::SRV(srv) => Some(srv.target.clone()),
            _ => None,
        };
        let targets: std::collections::BTreeSet<Name> = answers.iter().filter_map(target).collect();
        let addresses = |target: &Name| {
            let node = self.names.get(target.to_ascii().trim_end_matches('.'))?;
            let kinds = [RecordType::A, RecordType::AAAA];
            Some(kinds.into_iter().flat_map(|kind| self.records(target, node, kind)).collect::<Vec<_>>())
        };
        targets.iter().filter_map(addresses).flatten().collect()
    }

    fn records(&self, asked: &Name, node: &Node, kind: RecordType) -> Vec<Record> {
        let record = |data: RData| Record::from_rdata(asked.clone(), TTL, data);
        if let Some(alias) = &node.alias {
            return vec![record(RData::CNAME(CNAME(alias.clone())))];
        }
        let any = kind == RecordType::ANY;
        let mut records = Vec::new();
        for address in &node.addresses {
            match address {
                IpAddr::V4(ip) if any || kind == RecordType::A => records.push(record(RData::A(A(*ip)))),
                IpAddr::V6(ip) if any || kind == RecordType::AAAA => records.push(record(RData::AAAA(AAAA(*ip)))),
                _ => {}
            }
        }
        if kind == RecordType::SRV {
            let weight = 100 / u16::try_from(node.services.len().clamp(1, 100)).unwrap_or(1);
            for (port, target) in &node.services {
                records.push(record(RData::SRV(SRV::new(0, weight, *port, target.clone()))));
            }
        }
        records
    }

    /// `10-42-0-2.default.pod.cluster.local`: the address is in the name.
    fn pod(&self, asked: &Name, text: &str, kind: RecordType) -> Option<Answer> {
        let rest = text.strip_suffix(&format!(".pod.{}", self.domain))?;
        let (label, namespace) = rest.split_once('.')?;
        if namespace.contains('.') {
            return None;
        }
        let address: IpAddr = label.replace('-', ".").parse().ok().or_else(|| label.replace('-', ":").parse().ok())?;
        let node = Node { addresses: vec![address], ..Node::default() };
        let records = self.records(asked, &node, kind);
        Some(if records.is_empty() { Answer::NoData(self.soa()) } else { Answer::Records(records) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone() -> Zone {
        let service = |v: serde_json::Value| Arc::new(serde_json::from_value::<Service>(v).unwrap());
        let services = [
            service(json!({"metadata": {"name": "nginx", "namespace": "default"}, "spec": {"clusterIP": "None"}})),
            service(json!({"metadata": {"name": "api", "namespace": "shop"}, "spec": {"clusterIP": "10.43.0.7",
                "clusterIPs": ["10.43.0.7"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}})),
            service(json!({"metadata": {"name": "out", "namespace": "default"},
                "spec": {"type": "ExternalName", "externalName": "example.org"}})),
        ];
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "nginx-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "nginx"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.42.0.2"], "hostname": "web-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.3"], "hostname": "web-1", "conditions": {"ready": false}}]}))
        .unwrap();
        Zone::build("cluster.local", &services, &[Arc::new(slice)])
    }

    fn check(asked: &str, kind: RecordType, want: &str) {
        let got = match zone().answer(&name(asked), kind) {
            Answer::Records(records) => records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(" | "),
            Answer::NoData(_) => "no data".into(),
            Answer::NoSuchName(_) => "no such name".into(),
            Answer::Elsewhere => "elsewhere".into(),
        };
        assert_eq!(got, want, "{asked} {kind}");
    }

    #[test]
    fn names_of_the_cluster_are_answered_as_specified() {
        check("web-0.nginx.default.svc.cluster.local", RecordType::A, "10.42.0.2");
        check("WEB-0.Nginx.default.svc.cluster.local", RecordType::A, "10.42.0.2");
        check("web-1.nginx.default.svc.cluster.local", RecordType::A, "no such name");
        check("nginx.default.svc.cluster.local", RecordType::A, "10.42.0.2");
        check("nginx.default.svc.cluster.local", RecordType::AAAA, "no data");
        check("api.shop.svc.cluster.local", RecordType::A, "10.43.0.7");
        check("_http._tcp.api.shop.svc.cluster.local", RecordType::SRV, "0 100 80 api.shop.svc.cluster.local.");
        check(
            "_web._tcp.nginx.default.svc.cluster.local",
            RecordType::SRV,
            "0 100 80 web-0.nginx.default.svc.cluster.local.",
        );
        check("out.default.svc.cluster.local", RecordType::A, "example.org.");
        check("2.0.42.10.in-addr.arpa", RecordType::PTR, "web-0.nginx.default.svc.cluster.local.");
        check("7.0.43.10.in-addr.arpa", RecordType::PTR, "api.shop.svc.cluster.local.");
        check("10-42-0-9.default.pod.cluster.local", RecordType::A, "10.42.0.9");
    }

    #[test]
    fn short_names_are_found_from_their_namespace() {
        let search = |asked: &str, namespace: &str| {
            let found = zone().search(&name(asked), RecordType::A, namespace);
            found.map(|r| r.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(" | "))
        };
        let web = "web-0.nginx.default.svc.cluster.local. | 10.42.0.2";
        assert_eq!(search("web-0.nginx", "default").as_deref(), Some(web));
        assert_eq!(search("web-0.nginx", "shop"), None);
        assert_eq!(search("api.shop", "default").as_deref(), Some("api.shop.svc.cluster.local. | 10.43.0.7"));
        assert_eq!(search("example.org", "default"), None);
    }

    #[test]
    fn other_names_are_told_apart() {
        check("missing.default.svc.cluster.local", RecordType::A, "no such name");
        check("svc.cluster.local", RecordType::A, "no data");
        check("example.org", RecordType::A, "elsewhere");
        check("notcluster.local", RecordType::A, "elsewhere");
        check("9.9.9.9.in-addr.arpa", RecordType::PTR, "elsewhere");
    }
}
