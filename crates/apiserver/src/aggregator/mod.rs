//! Further API servers (`apiregistration.k8s.io/v1`): whole group versions that a service in the cluster answers.
//!
//! This server authenticates the user for them: it connects with a client certificate of an authority of its own, and names
//! the user in headers (the ConfigMap `extension-apiserver-authentication` in kube-system says which).

mod availability;
mod metrics;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::authentication::User;
use crate::authorization::{self, Attributes, authorize_path};
use crate::egress::{Destination, connector, resolve_endpoint};
use crate::registry::Filter;
use crate::request::{RequestInfo, ResourceInfo};
use crate::response::Body;

pub use availability::run as run_availability;

/// What other servers serve, by group and version.
#[derive(Default)]
pub struct Aggregator {
    known: RwLock<BTreeMap<(String, String), Served>>,
    generation: AtomicU64,
    routes: RwLock<Arc<Routes>>,
}

/// What a server serves of a group and version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Served {
    /// As `APIResourceList` has them. Of a server that doesn't answer, those of its last answer.
    pub resources: Vec<Value>,
    /// Whether it answered when it was last asked.
    pub is_current: bool,
}

/// Which groups and versions are answered from elsewhere, read again when an APIService changed.
#[derive(Default)]
struct Routes {
    made_of: u64,
    /// The APIService of each.
    services: HashMap<(String, String), Arc<Value>>,
    /// Whether `metrics.k8s.io` is this server's own.
    metrics: bool,
}

impl Aggregator {
    /// A number that changes whenever what is served does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Groups and versions of all APIServices that another server answers, or this one from its metrics.
    pub fn served(&self) -> Vec<((String, String), Served)> {
        self.known.read().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Groups and versions that requests are handed on for, documents of their schema included.
    pub fn relayed(&self) -> Vec<(String, String)> {
        self.routes.read().services.keys().cloned().collect()
    }

    /// What was last known of a group and version.
    fn last_served(&self, group: String, version: String) -> Served {
        self.known.read().get(&(group, version)).cloned().unwrap_or_default()
    }

    fn replace(&self, new: BTreeMap<(String, String), Served>) {
        let mut known = self.known.write();
        if *known != new {
            *known = new;
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn routes(server: &ApiServer) -> Arc<Routes> {
    let resource = server.cache.of(kinds::API_SERVICES);
    let made_of = resource.changed();
    {
        let routes = server.aggregator.routes.read();
        if routes.made_of == made_of {
            return routes.clone();
        }
    }
    let mut routes = Routes { made_of, ..Routes::default() };
    for entry in resource.list(&Filter::default()).0 {
        let service = entry.parse();
        let (group, version) = (service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
        if service.at(&["spec", "service"]).is_object() {
            routes.services.insert((group.into(), version.into()), Arc::new(service));
        } else {
            routes.metrics |= (group, version) == (metrics::GROUP, metrics::VERSION);
        }
    }
    let routes = Arc::new(routes);
    *server.aggregator.routes.write() = routes.clone();
    routes
}

/// The APIServices of what this server answers itself.
pub fn local_services(server: &ApiServer) -> Vec<Value> {
    let mut versions: Vec<(&str, &str, i64)> = Vec::new();
    for kind in api::KINDS.iter().chain(api::OLDER) {
        if !versions.iter().any(|(group, version, _)| (*group, *version) == (kind.group, kind.version)) {
            versions.push((kind.group, kind.version, if kind.group.is_empty() { 18_000 } else { 17_000 }));
        }
    }
    if !server.config.disabled.iter().any(|part| part == "metrics") {
        versions.push((metrics::GROUP, metrics::VERSION, 100));
    }
    let service = |(group, version, priority): (&str, &str, i64)| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}"), "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 15}})
    };
    versions.into_iter().map(service).collect()
}

fn destination(server: &ApiServer, service: &Value) -> Result<Destination, Status> {
    let of = service.at(&["spec", "service"]);
    let (namespace, name) = (of.str_at(&["namespace"]), of.str_at(&["name"]));
    let port = of["port"].as_u64().unwrap_or(443).to_string();
    let (host, port) = resolve_endpoint(server, namespace, name, &port)?;
    let bundle = service.at(&["spec", "caBundle"]).as_str().map(|text| STANDARD.decode(text).unwrap_or_default());
    let bundle = bundle.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let trusted = match service.at(&["spec", "insecureSkipTLSVerify"]) == true {
        true => None,
        false => Some(bundle.unwrap_or_default()),
    };
    let tls = connector(trusted.as_deref(), Some(&server.clients.front_proxy)).map_err(Status::internal)?;
    let description = format!("the API server of {}", service.name());
    Ok(Destination {
        description,
        host,
        port,
        tls: Some((tls, format!("{name}.{namespace}.svc"))),
        allow_any_address: false,
    })
}

/// Answers a request for a group and version of another server; gives the request back if there is none.
///
/// # Errors
/// The request, where this server answers it; the Status within is the answer to a request that is refused or can't be passed on.
pub async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: &RequestInfo,
    request: Request<Body>,
) -> Result<Result<Response<Body>, Status>, Request<Body>> {
    let routes = routes(server);
    if routes.services.is_empty() && !routes.metrics {
        return Err(request);
    }
    let path = request.uri().path();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let (group, version) = match parts.as_slice() {
        ["apis", group, version, ..] | ["openapi", "v3", "apis", group, version] => (*group, *version),
        _ => return Err(request),
    };
    if let Some(service) = routes.services.get(&(group.to_string(), version.to_string())) {
        return Ok(relay(server, user, request_info, service, request).await);
    }
    if !routes.metrics || (group, version) != (metrics::GROUP, metrics::VERSION) {
        return Err(request);
    }
    let (head, _) = request.into_parts();
    Ok(own_metrics(server, user, request_info, &head).await)
}

async fn own_metrics(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: &RequestInfo,
    request: &Parts,
) -> Result<Response<Body>, Status> {
    authorize(server, user, request_info, &request.method, &request.uri)?;
    if request.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    match &request_info.resource {
        Some(resource) => metrics::answer(server, &resource.path, &request_info.query).await,
        None if request.uri.path().starts_with("/apis/") => {
            let group_version = format!("{}/{}", metrics::GROUP, metrics::VERSION);
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
                "resources": metrics::resources()});
            Ok(crate::response::json(200, &list))
        }
        None => Err(Status::no_route()),
    }
}

async fn relay(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: &RequestInfo,
    service: &Value,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    authorize(server, user, request_info, request.method(), request.uri())?;
    // As upstream's aggregator: a client that is answered finds the group in discovery, too.
    if let Some(refused) = availability::unavailable(service) {
        return Err(refused);
    }
    // Without the name by which the client knows this server.
    let uri = request.uri().path_and_query().cloned().map(Uri::from).unwrap_or_default();
    destination(server, service)?.forward(uri, request, |headers| set_user_headers(headers, user)).await
}

fn authorize(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: &RequestInfo,
    method: &Method,
    uri: &Uri,
) -> Result<(), Status> {
    let Some(ResourceInfo { path, .. }) = &request_info.resource else {
        return authorize_path(server, user, method, uri.path());
    };
    let verb = request_info.verb.ok_or_else(Status::method_not_allowed)?;
    let resource = match path.subresource.as_str() {
        "" => path.plural.clone(),
        subresource => format!("{}/{subresource}", path.plural),
    };
    let wanted = Attributes {
        verb,
        group: &path.group,
        resource: &resource,
        namespace: &path.namespace,
        name: &path.name,
        path: "",
    };
    authorization::demand(server, user, &wanted)
}

/// Sets the headers that name the user to a further API server.
fn set_user_headers(headers: &mut HeaderMap, user: &User) {
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        values.iter().for_each(|value| add(&format!("x-remote-extra-{key}"), value));
    }
}
