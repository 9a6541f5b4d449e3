//! HTTP and HTTPS from outside, by host and path, to the services that Ingresses and HTTPRoutes name.
//!
//! Every node runs one. [`ingresses`] and [`gateways`] turn objects, services and endpoints into a table, a value ([`table`]);
//! requests read the table of the moment ([`serve`]); [`tls`] chooses certificates by the name that a client asks for.
//!
//! Invariants:
//! - A request is answered by the table that was there when it came; changes never break one that is under way.
//! - A request is served by one thread of the ingress' own, from its first byte to its last ([`workers`]).
//! - Endpoints are called directly, not through the service's address, so that another one is tried when one refuses.

mod expressions;
mod gateways;
mod ingresses;
mod secrets;
mod serve;
mod services;
mod table;
mod tls;
mod workers;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::gateway::World;
use ::gateway::kinds::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant};
use informer::Informers;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use parking_lot::RwLock;
use tasks::AbortOnDrop;
use tokio::net::TcpListener;
use tokio::sync::Notify;

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
    pub use crate::table::{Hosts, Table};
}

/// The controller that IngressClasses name.
pub const CONTROLLER: &str = "timonel.io/ingress";

#[derive(Debug, Clone)]
pub struct Config {
    pub bind: IpAddr,
    pub http_port: u16,
    pub https_port: u16,
}

/// Changes that come within this time are taken together.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
/// How often a port is tried that another program has.
const LISTEN_RETRY_PERIOD: Duration = Duration::from_secs(30);

/// The table of the moment.
#[derive(Clone, Default)]
pub struct Shared(Arc<RwLock<Arc<Table>>>);

impl Shared {
    pub fn get(&self) -> Arc<Table> {
        self.0.read().clone()
    }

    fn set(&self, table: Table) {
        *self.0.write() = Arc::new(table);
    }
}

/// Everything that has a say, as it is now.
struct Objects {
    ingresses: Vec<Arc<Ingress>>,
    world: World,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Objects {
    fn gather(informers: &Informers) -> Self {
        Objects {
            ingresses: ingresses::ours(&informers.of::<Ingress>().list(), &informers.of::<IngressClass>().list()),
            world: World::new(
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
        gateways::add(&mut table, &self.world, &services, expressions);
        expressions.end();
        table.ports.values_mut().for_each(|port| port.hosts.sort());
        table
    }

    /// The secrets with certificates: port, name, hosts.
    fn secrets(&self, config: &Config) -> Vec<(u16, secrets::Name, Vec<String>)> {
        let of_ingresses = ingresses::secrets(&self.ingresses).into_iter();
        let of_ingresses = of_ingresses.map(|(namespace, name, hosts)| (config.https_port, namespace, name, hosts));
        let all = of_ingresses.chain(gateways::secrets(&self.world));
        all.map(|(port, namespace, name, hosts)| (port, (namespace, name), hosts)).collect()
    }
}

/// Serves until the process ends, in step with the API.
pub async fn run(config: Config, informers: Informers) {
    let changed = Arc::new(Notify::new());
    macro_rules! wake_at {
        ($($kind:ty),*) => { $(
            let wake = changed.clone();
            informers.of::<$kind>().on_change(move |_| wake.notify_one());
        )* };
    }
    wake_at!(
        Ingress,
        IngressClass,
        Service,
        EndpointSlice,
        Namespace,
        GatewayClass,
        Gateway,
        HTTPRoute,
        ReferenceGrant
    );
    let (ingresses, classes) = (informers.of::<Ingress>(), informers.of::<IngressClass>());
    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    // Gateways aren't waited for: somebody may have taken their kinds away.
    informer::synced!(ingresses, classes, services, slices);
    let table = Shared::default();
    let workers = match Workers::start(&table) {
        Ok(workers) => workers,
        Err(error) => {
            tracing::error!(%error, "the ingress controller failed to start its threads");
            return;
        }
    };
    let mut secrets = Secrets::new(informers.client().clone(), changed.clone());
    let mut expressions = Expressions::default();
    let mut doors = Doors { bind: config.bind, workers, open: HashMap::new() };
    loop {
        let objects = Objects::gather(&informers);
        table.set(objects.table(&config, &mut expressions));
        doors.set(&table.get());
        let named = objects.secrets(&config);
        secrets.keep(&named.iter().map(|(_, name, _)| name.clone()).collect());
        doors.set_certificates(&secrets, named);
        doors.workers.sweep();
        changed.notified().await;
        tokio::time::sleep(BATCH_PERIOD).await;
    }
}

/// The ports that are served.
struct Doors {
    bind: IpAddr,
    workers: Workers,
    open: HashMap<u16, Door>,
}

struct Door {
    certificates: Option<Arc<Certificates>>,
    _serving: AbortOnDrop,
}

impl Doors {
    /// Opens and closes ports as a table says. Connections that are there go on.
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
            self.open.insert(number, Door { certificates, _serving: AbortOnDrop(serving) });
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

/// A port that is taken is tried again and again, as its owner may go away.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !told {
                    let hint = "another program has the port; stop it, or run the server with --disable ingress";
                    tracing::warn!(%address, %error, "the ingress controller failed to listen: {hint}");
                }
                told = true;
                tokio::time::sleep(LISTEN_RETRY_PERIOD).await;
            }
        }
    }
}
