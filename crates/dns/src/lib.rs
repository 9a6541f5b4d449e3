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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use informer::{Change, Informer, Informers, Pod};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore};

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
    /// Resolvers for all other names.
    pub upstreams: Vec<SocketAddr>,
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
    upstreams: RwLock<Arc<Upstreams>>,
    /// Questions that wait for an upstream at a time.
    forwarding: Semaphore,
    /// A name that nobody but this server asks for.
    probe: String,
    /// The upstreams ask us in turn.
    is_loop: AtomicBool,
    /// Whether every question is told.
    log: AtomicBool,
}

const PORT: u16 = 53;
/// Largest UDP answer without EDNS (RFC 1035), and with (RFC 6891, as the DNS flag day 2020 has it).
const UDP_PLAIN: usize = 512;
const UDP_EDNS: usize = 1232;

/// Serves until the process ends.
///
/// # Errors
/// When the address can't be bound.
pub async fn run(config: Config, informers: Informers) -> Result<(), BindError> {
    let fail = |source| BindError { address: config.address, source };
    let udp = Arc::new(UdpSocket::bind((config.address, PORT)).await.map_err(fail)?);
    let tcp = TcpListener::bind((config.address, PORT)).await.map_err(fail)?;
    let server = Arc::new(Server {
        zone: RwLock::new(Arc::new(Zone::default())),
        namespaces: RwLock::default(),
        upstreams: RwLock::new(Arc::new(Upstreams::new(&config.upstreams, &Settings::default()))),
        forwarding: Semaphore::new(256),
        // Not below `invalid`, which our own resolver answers without asking anybody.
        probe: format!("{:016x}.loop.timonel.test.", RandomState::new().build_hasher().finish()),
        is_loop: AtomicBool::new(false),
        log: AtomicBool::new(false),
        config,
    });
    watch_pods(&server, &informers);
    keep_settings(&server, &informers);
    tokio::spawn(look_for_loop(server.clone()));
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
                *server.upstreams.write() = Arc::new(Upstreams::new(&server.config.upstreams, &settings));
                // Others may be asked now than before.
                server.is_loop.store(false, Ordering::Relaxed);
                tokio::spawn(look_for_loop(server.clone()));
            }
            Err(error) => tracing::warn!(error, "ConfigMap kube-system/kube-dns can't be used"),
        }
    });
}

/// Asks the resolvers of all other names for one that nobody knows: if the question comes back here, questions would go round for ever.
async fn look_for_loop(server: Arc<Server>) {
    let Ok(name) = Name::from_ascii(&server.probe) else { return };
    let mut question = Message::query();
    question.add_query(Query::query(name, RecordType::HINFO));
    let upstreams = server.upstreams.read().clone();
    upstreams.ask(&question).await;
    if server.is_loop.load(Ordering::Relaxed) {
        tracing::error!(
            "names outside of the cluster aren't answered: the resolvers that are asked for them ask the cluster's DNS in turn; name others in upstreamNameservers of ConfigMap kube-system/kube-dns, or in /etc/resolv.conf and start anew"
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
        if let Some(answer) = local(&server, &question, peer.ip()) {
            asked.answered(&answer);
            let _ = socket.send_to(&encode(&answer, limit), peer).await;
            continue;
        }
        let (server, socket) = (server.clone(), socket.clone());
        tokio::spawn(async move {
            let answer = elsewhere(&server, &question).await;
            asked.answered(&answer);
            let _ = socket.send_to(&encode(&answer, limit), peer).await;
        });
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
            Some(answer) => answer,
            None => elsewhere(&server, &question).await,
        };
        asked.answered(&answer);
        let answer = encode(&answer, usize::from(u16::MAX));
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to a question that is ours, or `None` for the rest of the world's.
fn local(server: &Server, question: &Message, peer: IpAddr) -> Option<Message> {
    let mut answer = zone::response_to(question);
    if question.metadata.message_type != MessageType::Query {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Some(answer);
    }
    let Some(query) = question.queries.first() else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Some(answer);
    };
    if server.log.load(Ordering::Relaxed) {
        tracing::info!(name = %query.name(), kind = %query.query_type(), %peer, "a name is asked for");
    }
    if query.name().to_ascii() == server.probe {
        server.is_loop.store(true, Ordering::Relaxed);
        return Some(answer);
    }
    let zone = server.zone.read().clone();
    match zone.answer(query.name(), query.query_type()) {
        Answer::Elsewhere => {
            let namespace = server.namespaces.read().get(&peer).cloned()?;
            let records = zone.search(query.name(), query.query_type(), &namespace)?;
            answer.add_answers(records);
            Some(answer)
        }
        Answer::Records(records) => {
            answer.metadata.authoritative = true;
            answer.add_answers(records);
            Some(answer)
        }
        Answer::NoSuchName(soa) => {
            answer.metadata.authoritative = true;
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(soa);
            Some(answer)
        }
        Answer::NoData(soa) => {
            answer.metadata.authoritative = true;
            answer.add_authority(soa);
            Some(answer)
        }
    }
}

/// The answer to a question that isn't ours.
async fn elsewhere(server: &Server, question: &Message) -> Message {
    let refuse = || {
        let mut answer = zone::response_to(question);
        answer.metadata.response_code = ResponseCode::ServFail;
        answer
    };
    let upstreams = server.upstreams.read().clone();
    // Zones with resolvers of their own don't go that way.
    if server.is_loop.load(Ordering::Relaxed) && !upstreams.is_of_zone(question) {
        return refuse();
    }
    let Ok(_permit) = server.forwarding.try_acquire() else { return refuse() };
    metrics::forwarded();
    upstreams.ask(question).await
}

/// The packet; one that is too long is cut, and the client asks again by TCP.
fn encode(message: &Message, limit: usize) -> Vec<u8> {
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        _ => {
            let mut cut = message.truncate();
            cut.metadata.truncation = true;
            cut.answers.clear();
            cut.to_vec().unwrap_or_default()
        }
    }
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
