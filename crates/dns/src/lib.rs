//! The cluster's DNS server (Kubernetes DNS specification 1.1), on every node.
//!
//! [`zone`] answers questions purely, from an index of services and endpoints; this module reads packets, keeps the
//! index in step with the API, and hands questions about the rest of the world to the host's resolvers.

mod forward;
mod metrics;
pub mod zone;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use informer::{Change, Informer, Informers, Pod};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore, watch};

use forward::{Settings, Upstreams};
use metrics::Asked;
pub use zone::{Answer, Zone};

#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster DNS address, which is an address of this node too.
    pub address: IpAddr,
    /// `cluster.local`
    pub domain: String,
    /// This node, whose pods are known by their addresses.
    pub node_name: String,
    /// The machine's resolvers of the moment, for all other names.
    pub upstreams: watch::Receiver<Vec<SocketAddr>>,
}

#[derive(Debug, thiserror::Error)]
#[error("can't answer DNS on {address}:53: {source}")]
pub struct BindError {
    address: IpAddr,
    source: std::io::Error,
}

struct Server {
    config: Config,
    zone: RwLock<Arc<Zone>>,
    /// Namespaces of this node's pods, by address.
    namespaces: RwLock<HashMap<IpAddr, String>>,
    /// What the ConfigMap says.
    settings: RwLock<Settings>,
    upstreams: RwLock<Arc<Upstreams>>,
    /// Questions that wait for an upstream at a time.
    forwarding: Semaphore,
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
/// Aliases of the cluster that are followed one after another.
const ALIASES: usize = 8;

/// Serves until the process ends.
///
/// # Errors
/// When the address can't be bound.
pub async fn run(config: Config, informers: Informers) -> Result<(), BindError> {
    let fail = |source| BindError { address: config.address, source };
    let udp = Arc::new(UdpSocket::bind((config.address, PORT)).await.map_err(fail)?);
    let tcp = TcpListener::bind((config.address, PORT)).await.map_err(fail)?;
    let upstreams = Upstreams::new(&config.upstreams.borrow(), &Settings::default());
    let server = Arc::new(Server {
        zone: RwLock::new(Arc::new(Zone::default())),
        namespaces: RwLock::default(),
        settings: RwLock::default(),
        upstreams: RwLock::new(Arc::new(upstreams)),
        forwarding: Semaphore::new(256),
        // Not below `invalid`, which our own resolver answers without asking anybody.
        probe: format!("{:016x}.loop.timonel.test.", RandomState::new().build_hasher().finish()),
        is_loop: AtomicBool::new(false),
        log: AtomicBool::new(false),
        sent: AtomicUsize::new(0),
        config,
    });
    watch_pods(&server, &informers);
    keep_settings(&server, &informers);
    tokio::spawn(look_for_loop(server.clone()));
    tokio::spawn(keep_upstreams(server.clone()));
    tokio::spawn(keep_zone(server.clone(), informers));
    tokio::spawn(metrics::serve(server.config.address));
    tokio::spawn(serve_tcp(server.clone(), tcp));
    serve_udp(server, udp).await;
    Ok(())
}

/// Keeps the namespaces of this node's pods.
fn watch_pods(server: &Arc<Server>, informers: &Informers) {
    let pods = informers.selected::<Pod>(&format!("spec.nodeName={}", server.config.node_name));
    let server = server.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true)) {
            return;
        }
        let mut namespaces = server.namespaces.write();
        let over = pod.is_over();
        for ip in pod.ips().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            if over || matches!(change, Change::Deleted(_)) {
                namespaces.remove(&ip);
            } else {
                namespaces.insert(ip, pod.metadata.namespace.clone().unwrap_or_default());
            }
        }
    });
}

/// Keeps to what the ConfigMap `kube-system/kube-dns` says. What can't be read is told, and nothing changes.
fn keep_settings(server: &Arc<Server>, informers: &Informers) {
    let maps: Api<ConfigMap> = Api::namespaced(informers.client().clone(), "kube-system");
    let informer = Informer::start(maps, watcher::Config::default().fields("metadata.name=kube-dns"));
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
            Err(error) => tracing::warn!(error, "ConfigMap kube-system/kube-dns can't be used"),
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
    tokio::spawn(look_for_loop(server.clone()));
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

async fn keep_zone(server: Arc<Server>, informers: Informers) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    services.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    slices.on_change(move |_| wake.notify_one());
    loop {
        let zone = Zone::build(&server.config.domain, &services.list(), &slices.list());
        *server.zone.write() = Arc::new(zone);
        changed.notified().await;
        // Changes come in bursts; one index for all.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
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
                tokio::spawn(async move {
                    let answer = elsewhere(&server, part, rest).await;
                    asked.answered(&answer);
                    let _ = socket.send_to(&server.packet(answer, limit), peer).await;
                });
            }
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let server = server.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(30), tcp_connection(server, stream, peer.ip())).await;
        });
    }
}

async fn tcp_connection(server: Arc<Server>, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
    loop {
        let length = usize::from(stream.read_u16().await?);
        let mut packet = vec![0u8; length];
        stream.read_exact(&mut packet).await?;
        let Ok(question) = Message::from_vec(&packet) else { return Ok(()) };
        let asked = Asked::new(&question, peer, "tcp");
        let answer = match local(&server, &question, peer) {
            Found::Whole(answer) => answer,
            Found::Part(part, rest) => elsewhere(&server, part, rest).await,
        };
        asked.answered(&answer);
        let answer = server.packet(answer, usize::from(u16::MAX));
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&answer).await?;
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
    let Some(query) = query else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Found::Whole(answer);
    };
    if server.log.load(Ordering::Relaxed) {
        tracing::info!(name = %query.name(), kind = %query.query_type(), %peer, "a name is asked for");
    }
    if query.name().to_ascii() == server.probe {
        server.is_loop.store(true, Ordering::Relaxed);
        return Found::Whole(answer);
    }
    let zone = server.zone.read().clone();
    let namespace = || server.namespaces.read().get(&peer).cloned();
    find(&zone, answer, query, namespace)
}

/// Follows aliases as far as they are the cluster's: C libraries take an answer without addresses for nothing (RFC 1034, 4.3.2).
fn find(zone: &Zone, mut answer: Message, query: &Query, namespace: impl Fn() -> Option<String>) -> Found {
    let kind = query.query_type();
    let mut next = query.clone();
    for hop in 0..ALIASES {
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
async fn elsewhere(server: &Server, mut answer: Message, rest: Query) -> Message {
    let upstreams = server.upstreams.read().clone();
    // Zones with resolvers of their own don't go that way.
    let round = server.is_loop.load(Ordering::Relaxed) && !upstreams.is_of_zone(&rest);
    match server.forwarding.try_acquire() {
        Ok(_permit) if !round => {
            metrics::forwarded();
            upstreams.ask(&rest, &mut answer).await;
        }
        _ => answer.metadata.response_code = ResponseCode::ServFail,
    }
    answer
}

impl Server {
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
        let by = turn % addresses.len();
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
        let zone = Zone::build("cluster.local", &parsed.into_iter().map(Arc::new).collect::<Vec<_>>(), &[]);
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
}
