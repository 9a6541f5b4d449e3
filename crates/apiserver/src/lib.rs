//! The Kubernetes API over HTTP, on top of a [`store::Store`].
//!
//! The rooms stand in a line, and each knows those after it alone (`scripts/check-cycles.py` holds them to it):
//!
//! 1. [`door`]: connections and the component's [client](InProcess), what a request asks for ([`request`]), and the order of what follows.
//! 2. Who and what: [`authentication`], [`authorization`], [`fairness`], [`audit`].
//! 3. [`rest`]: resources by subresource and verb; [`subresources`], and [`streams`] that kubelets, pods and services answer. Beside it
//!    what is no resource of this server: [`aggregator`], [`discovery`], [`openapi`].
//!    [`render`] puts objects into the form that a client asks for; [`unsent`] bounds what answers keep in memory until they are read, by
//!    [`shares`].
//! 4. [`pipeline`]: the way of every write, decode → default → admit → validate → store, with [`admission`].
//! 5. [`registry`]: the watch cache, its objects, the catalog of kinds. [`conversion`] brings objects to other versions; [`egress`] is how
//!    the server reaches others.
//!
//! [`bootstrap`] and [`joining`] write what the server needs itself, by the same pipeline.
//!
//! Invariants:
//! - The [cache](registry) holds every object as its canonical JSON bytes beside a small parsed head. Get, list and watch
//!   splice those bytes; only tables, partial metadata and writes parse them.
//! - A write is answered after the cache has it, so that clients read their own writes.
//! - All kinds go through the same code; what is special about one stands in `api` or in a plugin of [`admission`].
//! - This crate knows no controller and no kubelet; it reaches kubelets and pods only to pass requests on ([`streams`]).

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod admission;
mod aggregator;
pub mod audit;
mod authentication;
mod authorization;
mod bootstrap;
mod conversion;
mod discovery;
mod door;
mod egress;
mod fairness;
pub mod joining;
mod json;
mod metrics;
mod openapi;
mod pipeline;
mod registry;
mod render;
mod request;
mod response;
mod rest;
mod shares;
mod streams;
mod subresources;
mod unsent;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use apimachinery::{AddressRanges, Status};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use parking_lot::Mutex;
use store::Store;

pub use admission::{Plugin, SERVER};
pub use authentication::User;
pub use door::{serve, serve_local};
pub use response::Body;

/// The readers of what strangers send, for those who feed them anything: the fuzz targets.
pub mod readers {
    pub use crate::request::{Query, resource_path, verb};
    pub use crate::response::negotiation::negotiate;
    pub use crate::rest::Continue;
}

/// The version of the API that is served.
pub const KUBERNETES_VERSION: &str = "v1.37.0";

/// A store that takes longer than this to read is not ready.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What an API server is started with. Paths and addresses come from the binary's flags.
pub struct Config {
    /// Issues and recognizes client certificates.
    pub authority: Arc<pki::Authority>,
    /// Signs service-account tokens.
    pub token_key: Arc<pki::TokenKey>,
    /// Client certificate for further API servers.
    pub front_proxy: Arc<pki::RotatingCertificate>,
    /// The authority (PEM) of that certificate.
    pub front_proxy_authority: String,
    /// Client certificate for kubelets.
    pub kubelet_client: Arc<pki::RotatingCertificate>,
    /// The secret of the join token.
    pub join_secret: String,
    /// Ranges of cluster IPs, one for each family.
    pub service_cidr: AddressRanges,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// Address and port behind the service `kubernetes`.
    pub advertise: (IpAddr, u16),
    /// The address of the cluster's DNS server, given to no other service.
    pub cluster_dns: IpAddr,
    /// Ranges of pods, one for each family.
    pub cluster_cidr: AddressRanges,
    /// The audit policy and log; none without.
    pub audit: Option<Arc<audit::Audit>>,
    /// Parts that `--disable` names; all nodes read them from a ConfigMap.
    pub disabled: Vec<String>,
    /// Admission plugins that are enabled besides the default ones.
    pub plugins: Vec<Plugin>,
    /// Ranges from which `externalIPs` of services may be; upstream's DenyServiceExternalIPs for all others.
    pub external_ips: Vec<ipnet::IpNet>,
}

/// The other end of a connection.
#[derive(Clone)]
pub enum Peer {
    /// A TLS client, with the facts of its certificate if it has one.
    Remote(Option<Arc<pki::CertificateInfo>>),
    /// A TLS client whose certificate is of another authority, or no longer valid.
    Unknown,
    /// A component of this process, with a fixed identity.
    Component(Arc<User>),
}

/// The API server: its state, which all requests share.
pub struct ApiServer {
    config: Config,
    cache: Arc<registry::Cache>,
    catalog: Arc<registry::Catalog>,
    store: Arc<dyn Store>,
    tokens: authentication::Tokens,
    rbac: authorization::Rbac,
    services: pipeline::Allocator,
    discovery: discovery::Discovery,
    documents: openapi::Documents,
    clients: egress::Clients,
    aggregator: Arc<aggregator::Aggregator>,
    fairness: fairness::Fairness,
    quotas: admission::builtin::Quotas,
    /// Memory for answers that their clients haven't read yet, in bytes.
    unsent: Arc<shares::Shares>,
    /// Watches that may be open.
    watches: Arc<shares::Shares>,
    expressions: admission::dynamic::Expressions,
    /// The user of the server's own writes.
    user: User,
    /// The users of the components of this process that have a client.
    components: Mutex<Vec<Weak<User>>>,
    started: jiff::Timestamp,
    metrics: metrics::Metrics,
    /// The store could not carry out the last write.
    store_fails: AtomicBool,
}

/// Why the server doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database can't be read.
    #[error("can't load the database: {0}")]
    Store(#[from] store::ReadError),
    /// An authority or a client certificate is malformed.
    #[error("can't set up the client for kubelets: {0}")]
    Clients(String),
    /// The objects that every cluster has can't be written.
    #[error("can't write the cluster's first objects: {0}")]
    Bootstrap(Status),
}

impl ApiServer {
    /// Loads all objects and writes those that every cluster has (namespaces, roles, the `kubernetes` service).
    ///
    /// # Errors
    /// When the store can't be read or written, or a key is malformed.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Arc<Self>, StartError> {
        let catalog = Arc::new(registry::Catalog::default());
        let cache = Arc::new(registry::Cache::new(catalog.clone()));
        store.attach(cache.clone()).await?;
        let aggregator = Arc::new(aggregator::Aggregator::default());
        let server = Arc::new(ApiServer {
            tokens: authentication::Tokens::new(config.token_key.clone()),
            clients: egress::Clients::new(&config).map_err(StartError::Clients)?,
            rbac: authorization::Rbac::default(),
            services: pipeline::Allocator::new(&config, &cache),
            discovery: discovery::Discovery::new(catalog.clone(), aggregator.clone()),
            documents: openapi::Documents::default(),
            aggregator,
            catalog,
            quotas: admission::builtin::Quotas::default(),
            unsent: unsent::memory(),
            watches: rest::places_of_watches(),
            expressions: admission::dynamic::Expressions::default(),
            user: User::new("system:apiserver", &[authentication::MASTERS]),
            components: Mutex::default(),
            fairness: fairness::Fairness::default(),
            started: jiff::Timestamp::now(),
            metrics: metrics::Metrics::default(),
            store_fails: AtomicBool::new(false),
            cache,
            store,
            config,
        });
        bootstrap::run(&server).await.map_err(StartError::Bootstrap)?;
        let of = Arc::downgrade(&server);
        tasks::until_done("event-expiry", move || bootstrap::expire_events(of.clone()));
        let of = Arc::downgrade(&server);
        tasks::until_done("legacy-token-tracking", move || bootstrap::track_legacy_tokens(of.clone()));
        let of = Arc::downgrade(&server);
        tasks::until_done("flow-schema-conditions", move || bootstrap::run_flow_schemas(of.clone()));
        let of = Arc::downgrade(&server);
        tasks::until_done("api-service-availability", move || aggregator::run_availability(of.clone()));
        let cache = Arc::downgrade(&server.cache);
        tasks::until_done("watch-history", move || registry::Cache::trim_histories(cache.clone()));
        let of = Arc::downgrade(&server);
        tasks::until_done("bootstrap-objects", move || bootstrap::maintain(of.clone()));
        Ok(server)
    }

    /// Answers one request. Never fails: errors are answers too, and a panic is an internal error of this request alone.
    pub fn handle(self: &Arc<Self>, request: Request<Body>, peer: Peer) -> BoxFuture<'static, Response<Body>> {
        let server = self.clone();
        let path = request.uri().path().to_string();
        Box::pin(async move {
            let answer = std::panic::AssertUnwindSafe(door::handle(&server, request, peer)).catch_unwind().await;
            answer.unwrap_or_else(|_| {
                tracing::error!(path, "the handler of a request panicked");
                server.metrics.panics.inc();
                let why = "this request caused apiserver to panic. Look in the logs for details";
                response::error(&Status::internal(why))
            })
        })
    }

    /// A tower service for a component of this process, which acts as `user`.
    pub fn in_process(self: &Arc<Self>, user: User) -> InProcess {
        let user = Arc::new(user);
        let mut components = self.components.lock();
        components.retain(|component| component.strong_count() > 0);
        components.push(Arc::downgrade(&user));
        InProcess { server: self.clone(), user }
    }

    /// Whether a component of this process has a client that acts as the user `name`.
    fn has_component(&self, name: &str) -> bool {
        self.components.lock().iter().any(|component| component.upgrade().is_some_and(|user| user.name == name))
    }

    /// Whether the data store can be read, and took the last write.
    async fn is_store_ready(&self) -> bool {
        let read =
            self.store.page_at("/health", self.cache.revision(), "", store::Most { keys: 1, ..store::Most::PLENTY });
        let is_readable = tokio::time::timeout(STORE_TIMEOUT, read).await.is_ok_and(|read| read.is_ok());
        is_readable && !self.store_fails.load(Ordering::Relaxed)
    }
}

/// The API server as a service without a network in between: same authorization, same admission.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: Arc<User>,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<response::BoxError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let InProcess { server, user } = self.clone();
        let request = request.map(response::boxed);
        Box::pin(async move { Ok(server.handle(request, Peer::Component(user)).await) })
    }
}
