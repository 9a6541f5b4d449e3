//! The ingress controller: HTTP and HTTPS from outside, by host and path, to the services that Ingresses name.
//!
//! Every node runs one. [`routes`] turns Ingresses, services and endpoints into a table, a value; requests read the table
//! of the moment ([`serve`]); [`tls`] chooses certificates by the name that a client asks for.
//!
//! Invariants:
//! - A request is answered by the table that was there when it came; changes never break one that is under way.
//! - Endpoints are called directly, not through the service's address, so that another one is tried when one refuses.

pub mod routes;
mod serve;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use informer::Informers;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use routes::Routes;
use serve::Handler;
use tls::Certificates;

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
pub struct Shared(Arc<RwLock<Arc<Routes>>>);

impl Shared {
    pub fn get(&self) -> Arc<Routes> {
        self.0.read().clone()
    }

    fn set(&self, routes: Routes) {
        *self.0.write() = Arc::new(routes);
    }
}

/// Serves until the process ends. A port that is taken is tried again and again, as its owner may go away.
pub async fn run(config: Config, informers: Informers) {
    let shared = Shared::default();
    let certificates = Arc::new(Certificates::default());
    let handler = Handler::new(shared.clone());
    let (http, https) = ((config.bind, config.http_port).into(), (config.bind, config.https_port).into());
    let plain = handler.clone();
    tokio::spawn(async move { serve::plain(listen(http).await, plain).await });
    match certificates.server_config() {
        Ok(tls) => {
            tokio::spawn(async move { serve::secure(listen(https).await, tls, handler).await });
        }
        Err(error) => tracing::error!(%error, "HTTPS isn't served by the ingress controller"),
    }
    keep(shared, certificates, informers).await;
}

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

/// Keeps the table and the certificates in step with the API.
async fn keep(shared: Shared, certificates: Arc<Certificates>, informers: Informers) {
    let changed = Arc::new(Notify::new());
    let ingresses = informers.of::<Ingress>();
    let classes = informers.of::<IngressClass>();
    let wake = changed.clone();
    ingresses.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    classes.on_change(move |_| wake.notify_one());
    informer::synced!(ingresses, classes);
    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    let wake = changed.clone();
    services.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    slices.on_change(move |_| wake.notify_one());
    informer::synced!(services, slices);
    loop {
        let ours = routes::ours(&ingresses.list(), &classes.list());
        shared.set(routes::build(&ours, &services.list(), &slices.list()));
        load_certificates(&certificates, informers.client(), &ours).await;
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RELOAD) => {}
        }
    }
}

async fn load_certificates(certificates: &Certificates, client: &Client, ours: &[Arc<Ingress>]) {
    let mut found = Vec::new();
    for (namespace, name, hosts) in routes::secrets(ours) {
        let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        match api.get_opt(&name).await {
            Ok(Some(secret)) => match tls::read(&secret) {
                Ok(key) => found.push((hosts, key)),
                Err(why) => tracing::warn!(secret = format!("{namespace}/{name}"), why, "a certificate can't be used"),
            },
            Ok(None) => tracing::debug!(secret = format!("{namespace}/{name}"), "a certificate is missing"),
            Err(error) => {
                tracing::debug!(%error, secret = format!("{namespace}/{name}"), "a certificate can't be read")
            }
        }
    }
    certificates.set(found);
}
