//! The cluster's DNS server (Kubernetes DNS specification 1.1), on every node.
//!
//! [`zone`] answers queries purely, from an index of services and endpoints; the other modules read messages, rebuild the index when objects
//! change, and forward queries for other names to the node's resolvers ([`forward`]).

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod answer;
mod concurrency;
mod forward;
mod listen;
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

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use informer::{Change, Informer, Informers, SyncLoop};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use network::LocalPods;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use answer::{encode, take_turns};
use concurrency::ConcurrencyLimiter;
use forward::{Settings, Upstreams};
use listen::{serve_tcp, serve_udp};
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
/// How long the first responses wait for the zone; afterwards queries of the cluster domain get SERVFAIL until it is ready.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits of concurrent forwarded queries.
const MAX_FORWARDED_PER_CLIENT: usize = 128;
const MAX_FORWARDED: usize = 1024;
/// Changes within this period are covered by one rebuild of the zone.
const BATCH_PERIOD: Duration = Duration::from_millis(2);

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
            Err(error) => tracing::warn!(%error, "ignored ConfigMap kube-system/kube-dns: it is malformed"),
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
mod tests;
