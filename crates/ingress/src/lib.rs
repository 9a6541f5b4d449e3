//! The ingress controller: an HTTP(S) reverse proxy to the services of Ingresses and HTTPRoutes.
//!
//! Every node runs one. [`ingresses`] and [`gateways`] turn objects, services and endpoints into a routing table ([`table`]); connections
//! ([`serve`]) hand requests to the proxy ([`reverse_proxy`]), which routes them by the current table and sends them to a backend
//! ([`upstream`]); [`tls`] chooses the certificate by the server name of the handshake (SNI).
//!
//! Invariants:
//! - A request is routed by the table that was current when it arrived; changes never break one in flight.
//! - A request is served by one worker thread, from its first byte to its last ([`workers`]).
//! - Requests go to endpoints directly, not to the service's cluster IP, so that another endpoint can be tried when one refuses.

#![warn(missing_docs, clippy::missing_errors_doc)]

mod access_log;
mod downstream;
mod expressions;
mod gateways;
mod ingresses;
mod reverse_proxy;
mod secrets;
mod serve;
mod services;
mod table;
mod tls;
mod upstream;
mod workers;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::gateway::GatewaySnapshot;
use ::gateway::kinds::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant};
use informer::{Informers, SyncLoop};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use parking_lot::RwLock;
use tasks::AbortOnDrop;
use tokio::net::TcpListener;

use expressions::Expressions;
use secrets::Secrets;
use services::Services;
use table::Table;
use tls::Certificates;
use workers::Workers;

/// What is made of what strangers say, for those who say anything: the fuzz targets.
pub mod readers {
    pub use crate::expressions::Expressions;
    pub use crate::gateways::add as add_gateways;
    pub use crate::ingresses::add as add_ingresses;
    pub use crate::services::Services;
    pub use crate::table::{Table, VirtualHosts};
}

/// The controller that IngressClasses name.
pub const CONTROLLER_NAME: &str = "timonel.io/ingress";

/// Where the ingress listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address; an unspecified one means all of this machine.
    pub bind: IpAddr,
    /// The port of Ingresses without TLS.
    pub http_port: u16,
    /// The port of Ingresses with TLS.
    pub https_port: u16,
}

/// Changes within this period are applied together.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
/// Retry period for a port that is in use.
const LISTEN_RETRY_PERIOD: Duration = Duration::from_secs(30);

/// The current routing table. Clones share it.
#[derive(Clone, Default)]
pub struct SharedTable(Arc<RwLock<Arc<Table>>>);

impl SharedTable {
    /// The table as it is now.
    pub fn get(&self) -> Arc<Table> {
        self.0.read().clone()
    }

    fn set(&self, table: Table) {
        *self.0.write() = Arc::new(table);
    }
}

/// The objects that the routing table is made of, as of one moment.
struct Objects {
    ingresses: Vec<Arc<Ingress>>,
    snapshot: GatewaySnapshot,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Objects {
    fn gather(informers: &Informers) -> Self {
        Objects {
            ingresses: ingresses::served(&informers.of::<Ingress>().list(), &informers.of::<IngressClass>().list()),
            snapshot: GatewaySnapshot::new(
                &informers.of::<GatewayClass>().list(),
                informers.of::<Gateway>().list(),
                informers.of::<HTTPRoute>().list(),
                informers.of::<ReferenceGrant>().list(),
                &informers.of::<Namespace>().list(),
            ),
            services: informers.of::<Service>().list(),
            slices: informers.of::<EndpointSlice>().list(),
        }
    }

    fn table(&self, config: &Config, expressions: &mut Expressions) -> Table {
        let mut table = Table::default();
        expressions.begin();
        let services = Services::new(&self.services, &self.slices);
        for (port, secure) in [(config.http_port, false), (config.https_port, true)] {
            let port = table.ports.entry(port).or_default();
            port.secure = secure;
            ingresses::add(&mut port.hosts, &self.ingresses, &services, expressions);
        }
        gateways::add(&mut table, &self.snapshot, &services, expressions);
        expressions.end();
        table.ports.values_mut().for_each(|port| port.hosts.sort());
        table
    }

    /// The TLS secrets: port, namespace and name, hosts.
    fn secrets(&self, config: &Config) -> Vec<(u16, secrets::Name, Vec<String>)> {
        let of_ingresses = ingresses::secrets(&self.ingresses).into_iter();
        let of_ingresses = of_ingresses.map(|(namespace, name, hosts)| (config.https_port, namespace, name, hosts));
        let all = of_ingresses.chain(gateways::secrets(&self.snapshot));
        all.map(|(port, namespace, name, hosts)| (port, (namespace, name), hosts)).collect()
    }
}

/// Runs the ingress controller until the process ends.
pub async fn run(config: Config, informers: Informers) {
    let mut sync = SyncLoop::new(BATCH_PERIOD, None);
    sync.follow(&informers.of::<Ingress>());
    sync.follow(&informers.of::<IngressClass>());
    sync.follow(&informers.of::<Service>());
    sync.follow(&informers.of::<EndpointSlice>());
    let trigger = sync.trigger();
    trigger.on(&informers.of::<Namespace>());
    // Gateways aren't waited for: their CRDs may have been deleted.
    trigger.on(&informers.of::<GatewayClass>());
    trigger.on(&informers.of::<Gateway>());
    trigger.on(&informers.of::<HTTPRoute>());
    trigger.on(&informers.of::<ReferenceGrant>());
    sync.synced().await;
    let table = SharedTable::default();
    let workers = match Workers::start(&table) {
        Ok(workers) => workers,
        Err(error) => {
            tracing::error!(%error, "the ingress controller failed to start its threads");
            return;
        }
    };
    let mut secrets = Secrets::new(informers.client().clone(), trigger);
    let mut expressions = Expressions::default();
    let mut listeners = PortListeners { bind: config.bind, workers, open: HashMap::new() };
    loop {
        let objects = Objects::gather(&informers);
        table.set(objects.table(&config, &mut expressions));
        listeners.set(&table.get());
        let named = objects.secrets(&config);
        secrets.keep(&named.iter().map(|(_, name, _)| name.clone()).collect());
        listeners.set_certificates(&secrets, named);
        listeners.workers.close_idle_connections();
        sync.next().await;
    }
}

/// The open ports.
struct PortListeners {
    bind: IpAddr,
    workers: Workers,
    open: HashMap<u16, PortListener>,
}

struct PortListener {
    certificates: Option<Arc<Certificates>>,
    _serving: AbortOnDrop,
}

impl PortListeners {
    /// Opens and closes ports as the table requires. Established connections go on.
    fn set(&mut self, table: &Table) {
        self.open.retain(|number, door| {
            table.ports.get(number).is_some_and(|port| port.secure == door.certificates.is_some())
        });
        for (number, port) in &table.ports {
            if self.open.contains_key(number) {
                continue;
            }
            let certificates = port.secure.then(Arc::<Certificates>::default);
            let tls = match certificates.as_ref().map(Certificates::server_config).transpose() {
                Ok(tls) => tls,
                Err(error) => {
                    tracing::error!(%error, port = number, "failed to serve HTTPS on this port");
                    continue;
                }
            };
            let (address, workers, number) = (SocketAddr::from((self.bind, *number)), self.workers.clone(), *number);
            let serving = tasks::supervise("ingress-port", move || {
                let (workers, tls) = (workers.clone(), tls.clone());
                async move { workers.serve(listen(address).await, number, tls).await }
            });
            self.open.insert(number, PortListener { certificates, _serving: AbortOnDrop(serving) });
        }
    }

    fn set_certificates(&self, secrets: &Secrets, named: Vec<(u16, secrets::Name, Vec<String>)>) {
        let mut found: HashMap<u16, Vec<_>> = HashMap::new();
        for (port, name, hosts) in named {
            found.entry(port).or_default().extend(secrets.get(&name).map(|key| (hosts, key)));
        }
        for (port, door) in &self.open {
            if let Some(certificates) = &door.certificates {
                certificates.set(found.remove(port).unwrap_or_default());
            }
        }
    }
}

/// Listens on an address. A port that is in use is retried, as the program that has it may end.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut log_entry = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !log_entry {
                    let hint = "another program has the port; stop it, or run the server with --disable ingress";
                    tracing::warn!(%address, %error, "the ingress controller failed to listen: {hint}");
                }
                log_entry = true;
                tokio::time::sleep(LISTEN_RETRY_PERIOD).await;
            }
        }
    }
}
