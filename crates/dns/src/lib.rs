//! The cluster's DNS server (Kubernetes DNS specification 1.1), on every node.
//!
//! [`zone`] answers queries purely, from an index of services and endpoints; the other modules read messages, rebuild the index when objects
//! change, and forward queries for other names to the node's resolvers ([`forward`]).

#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod concurrency;
mod forward;
mod metrics;
mod sockets;
pub mod zone;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use informer::{Change, Informer, Informers, SyncLoop};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use network::LocalPods;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};

use concurrency::ConcurrencyLimiter;
use forward::{Settings, Upstreams};
use metrics::QueryMetrics;
pub use sockets::{BindError, Sockets};
pub use zone::{Zone, ZoneAnswer};

/// Configuration of the DNS server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster IP of the DNS service, which every node has on its bridge.
    pub address: IpAddr,
    /// The cluster domain: `cluster.local`.
    pub domain: String,
    /// This node's pods, for the namespace of a client.
    pub local: LocalPods,
    /// The node's resolvers (resolv.conf), for all other names.
    pub upstreams: watch::Receiver<Vec<SocketAddr>>,
}

struct Server {
    config: Config,
    zone: RwLock<Arc<Zone>>,
    /// Settings of the ConfigMap `kube-system/kube-dns`.
    settings: RwLock<Settings>,
    upstreams: RwLock<Arc<Upstreams>>,
    /// Limits concurrent forwarded queries.
    forwarding: Arc<ConcurrencyLimiter>,
    /// A name that only this server queries, to detect forwarding loops (CoreDNS' plugin `loop`).
    probe: String,
    /// Whether the upstreams forward to this server.
    is_loop: AtomicBool,
    /// Whether queries are logged (CoreDNS' plugin `log`).
    log: AtomicBool,
    /// Number of responses.
    sent: AtomicUsize,
}

const PORT: u16 = 53;
/// Largest UDP response without EDNS (RFC 1035), and with EDNS (RFC 6891; the DNS flag day 2020 recommends this size).
const MAX_UDP_BYTES: usize = 512;
const MAX_EDNS_UDP_BYTES: usize = 1232;
/// How long the first responses wait for the zone; afterwards queries of the cluster domain get SERVFAIL until it is ready.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits of TCP connections.
const MAX_CONNECTIONS_PER_CLIENT: usize = 64;
const MAX_CONNECTIONS: usize = 1024;
/// Limits of concurrent forwarded queries.
const MAX_FORWARDED_PER_CLIENT: usize = 128;
const MAX_FORWARDED: usize = 1024;
/// Idle timeout of a TCP connection (RFC 7766, section 6.2.3), and timeout of reading or writing one message.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a query: one name, and perhaps options.
const MAX_QUERY_BYTES: usize = 4096;
/// Delay after a failed accept.
const ACCEPT_RETRY_PERIOD: Duration = Duration::from_millis(100);
/// Changes within this period are covered by one rebuild of the zone.
const BATCH_PERIOD: Duration = Duration::from_millis(2);
/// Limit of CNAME records that are followed.
const MAX_CNAME_CHAIN: usize = 8;

/// Runs the DNS server until the process ends.
pub async fn run(config: Config, sockets: Sockets, informers: Informers) {
    let Sockets { udp, tcp } = sockets;
    let server = Arc::new(Server::new(config));
    follow_config_map(&server, &informers);
    tasks::spawn("dns-loop-check", detect_loop(server.clone()));
    let of = server.clone();
    tasks::until_done("dns-upstreams", move || follow_resolv_conf(of.clone()));
    // Queries meanwhile wait in the socket's buffer.
    let known = Arc::new(Notify::new());
    let (of, tell) = (server.clone(), known.clone());
    tasks::supervise("dns-zone", move || rebuild_zone(of.clone(), informers.clone(), tell.clone()));
    let _ = tokio::time::timeout(STARTUP_TIMEOUT, known.notified()).await;
    let address = server.config.address;
    tasks::until_done("dns-metrics", move || metrics::serve(address));
    let of = server.clone();
    tasks::supervise("dns-tcp", move || serve_tcp(of.clone(), tcp.clone()));
    let _ = tasks::supervise("dns-udp", move || serve_udp(server.clone(), udp.clone())).await;
}

/// Applies the ConfigMap `kube-system/kube-dns`. A malformed one is logged and ignored.
fn follow_config_map(server: &Arc<Server>, informers: &Informers) {
    let maps: Api<ConfigMap> = Api::namespaced(informers.client().clone(), "kube-system");
    let informer = Informer::start(maps, "metadata.name=kube-dns", "");
    let server = server.clone();
    informer.on_change(move |change| {
        let data = match change {
            Change::Applied { new, .. } => new.data.clone().unwrap_or_default(),
            Change::Deleted(_) => BTreeMap::new(),
        };
        match Settings::read(&data) {
            Ok(settings) => {
                server.log.store(settings.log, Ordering::Relaxed);
                *server.settings.write() = settings;
                rebuild_upstreams(&server);
            }
            Err(error) => tracing::warn!(error, "ignored ConfigMap kube-system/kube-dns: it is malformed"),
        }
    });
}

/// Applies changes of the node's resolvers.
async fn follow_resolv_conf(server: Arc<Server>) {
    let mut machine = server.config.upstreams.clone();
    while machine.changed().await.is_ok() {
        rebuild_upstreams(&server);
    }
}

/// Rebuilds the upstreams after a change of the settings or the node's resolvers.
fn rebuild_upstreams(server: &Arc<Server>) {
    let settings = server.settings.read().clone();
    *server.upstreams.write() = Arc::new(Upstreams::new(&server.config.upstreams.borrow(), &settings));
    server.is_loop.store(false, Ordering::Relaxed);
    tasks::spawn("dns-loop-check", detect_loop(server.clone()));
}

/// Detects a forwarding loop: queries the upstreams for the probe name; if that query arrives here, forwarded queries would loop for ever.
async fn detect_loop(server: Arc<Server>) {
    let Ok(name) = Name::from_ascii(&server.probe) else { return };
    let upstreams = server.upstreams.read().clone();
    upstreams.ask(&Query::query(name, RecordType::HINFO), &mut Message::query()).await;
    if server.is_loop.load(Ordering::Relaxed) {
        tracing::error!(
            "forwarding loop: the upstream resolvers forward to the cluster DNS, so queries outside of the cluster domain are refused; set other upstreamNameservers in ConfigMap kube-system/kube-dns, or other nameservers in the node's resolv.conf"
        );
    }
}

async fn rebuild_zone(server: Arc<Server>, informers: Informers, known: Arc<Notify>) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let namespaces = informers.of::<Namespace>();
    let mut sync = SyncLoop::new(BATCH_PERIOD, None);
    sync.follow(&services);
    sync.follow(&slices);
    sync.follow_if(&namespaces, |change| !matches!(change, Change::Applied { old: Some(_), .. }));
    sync.synced().await;
    let Config { domain, address, .. } = &server.config;
    loop {
        let zone = Zone::build(domain, Some(*address), &services.list(), &slices.list(), &namespaces.list());
        *server.zone.write() = Arc::new(zone);
        known.notify_one();
        sync.next().await;
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
            continue;
        };
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let limit = udp_limit(&question);
        let metrics = QueryMetrics::new(&question, peer.ip(), "udp");
        match local(&server, &question, peer.ip()) {
            LocalAnswer::Complete(answer) => {
                metrics.answered(&answer);
                let _ = socket.send_to(&server.packet(answer, limit), peer).await;
            }
            LocalAnswer::Partial(part, rest) => {
                let (server, socket) = (server.clone(), socket.clone());
                tasks::spawn("dns-question", async move {
                    let answer = forward(&server, peer.ip(), part, rest).await;
                    metrics.answered(&answer);
                    let _ = socket.send_to(&server.packet(answer, limit), peer).await;
                });
            }
        }
    }
}

/// How large an answer may be: as large as the client says that it takes (RFC 6891), within bounds.
fn udp_limit(question: &Message) -> usize {
    let taken = question.edns.as_ref().map_or(MAX_UDP_BYTES, |edns| usize::from(edns.max_payload()));
    taken.clamp(MAX_UDP_BYTES, MAX_EDNS_UDP_BYTES)
}

async fn serve_tcp(server: Arc<Server>, listener: Arc<TcpListener>) {
    let places = ConcurrencyLimiter::new(MAX_CONNECTIONS_PER_CLIENT, MAX_CONNECTIONS);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors (EMFILE) the next accept would fail at once, too.
                tracing::warn!(%error, "failed to accept a TCP connection to the cluster DNS");
                tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
                continue;
            }
        };
        // Above the limit the connection is closed.
        let Some(place) = places.try_acquire(peer.ip()) else { continue };
        let server = server.clone();
        tasks::spawn("dns-connection", async move {
            let _ = tcp_connection(server, stream, peer.ip()).await;
            drop(place);
        });
    }
}

/// Runs I/O with a timeout.
async fn with_timeout<T>(limit: Duration, work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn tcp_connection(server: Arc<Server>, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
    loop {
        let length = usize::from(with_timeout(IDLE_TIMEOUT, stream.read_u16()).await?);
        if length > MAX_QUERY_BYTES {
            return Ok(());
        }
        let mut packet = vec![0u8; length];
        with_timeout(MESSAGE_TIMEOUT, stream.read_exact(&mut packet)).await?;
        let Ok(question) = Message::from_vec(&packet) else { return Ok(()) };
        let metrics = QueryMetrics::new(&question, peer, "tcp");
        let answer = match local(&server, &question, peer) {
            LocalAnswer::Complete(answer) => answer,
            LocalAnswer::Partial(part, rest) => forward(&server, peer, part, rest).await,
        };
        metrics.answered(&answer);
        let answer = server.packet(answer, usize::from(u16::MAX));
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        with_timeout(MESSAGE_TIMEOUT, stream.write_all(&framed)).await?;
    }
}

/// The zone's answer to a query.
enum LocalAnswer {
    Complete(Message),
    /// The response so far, and the query to forward: the original one, or that of a CNAME's target.
    Partial(Message, Query),
}

fn local(server: &Server, question: &Message, peer: IpAddr) -> LocalAnswer {
    let mut answer = zone::response_to(question);
    let query = question.queries.first().filter(|_| question.metadata.message_type == MessageType::Query);
    if question.metadata.op_code != OpCode::Query {
        answer.metadata.response_code = ResponseCode::NotImp;
        return LocalAnswer::Complete(answer);
    }
    // Zone transfers (AXFR) are refused.
    if query.is_some_and(|query| matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)) {
        answer.metadata.response_code = ResponseCode::Refused;
        return LocalAnswer::Complete(answer);
    }
    let Some(query) = query else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return LocalAnswer::Complete(answer);
    };
    if server.log.load(Ordering::Relaxed) {
        tracing::info!(name = %query.name(), kind = %query.query_type(), %peer, "DNS query");
    }
    if query.name().to_ascii() == server.probe {
        server.is_loop.store(true, Ordering::Relaxed);
        return LocalAnswer::Complete(answer);
    }
    let zone = server.zone.read().clone();
    let namespace = || server.config.local.namespace_of(peer);
    find(&zone, answer, query, namespace)
}

/// Follows CNAME records within the zone: stub resolvers expect the addresses in the same response (RFC 1034, section 4.3.2).
fn find(zone: &Zone, mut answer: Message, query: &Query, namespace: impl Fn() -> Option<String>) -> LocalAnswer {
    let kind = query.query_type();
    let mut next = query.clone();
    for hop in 0..MAX_CNAME_CHAIN {
        let records = match zone.answer(next.name(), kind) {
            ZoneAnswer::NotInZone if hop > 0 => return LocalAnswer::Partial(answer, next),
            ZoneAnswer::NotInZone => {
                let found = namespace().and_then(|namespace| zone.search(query.name(), kind, &namespace));
                let Some(records) = found else { return LocalAnswer::Partial(answer, next) };
                records
            }
            ZoneAnswer::Records(records) => {
                answer.metadata.authoritative = true;
                records
            }
            ZoneAnswer::NameError(soa) => {
                answer.metadata.authoritative = true;
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa);
                return LocalAnswer::Complete(answer);
            }
            ZoneAnswer::NotReady => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return LocalAnswer::Complete(answer);
            }
            ZoneAnswer::NoData(soa) => {
                answer.metadata.authoritative = true;
                answer.add_authority(soa);
                return LocalAnswer::Complete(answer);
            }
        };
        let alias = match records.last().map(|r| &r.data) {
            Some(RData::CNAME(alias)) if !matches!(kind, RecordType::CNAME | RecordType::ANY) => Some(alias.0.clone()),
            _ => None,
        };
        answer.add_answers(records);
        match alias {
            Some(alias) => next.set_name(alias),
            None => {
                answer.add_additionals(zone.additional_records(&answer.answers));
                return LocalAnswer::Complete(answer);
            }
        };
    }
    answer.metadata.response_code = ResponseCode::ServFail;
    LocalAnswer::Complete(answer)
}

/// Forwards the query `rest` and adds the upstream's records to the response.
async fn forward(server: &Server, client: IpAddr, mut answer: Message, rest: Query) -> Message {
    let upstreams = server.upstreams.read().clone();
    // Stub domains aren't affected by a loop of the upstreams.
    let round = server.is_loop.load(Ordering::Relaxed) && !upstreams.is_of_zone(&rest);
    match server.forwarding.try_acquire(client) {
        Some(_place) if !round => {
            metrics::forwarded();
            upstreams.ask(&rest, &mut answer).await;
        }
        _ => answer.metadata.response_code = ResponseCode::ServFail,
    }
    answer
}

impl Server {
    /// A server whose zone isn't ready yet.
    fn new(config: Config) -> Self {
        let upstreams = Upstreams::new(&config.upstreams.borrow(), &Settings::default());
        Server {
            zone: RwLock::new(Arc::new(Zone::not_ready(&config.domain))),
            settings: RwLock::default(),
            upstreams: RwLock::new(Arc::new(upstreams)),
            forwarding: ConcurrencyLimiter::new(MAX_FORWARDED_PER_CLIENT, MAX_FORWARDED),
            // Not below `invalid`, for which resolvers answer without a query (RFC 6761).
            probe: format!("{:016x}.loop.timonel.test.", RandomState::new().build_hasher().finish()),
            is_loop: AtomicBool::new(false),
            log: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            config,
        }
    }

    /// The packet of an answer. Programs that take the first address come to all of them in turn.
    fn packet(&self, mut answer: Message, limit: usize) -> Vec<u8> {
        take_turns(&mut answer.answers, self.sent.fetch_add(1, Ordering::Relaxed));
        encode(answer, limit)
    }
}

/// Puts the addresses behind those aliases that lead to them in another order.
fn take_turns(records: &mut [Record], turn: usize) {
    let aliases = records.iter().take_while(|r| matches!(r.data, RData::CNAME(_))).count();
    let addresses = &mut records[aliases..];
    if addresses.len() > 1 && addresses.iter().all(|r| matches!(r.data, RData::A(_) | RData::AAAA(_))) {
        let by = turn.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(by);
    }
}

/// The packet; of one that is too long what wasn't asked for is left out, and then all: the client asks again by TCP.
fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    let whole = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = whole(&message) {
        return bytes;
    }
    message.additionals.clear();
    whole(&message).unwrap_or_else(|| {
        let mut cut = message.truncate();
        cut.metadata.truncation = true;
        cut.answers.clear();
        cut.to_vec().unwrap_or_default()
    })
}

/// The resolvers that a `resolv.conf` names, our own address left out.
pub fn upstreams(resolv_conf: &str, own: IpAddr) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .filter(|address| *address != own)
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for the addresses of `name` from the namespace `default`: what is found, the code, and what is to be asked elsewhere.
    fn found(services: &str, name: &str) -> String {
        let parsed: Vec<Service> = serde_json::from_str(services).unwrap();
        let namespaces = ["default", "shop"].map(|name| {
            let value = serde_json::json!({"metadata": {"name": name}});
            Arc::new(serde_json::from_value::<Namespace>(value).unwrap())
        });
        let services: Vec<_> = parsed.into_iter().map(Arc::new).collect();
        let zone = Zone::build("cluster.local", None, &services, &[], &namespaces);
        let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        let (answer, rest) = match find(&zone, Message::query(), &query, || Some("default".into())) {
            LocalAnswer::Complete(answer) => (answer, String::new()),
            LocalAnswer::Partial(answer, rest) => (answer, format!(" then {}", rest.name())),
        };
        let data: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
        format!("{} {}{rest}", answer.metadata.response_code, data.join(" "))
    }

    #[test]
    fn aliases_are_followed_to_their_end() {
        let services = r#"[
            {"metadata": {"name": "api", "namespace": "shop"}, "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"]}},
            {"metadata": {"name": "near", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "api.shop.svc.cluster.local"}},
            {"metadata": {"name": "far", "namespace": "default"}, "spec": {"type": "ExternalName", "externalName": "example.org"}},
            {"metadata": {"name": "lost", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "none.shop.svc.cluster.local"}},
            {"metadata": {"name": "round", "namespace": "default"},
             "spec": {"type": "ExternalName", "externalName": "round.default.svc.cluster.local"}}]"#;
        let zone = "default.svc.cluster.local.";
        let check = |name: &str, want: &str| assert_eq!(found(services, name), want, "{name}");
        check(&format!("near.{zone}"), "No Error api.shop.svc.cluster.local. 10.43.0.7");
        check("near.", &format!("No Error near.{zone} api.shop.svc.cluster.local. 10.43.0.7"));
        check(&format!("far.{zone}"), "No Error example.org. then example.org.");
        check("far.", &format!("No Error far.{zone} example.org. then example.org."));
        check(&format!("lost.{zone}"), "Non-Existent Domain none.shop.svc.cluster.local.");
        check("example.org.", "No Error  then example.org.");
        let round = found(services, &format!("round.{zone}"));
        assert!(round.starts_with("Server Failure"), "{round}");
    }

    #[test]
    fn every_address_is_the_first_at_times() {
        let record = |text: &str, data| Record::from_rdata(Name::from_ascii(text).unwrap(), 5, data);
        let alias = || RData::CNAME(hickory_proto::rr::rdata::CNAME(Name::from_ascii("b.").unwrap()));
        let mut records = vec![record("a.", alias())];
        records.extend((0..3).map(|n| record("b.", RData::A(std::net::Ipv4Addr::new(10, 0, 0, n).into()))));
        let mut firsts = std::collections::BTreeSet::new();
        for turn in 0..3 {
            let mut turned = records.clone();
            take_turns(&mut turned, turn);
            assert_eq!(turned[0], records[0]);
            firsts.insert(turned[1].data.to_string());
        }
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
    }

    /// What the other end of a connection hears of `sent`, after all the time that there is.
    async fn heard(sent: &[u8]) -> Vec<u8> {
        let (_, upstreams) = watch::channel(Vec::new());
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let config = Config { address, domain: "cluster.local".into(), local: LocalPods::default(), upstreams };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let serving = tokio::spawn(tcp_connection(Arc::new(Server::new(config)), stream, peer.ip()));
        client.write_all(sent).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        let _ = serving.await.unwrap();
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_or_too_much_ends() {
        assert!(heard(&[]).await.is_empty());
        assert!(heard(&[0, 40, 1, 2, 3]).await.is_empty(), "half a question");
        assert!(heard(&[0xff, 0xff]).await.is_empty(), "a question too long");
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("api.shop.svc.cluster.local.").unwrap(), RecordType::A));
        let packet = question.to_vec().unwrap();
        let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes(), packet.as_slice()].concat();
        let answer = Message::from_vec(&heard(&framed).await[2..]).unwrap();
        // Nothing is known yet, which isn't to say that there is nothing.
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn answers_are_as_large_as_clients_take_them() {
        let limit = |payload: Option<u16>| {
            let mut question = Message::query();
            question.edns = payload.map(|payload| {
                let mut edns = hickory_proto::op::Edns::new();
                edns.set_max_payload(payload);
                edns
            });
            udp_limit(&question)
        };
        assert_eq!([None, Some(0), Some(512), Some(800), Some(4096)].map(limit), [512, 512, 512, 800, 1232]);
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let code = |change: fn(&mut Message)| {
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), RecordType::A));
            change(&mut question);
            let (_, upstreams) = watch::channel(Vec::new());
            let address = std::net::Ipv4Addr::LOCALHOST.into();
            let config = Config { address, domain: "cluster.local".into(), local: LocalPods::default(), upstreams };
            match local(&Server::new(config), &question, address) {
                LocalAnswer::Complete(answer) => answer.metadata.response_code,
                LocalAnswer::Partial(..) => ResponseCode::NoError,
            }
        };
        assert_eq!(code(|m| m.metadata.op_code = OpCode::Update), ResponseCode::NotImp);
        assert_eq!(
            code(|m| {
                m.queries.clear();
            }),
            ResponseCode::FormErr
        );
        assert_eq!(
            code(|m| {
                m.queries[0].set_query_type(RecordType::AXFR);
            }),
            ResponseCode::Refused
        );
    }
}
