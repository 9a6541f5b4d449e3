//! Forwarding: to the node's resolvers, to `upstreamNameservers`, or to those of a stub domain; with a cache, of negative responses, too
//! (RFC 2308).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::DNSClass;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of the cache.
const MAX_CACHED_RECORDS: u64 = 10_000;
/// Upper limit of TTLs.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Settings of the ConfigMap `kube-system/kube-dns`: upstream's `stubDomains` and `upstreamNameservers`, and our `queryLog`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Stub domains with their resolvers.
    pub stubs: BTreeMap<String, Vec<SocketAddr>>,
    /// Resolvers instead of the node's.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// Whether queries are logged.
    pub log: bool,
}

/// What is wrong with a key of the ConfigMap.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Its value isn't the JSON that it should be.
    #[error("{key}: {source}")]
    Json {
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It names a resolver that isn't an address.
    #[error("{key}: {text:?} is no address of a resolver, as 192.0.2.1 or 192.0.2.1:53")]
    Address {
        /// The key.
        key: &'static str,
        /// What it names.
        text: String,
    },
}

/// `ADDRESS` or `ADDRESS:PORT`
fn server(key: &'static str, text: &str) -> Result<SocketAddr, SettingsError> {
    let zone_name = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, crate::PORT));
    text.parse().ok().or_else(zone_name).ok_or_else(|| SettingsError::Address { key, text: text.into() })
}

impl Settings {
    /// Parses the ConfigMap's data.
    ///
    /// # Errors
    /// When a key is malformed; the error names it.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        const STUBS: &str = "stubDomains";
        const UPSTREAMS: &str = "upstreamNameservers";
        let servers = |key, list: &[String]| list.iter().map(|text| server(key, text)).collect::<Result<Vec<_>, _>>();
        let stubs: BTreeMap<String, Vec<String>> = parse(data, STUBS)?.unwrap_or_default();
        let upstreams: Option<Vec<String>> = parse(data, UPSTREAMS)?;
        let stubs = stubs.iter().map(|(zone, list)| {
            let zone = zone.trim_matches('.').to_ascii_lowercase();
            Ok((zone, servers(STUBS, list)?))
        });
        let upstreams = upstreams.map(|list| servers(UPSTREAMS, &list));
        Ok(Settings {
            stubs: stubs.collect::<Result<_, SettingsError>>()?,
            upstreams: upstreams.transpose()?,
            log: parse(data, "queryLog")?.unwrap_or(false),
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    data: &BTreeMap<String, String>,
    key: &'static str,
) -> Result<Option<T>, SettingsError> {
    let read = |text: &String| serde_json::from_str(text).map_err(|source| SettingsError::Json { key, source });
    data.get(key).map(read).transpose()
}

/// The upstream resolvers.
pub struct Upstreams {
    rest: Option<TokioResolver>,
    /// Stub domains, the longest first.
    stubs: Vec<(String, TokioResolver)>,
}

impl Upstreams {
    /// Resolvers of the node and of the settings.
    pub fn new(machine: &[SocketAddr], settings: &Settings) -> Self {
        let mut stubs: Vec<_> =
            settings.stubs.iter().filter_map(|(zone, servers)| Some((zone.clone(), resolver(servers)?))).collect();
        stubs.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len()));
        Upstreams { rest: resolver(settings.upstreams.as_deref().unwrap_or(machine)), stubs }
    }

    fn of_zone(&self, name: &str) -> Option<&TokioResolver> {
        let relative_name =
            |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.stubs.iter().find(|(zone, _)| relative_name(zone)).map(|(_, resolver)| resolver)
    }

    fn of(&self, name: &str) -> Option<&TokioResolver> {
        self.of_zone(name).or(self.rest.as_ref())
    }

    /// Whether a query is of a stub domain.
    pub fn is_of_zone(&self, query: &Query) -> bool {
        self.of_zone(&zone_name(query)).is_some()
    }

    /// Forwards a query and adds the upstream's records and response code.
    pub async fn ask(&self, query: &Query, answer: &mut Message) {
        if query.query_class() != DNSClass::IN {
            answer.metadata.response_code = ResponseCode::NotImp;
            return;
        }
        let name = zone_name(query);
        let Some(resolver) = self.of(&name) else {
            // Without resolvers, fail at once rather than let the client time out.
            answer.metadata.response_code = ResponseCode::NXDomain;
            return;
        };
        match resolver.lookup(query.name().clone(), query.query_type()).await {
            Ok(found) => {
                answer.add_answers(found.answers().iter().cloned());
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                answer.metadata.response_code = nothing.response_code;
                answer.add_authorities(nothing.soa.map(|soa| soa.into_record_of_rdata()));
            }
            Err(error) => {
                tracing::debug!(%error, name, "failed to forward a DNS query");
                answer.metadata.response_code = ResponseCode::ServFail;
            }
        }
    }
}

/// The queried name in the form of zone names.
fn zone_name(query: &Query) -> String {
    query.name().to_ascii().to_ascii_lowercase().trim_end_matches('.').into()
}

fn resolver(servers: &[SocketAddr]) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let connection = |mut connection: ConnectionConfig, port: u16| {
        connection.port = port;
        connection
    };
    let server = |address: &SocketAddr| {
        let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = ways.into_iter().map(|way| connection(way, address.port())).collect();
        NameServerConfig::new(address.ip(), true, connections)
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.cache_size = MAX_CACHED_RECORDS;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.try_tcp_on_error = true;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_TTL);
    let built =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build();
    built.inspect_err(|error| tracing::error!(%error, ?servers, "failed to set up the upstream name servers")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_upstreams_form() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let read = |pairs: &[(&str, &str)]| Settings::read(&map(pairs));
        let settings = read(&[
            ("stubDomains", r#"{"Acme.local.": ["192.0.2.1:5353", "2001:db8::1"]}"#),
            ("upstreamNameservers", r#"["192.0.2.2"]"#),
            ("queryLog", "true"),
        ])
        .unwrap();
        let stubs: Vec<String> = settings.stubs["acme.local"].iter().map(ToString::to_string).collect();
        assert_eq!(stubs, ["192.0.2.1:5353", "[2001:db8::1]:53"]);
        assert_eq!(settings.upstreams.unwrap(), ["192.0.2.2:53".parse().unwrap()]);
        assert!(settings.log);
        assert_eq!(read(&[]).unwrap(), Settings::default());
        let wrong = read(&[("stubDomains", r#"{"a": ["dns.example"]}"#)]).unwrap_err().to_string();
        assert!(wrong.starts_with("stubDomains: \"dns.example\" is no address"), "{wrong}");
        assert!(
            read(&[("upstreamNameservers", "192.0.2.2")]).unwrap_err().to_string().starts_with("upstreamNameservers: ")
        );
    }

    #[tokio::test]
    async fn zones_have_resolvers_of_their_own() {
        let at = |text: &str| vec![text.parse().unwrap()];
        let stubs = [("b".to_string(), at("192.0.2.1:53")), ("a.b".to_string(), at("192.0.2.2:53"))];
        let settings = Settings { stubs: stubs.into(), ..Settings::default() };
        let upstreams = Upstreams::new(&[], &settings);
        let zone = |name: &str| {
            let found = upstreams.of(name)?;
            upstreams.stubs.iter().find(|(_, r)| std::ptr::eq(r, found)).map(|(zone, _)| zone.as_str())
        };
        assert_eq!(zone("x.a.b"), Some("a.b"));
        assert_eq!(zone("a.b"), Some("a.b"));
        assert_eq!(zone("xa.b"), Some("b"));
        assert_eq!(zone("b.c"), None);
    }
}
