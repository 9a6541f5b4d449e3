//! HTTP and HTTPS from outside, by host and path, to the services that Ingresses and HTTPRoutes name.
//!
//! Every node runs one. [`ingresses`] and [`gateways`] turn objects, services and endpoints into a table, a value ([`table`]);
//! requests read the table of the moment ([`serve`]); [`tls`] chooses certificates by the name that a client asks for.
//!
//! Invariants:
//! - A request is answered by the table that was there when it came; changes never break one that is under way.
//! - A request is served by one thread of the ingress' own, from its first byte to its last ([`workers`]).
//! - Endpoints are called directly, not through the service's address, so that another one is tried when one refuses.

mod gateways;
mod ingresses;
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
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use services::Services;
use table::Table;
use tls::Certificates;
use workers::Workers;

/// The controller that IngressClasses name.
pub const CONTROLLER: &str = "timonel.io/ingress";

#[derive(Debug, Clone)]
pub struct Config {
    pub bind: IpAddr,
    pub http_port: u16,
    pub https_port: u16,
}

/// Changes that come within this time are taken together.
const GATHER: Duration = Duration::from_millis(5);
/// How often certificates are read again.
const RELOAD: Duration = Duration::from_secs(30);

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

    fn table(&self, config: &Config) -> Table {
        let mut table = Table::default();
        let services = Services::new(&self.services, &self.slices);
        for (port, secure) in [(config.http_port, false), (config.https_port, true)] {
            let port = table.ports.entry(port).or_default();
            port.secure = secure;
            ingresses::add(&mut port.hosts, &self.ingresses, &services);
        }
        gateways::add(&mut table, &self.world, &services);
        table.ports.values_mut().for_each(|port| port.hosts.sort());
        table
    }

    /// The secrets with certificates: port, namespace, name, hosts.
    fn secrets(&self, config: &Config) -> Vec<(u16, String, String, Vec<String>)> {
        let of_ingresses = ingresses::secrets(&self.ingresses).into_iter();
        let mut all: Vec<_> = of_ingresses.map(|(n, s, hosts)| (config.https_port, n, s, hosts)).collect();
        all.extend(gateways::secrets(&self.world));
        all
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
            tracing::error!(%error, "the ingress controller can't start its threads");
            return;
        }
    };
    let mut doors = Doors { bind: config.bind, workers, open: HashMap::new() };
    loop {
        let objects = Objects::gather(&informers);
        table.set(objects.table(&config));
        doors.set(&table.get());
        doors.load_certificates(informers.client(), objects.secrets(&config)).await;
        doors.workers.sweep();
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RELOAD) => {}
        }
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
    serving: AbortHandle,
}

impl Doors {
    /// Opens and closes ports as a table says. Connections that are there go on.
    fn set(&mut self, table: &Table) {
        self.open.retain(|number, door| {
            let stays = table.ports.get(number).is_some_and(|port| port.secure == door.certificates.is_some());
            if !stays {
                door.serving.abort();
            }
            stays
        });
        for (number, port) in &table.ports {
            if self.open.contains_key(number) {
                continue;
            }
            let certificates = port.secure.then(Arc::<Certificates>::default);
            let tls = match certificates.as_ref().map(Certificates::server_config).transpose() {
                Ok(tls) => tls,
                Err(error) => {
                    tracing::error!(%error, port = number, "HTTPS isn't served");
                    continue;
                }
            };
            let (address, workers, number) = (SocketAddr::from((self.bind, *number)), self.workers.clone(), *number);
            let serving =
                tokio::spawn(async move { workers.serve(listen(address).await, number, tls).await }).abort_handle();
            self.open.insert(number, Door { certificates, serving });
        }
    }

    async fn load_certificates(&self, client: &Client, secrets: Vec<(u16, String, String, Vec<String>)>) {
        let mut found: HashMap<u16, Vec<_>> = HashMap::new();
        for (port, namespace, name, hosts) in secrets {
            let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
            let secret = format!("{namespace}/{name}");
            match api.get_opt(&name).await {
                Ok(Some(object)) => match ::gateway::certificate::read(&object) {
                    Ok(key) => found.entry(port).or_default().push((hosts, key)),
                    Err(why) => tracing::warn!(secret, why, "a certificate can't be used"),
                },
                Ok(None) => tracing::debug!(secret, "a certificate is missing"),
                Err(error) => tracing::debug!(%error, secret, "a certificate can't be read"),
            }
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
                    tracing::warn!(%address, %error, "the ingress controller can't listen: {hint}");
                }
                told = true;
                tokio::time::sleep(RELOAD).await;
            }
        }
    }
}
