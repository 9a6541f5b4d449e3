//! The cluster's DNS server (Kubernetes DNS specification 1.1), on every node.
//!
//! [`zone`] answers questions purely, from an index of services and endpoints; this module reads packets, keeps the
//! index in step with the API, and hands questions about the rest of the world to the host's resolvers.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod clients;
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
use informer::{Change, Informer, Informers};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use network::LocalPods;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};

use clients::Places;
use forward::{Settings, Upstreams};
use metrics::Asked;
pub use sockets::{BindError, Sockets};
pub use zone::{Answer, Zone};

#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster DNS address, which is an address of this node too.
    pub address: IpAddr,
    /// `cluster.local`
    pub domain: String,
    /// This node's pods, known by their addresses before they run.
    pub local: LocalPods,
    /// The machine's resolvers of the moment, for all other names.
    pub upstreams: watch::Receiver<Vec<SocketAddr>>,
}

struct Server {
    config: Config,
    zone: RwLock<Arc<Zone>>,
    /// What the ConfigMap says.
    settings: RwLock<Settings>,
    upstreams: RwLock<Arc<Upstreams>>,
    /// Questions that wait for an upstream at a time.
    forwarding: Arc<Places>,
    /// A name that nobody but this server asks for.
    probe: String,
    /// The upstreams ask us in turn.
    is_loop: AtomicBool,
    /// Whether every question is told.
    log: AtomicBool,
    /// Answers that were sent.
    sent: AtomicUsize,
}

const PORT: u16 = 53;
/// Largest UDP answer without EDNS (RFC 1035), and with (RFC 6891, as the DNS flag day 2020 has it).
const UDP_PLAIN: usize = 512;
const UDP_EDNS: usize = 1232;
/// How long the first answer waits for the names to be known; after that those of the cluster are told to come again.
const FIRST_ZONE: Duration = Duration::from_secs(5);
/// Connections of one client, and of all.
const CONNECTIONS: (usize, usize) = (64, 1024);
/// Questions of one client, and of all, that wait for others' answers.
const FORWARDED: (usize, usize) = (128, 1024);
/// How long a connection may be silent (RFC 7766, 6.2.3), and how long a question or an answer may take on its way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a question: one name, and perhaps options.
const MAX_QUERY_BYTES: usize = 4096;
/// What is wrong with a listener may pass.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Aliases of the cluster that are followed one after another.
const MAX_CNAME_CHAIN: usize = 8;

/// Serves until the process ends.
pub async fn run(config: Config, sockets: Sockets, informers: Informers) {
    let Sockets { udp, tcp } = sockets;
    let server = Arc::new(Server::new(config));
    keep_settings(&server, &informers);
    tasks::spawn("dns-loop-check", look_for_loop(server.clone()));
    let of = server.clone();
    tasks::until_done("dns-upstreams", move || keep_upstreams(of.clone()));
    // What comes meanwhile waits at the socket.
    let known = Arc::new(Notify::new());
    let (of, tell) = (server.clone(), known.clone());
    tasks::supervise("dns-zone", move || keep_zone(of.clone(), informers.clone(), tell.clone()));
    let _ = tokio::time::timeout(FIRST_ZONE, known.notified()).await;
    let address = server.config.address;
    tasks::until_done("dns-metrics", move || metrics::serve(address));
    let of = server.clone();
    tasks::supervise("dns-tcp", move || serve_tcp(of.clone(), tcp.clone()));
    let _ = tasks::supervise("dns-udp", move || serve_udp(server.clone(), udp.clone())).await;
}

/// Keeps to what the ConfigMap `kube-system/kube-dns` says. What can't be read is told, and nothing changes.
fn keep_settings(server: &Arc<Server>, informers: &Informers) {
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
                ask_others(&server);
            }
            Err(error) => tracing::warn!(error, "ignored ConfigMap kube-system/kube-dns: it is malformed"),
        }
    });
}

/// Follows the machine's resolvers.
async fn keep_upstreams(server: Arc<Server>) {
    let mut machine = server.config.upstreams.clone();
    while machine.changed().await.is_ok() {
        ask_others(&server);
    }
}

/// Others may be asked now than before.
fn ask_others(server: &Arc<Server>) {
    let settings = server.settings.read().clone();
    *server.upstreams.write() = Arc::new(Upstreams::new(&server.config.upstreams.borrow(), &settings));
    server.is_loop.store(false, Ordering::Relaxed);
    tasks::spawn("dns-loop-check", look_for_loop(server.clone()));
}

/// Asks the resolvers of all other names for one that nobody knows: if the question comes back here, questions would go round for ever.
async fn look_for_loop(server: Arc<Server>) {
    let Ok(name) = Name::from_ascii(&server.probe) else { return };
    let upstreams = server.upstreams.read().clone();
    upstreams.ask(&Query::query(name, RecordType::HINFO), &mut Message::query()).await;
    if server.is_loop.load(Ordering::Relaxed) {
        tracing::error!(
            "names outside of the cluster aren't answered: the resolvers that are asked for them ask the cluster's DNS in turn; name others in upstreamNameservers of ConfigMap kube-system/kube-dns, or in the machine's resolv.conf"
        );
    }
}

async fn keep_zone(server: Arc<Server>, informers: Informers, known: Arc<Notify>) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let namespaces = informers.of::<Namespace>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    services.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    slices.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Applied { old: Some(_), .. }) {
            wake.notify_one();
        }
    });
    informer::synced!(services, slices, namespaces);
    let Config { domain, address, .. } = &server.config;
    loop {
        let zone = Zone::build(domain, Some(*address), &services.list(), &slices.list(), &namespaces.list());
        *server.zone.write() = Arc::new(zone);
        known.notify_one();
        changed.notified().await;
        // Changes come in bursts; one index for all.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let limit = if question.edns.is_some() { UDP_EDNS } else { UDP_PLAIN };
        let asked = Asked::new(&question, peer.ip(), "udp");
        match local(&server, &question, peer.ip()) {
            Found::Whole(answer) => {
                asked.answered(&answer);
                let _ = socket.send_to(&server.packet(answer, limit), peer).await;
            }
            Found::Part(part, rest) => {
                let (server, socket) = (server.clone(), socket.clone());
                tasks::spawn("dns-question", async move {
                    let answer = elsewhere(&server, peer.ip(), part, rest).await;
                    asked.answered(&answer);
                    let _ = socket.send_to(&server.packet(answer, limit), peer).await;
                });
            }
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: Arc<TcpListener>) {
    let places = Places::new(CONNECTIONS.0, CONNECTIONS.1);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without descriptors the next try fails as well, at once.
                tracing::warn!(%error, "failed to accept a TCP connection to the cluster DNS");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        // Who has too many is left; the connection ends here.
        let Some(place) = places.take(peer.ip()) else { continue };
        let server = server.clone();
        tasks::spawn("dns-connection", async move {
            let _ = tcp_connection(server, stream, peer.ip()).await;
            drop(place);
        });
    }
}

/// What must be done in time.
async fn within<T>(limit: Duration, work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn tcp_connection(server: Arc<Server>, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
    loop {
        let length = usize::from(within(IDLE_TIMEOUT, stream.read_u16()).await?);
        if length > MAX_QUERY_BYTES {
            return Ok(());
        }
        let mut packet = vec![0u8; length];
        within(MESSAGE_TIMEOUT, stream.read_exact(&mut packet)).await?;
        let Ok(question) = Message::from_vec(&packet) else { return Ok(()) };
        let asked = Asked::new(&question, peer, "tcp");
        let answer = match local(&server, &question, peer) {
            Found::Whole(answer) => answer,
            Found::Part(part, rest) => elsewhere(&server, peer, part, rest).await,
        };
        asked.answered(&answer);
        let answer = server.packet(answer, usize::from(u16::MAX));
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        within(MESSAGE_TIMEOUT, stream.write_all(&framed)).await?;
    }
}

/// What the cluster knows of a question.
enum Found {
    Whole(Message),
    /// The answer so far, and what the rest of the world is to be asked for: the question itself, or where an alias leads.
    Part(Message, Query),
}

fn local(server: &Server, question: &Message, peer: IpAddr) -> Found {
    let mut answer = zone::response_to(question);
    let query = question.queries.first().filter(|_| question.metadata.message_type == MessageType::Query);
    if question.metadata.op_code != OpCode::Query {
        answer.metadata.response_code = ResponseCode::NotImp;
        return Found::Whole(answer);
    }
    // The zone isn't handed out as a whole.
    if query.is_some_and(|query| matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)) {
        answer.metadata.response_code = ResponseCode::Refused;
        return Found::Whole(answer);
    }
    let Some(query) = query else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Found::Whole(answer);
    };
    if server.log.load(Ordering::Relaxed) {
        tracing::info!(name = %query.name(), kind = %query.query_type(), %peer, "DNS query");
    }
    if query.name().to_ascii() == server.probe {
        server.is_loop.store(true, Ordering::Relaxed);
        return Found::Whole(answer);
    }
    let zone = server.zone.read().clone();
    let namespace = || server.config.local.namespace_of(peer);
    find(&zone, answer, query, namespace)
}

/// Follows aliases as far as they are the cluster's: C libraries take an answer without addresses for nothing (RFC 1034, 4.3.2).
fn find(zone: &Zone, mut answer: Message, query: &Query, namespace: impl Fn() -> Option<String>) -> Found {
    let kind = query.query_type();
    let mut next = query.clone();
    for hop in 0..MAX_CNAME_CHAIN {
        let records = match zone.answer(next.name(), kind) {
            Answer::Elsewhere if hop > 0 => return Found::Part(answer, next),
            Answer::Elsewhere => {
                let found = namespace().and_then(|namespace| zone.search(query.name(), kind, &namespace));
                let Some(records) = found else { return Found::Part(answer, next) };
                records
            }
            Answer::Records(records) => {
                answer.metadata.authoritative = true;
                records
            }
            Answer::NoSuchName(soa) => {
                answer.metadata.authoritative = true;
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa);
                return Found::Whole(answer);
            }
            Answer::NotYet => {
                answer.metadata.response_code = ResponseCode::ServFail;
                return Found::Whole(answer);
            }
            Answer::NoData(soa) => {
                answer.metadata.authoritative = true;
                answer.add_authority(soa);
                return Found::Whole(answer);
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
                answer.add_additionals(zone.targets(&answer.answers));
                return Found::Whole(answer);
            }
        };
    }
    answer.metadata.response_code = ResponseCode::ServFail;
    Found::Whole(answer)
}

/// `answer` with what the rest of the world says to `rest`.
async fn elsewhere(server: &Server, client: IpAddr, mut answer: Message, rest: Query) -> Message {
    let upstreams = server.upstreams.read().clone();
    // Zones with resolvers of their own don't go that way.
    let round = server.is_loop.load(Ordering::Relaxed) && !upstreams.is_of_zone(&rest);
    match server.forwarding.take(client) {
        Some(_place) if !round => {
            metrics::forwarded();
            upstreams.ask(&rest, &mut answer).await;
        }
        _ => answer.metadata.response_code = ResponseCode::ServFail,
    }
    answer
}

impl Server {
    /// One that knows nothing yet.
    fn new(config: Config) -> Self {
        let upstreams = Upstreams::new(&config.upstreams.borrow(), &Settings::default());
        Server {
            zone: RwLock::new(Arc::new(Zone::unknown(&config.domain))),
            settings: RwLock::default(),
            upstreams: RwLock::new(Arc::new(upstreams)),
            forwarding: Places::new(FORWARDED.0, FORWARDED.1),
            // Not below `invalid`, which our own resolver answers without asking anybody.
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
            Found::Whole(answer) => (answer, String::new()),
            Found::Part(answer, rest) => (answer, format!(" then {}", rest.name())),
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
        let check = |asked: &str, want: &str| assert_eq!(found(services, asked), want, "{asked}");
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
    fn what_is_no_question_is_refused() {
        let code = |change: fn(&mut Message)| {
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), RecordType::A));
            change(&mut question);
            let (_, upstreams) = watch::channel(Vec::new());
            let address = std::net::Ipv4Addr::LOCALHOST.into();
            let config = Config { address, domain: "cluster.local".into(), local: LocalPods::default(), upstreams };
            match local(&Server::new(config), &question, address) {
                Found::Whole(answer) => answer.metadata.response_code,
                Found::Part(..) => ResponseCode::NoError,
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
