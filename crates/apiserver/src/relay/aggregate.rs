//! Further API servers (`apiregistration.k8s.io/v1`): whole group versions that a service in the cluster answers.
//!
//! They trust this server's word on who asks: it comes with a client certificate of an authority of its own, and names
//! the user in headers (`extension-apiserver-authentication` in kube-system tells them which).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status, clock};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use parking_lot::RwLock;
use serde_json::{Value, json};
use store::Write;

use super::{Target, connector, endpoint, metrics};
use crate::ApiServer;
use crate::auth::{self, Attributes, User};
use crate::cache::{From, store_key};
use crate::handlers::{authorize_path, write};
use crate::object::{Filter, encode};
use crate::request::{self, Query};
use crate::response::Body;

/// How often availability is checked though nothing changed.
const AVAILABILITY_PERIOD: Duration = Duration::from_secs(30);
/// How long a server may take to say what it serves.
const AVAILABILITY_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest list of resources that is read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// What other servers serve: resources by group and version, as `APIResourceList` has them.
#[derive(Default)]
pub struct Aggregator {
    known: RwLock<BTreeMap<(String, String), Vec<Value>>>,
    generation: AtomicU64,
    routes: RwLock<Arc<Routes>>,
}

/// Which groups and versions are answered from elsewhere, read again when an APIService changed.
#[derive(Default)]
struct Routes {
    made_of: u64,
    /// The APIService of each.
    services: HashMap<(String, String), Arc<Value>>,
    /// Whether this server's own metrics are asked for.
    metrics: bool,
}

impl Aggregator {
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Groups, versions and resources of servers that answered when they were last asked.
    pub fn served(&self) -> Vec<((String, String), Vec<Value>)> {
        self.known.read().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Groups and versions that requests are handed on for, documents of their schema included.
    pub fn relayed(&self) -> Vec<(String, String)> {
        self.routes.read().services.keys().cloned().collect()
    }

    fn replace(&self, new: BTreeMap<(String, String), Vec<Value>>) {
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
pub fn local(server: &ApiServer) -> Vec<Value> {
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

fn target(server: &ApiServer, service: &Value) -> Result<Target, Status> {
    let of = service.at(&["spec", "service"]);
    let (namespace, name) = (of.str_at(&["namespace"]), of.str_at(&["name"]));
    let port = of["port"].as_u64().unwrap_or(443).to_string();
    let (host, port) = endpoint(server, namespace, name, &port)?;
    let bundle = service.at(&["spec", "caBundle"]).as_str().map(|text| STANDARD.decode(text).unwrap_or_default());
    let bundle = bundle.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let trusted = match service.at(&["spec", "insecureSkipTLSVerify"]) == true {
        true => None,
        false => Some(bundle.unwrap_or_default()),
    };
    let tls = connector(trusted.as_deref(), Some(&server.relay.front_proxy)).map_err(Status::internal)?;
    let what = format!("the API server of {}", service.name());
    Ok(Target { what, host, port, tls: Some((tls, format!("{name}.{namespace}.svc"))), anywhere: false })
}

/// Answers a request for a group and version of another server; gives the request back if there is none.
pub async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
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
        return Ok(relay(server, user, service, request).await);
    }
    if !routes.metrics || (group, version) != (metrics::GROUP, metrics::VERSION) {
        return Err(request);
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    Ok(own_metrics(server, user, method, uri).await)
}

async fn own_metrics(server: &Arc<ApiServer>, user: &User, method: Method, uri: Uri) -> Result<Response<Body>, Status> {
    authorize(server, user, &method, &uri)?;
    if method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    match request::resource_path(uri.path()) {
        Some(path) => metrics::answer(server, &path, &Query::parse(&uri)).await,
        None if uri.path().starts_with("/apis/") => {
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
    service: &Value,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    authorize(server, user, request.method(), request.uri())?;
    // Without the name by which the client knows this server.
    let uri = request.uri().path_and_query().cloned().map(Uri::from).unwrap_or_default();
    target(server, service)?.forward(uri, request, |headers| introduce(headers, user)).await
}

fn authorize(server: &Arc<ApiServer>, user: &User, method: &Method, uri: &Uri) -> Result<(), Status> {
    let Some(path) = request::resource_path(uri.path()) else {
        return authorize_path(server, user, method, uri.path());
    };
    let query = Query::parse(uri);
    let verb = request::verb(method, &path, &query).ok_or_else(Status::method_not_allowed)?;
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
    auth::demand(server, user, &wanted)
}

/// Tells another server who asks.
fn introduce(headers: &mut HeaderMap, user: &User) {
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

/// Keeps the conditions of all APIServices and the list of what they serve, until the server is gone.
pub async fn keep(server: Weak<ApiServer>) {
    let subscribe = |server: &ApiServer, kind: &'static Kind| {
        let present = server.cache.revision();
        server.cache.of(kind).subscribe(Filter::default(), From::Now, present).ok().map(|s| s.events)
    };
    let Some(alive) = server.upgrade() else { return };
    let services = subscribe(&alive, kinds::API_SERVICES);
    let slices = subscribe(&alive, kinds::ENDPOINT_SLICES);
    drop(alive);
    let (Some(mut services), Some(mut slices)) = (services, slices) else { return };
    loop {
        let Some(alive) = server.upgrade() else { return };
        check_all(&alive).await;
        let idle = routes(&alive).services.is_empty();
        drop(alive);
        let changed = tokio::time::timeout(AVAILABILITY_PERIOD, async {
            // Endpoints matter only if there is a service that has them.
            tokio::select! {
                change = services.recv() => change.is_some(),
                change = slices.recv(), if !idle => change.is_some(),
            }
        });
        if changed.await == Ok(false) {
            // Fell behind; begin again.
            let Some(alive) = server.upgrade() else { return };
            let again = (subscribe(&alive, kinds::API_SERVICES), subscribe(&alive, kinds::ENDPOINT_SLICES));
            let (Some(s), Some(e)) = again else { return };
            (services, slices) = (s, e);
        }
        while idle && slices.try_recv().is_some() {}
    }
}

async fn check_all(server: &Arc<ApiServer>) {
    let mut served = BTreeMap::new();
    for entry in server.cache.of(kinds::API_SERVICES).list(&Filter::default()).0 {
        let service = entry.parse();
        let (group, version) = (service.str_at(&["spec", "group"]), service.str_at(&["spec", "version"]));
        let (ok, reason, message) = if service.at(&["spec", "service"]).is_object() {
            match resources(server, &service, group, version).await {
                Ok(resources) => {
                    served.insert((group.to_string(), version.to_string()), resources);
                    (true, "Passed", "all checks passed".to_string())
                }
                Err((reason, why)) => (false, reason, why),
            }
        } else {
            if (group, version) == (metrics::GROUP, metrics::VERSION) {
                served.insert((group.to_string(), version.to_string()), metrics::resources());
            }
            (true, "Local", "Local APIServices are always available".to_string())
        };
        set_condition(server, &service, ok, reason, &message).await;
    }
    server.aggregator.replace(served);
}

/// What another server serves of a group and version.
async fn resources(
    server: &Arc<ApiServer>,
    service: &Value,
    group: &str,
    version: &str,
) -> Result<Vec<Value>, (&'static str, String)> {
    let reason = |status: &Status| match status.reason {
        "NotFound" => "ServiceNotFound",
        "ServiceUnavailable" => "MissingEndpoints",
        _ => "FailedDiscoveryCheck",
    };
    let target = target(server, service).map_err(|status| (reason(&status), status.message))?;
    let ask = async {
        let mut request = Request::get(format!("/apis/{group}/{version}"))
            .header(header::HOST, target.tls.as_ref().map_or("", |(_, name)| name))
            .header(header::ACCEPT, "application/json")
            .body(crate::response::full(Bytes::new()))
            .map_err(|e| e.to_string())?;
        introduce(request.headers_mut(), &User::new("system:kube-aggregator", &[auth::MASTERS]));
        let answer = target.send(request).await.map_err(|s| s.message)?;
        let code = answer.status();
        let body = bounded::body(answer.into_body(), MAX_DOCUMENT_BYTES).await.map_err(|e| e.to_string())?;
        if !code.is_success() {
            return Err(format!("bad status from {}: {code}", target.what));
        }
        let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        Ok(list.array_at(&["resources"]).to_vec())
    };
    let answer = tokio::time::timeout(AVAILABILITY_TIMEOUT, ask).await;
    answer.unwrap_or_else(|_| Err("no answer came in time".into())).map_err(|why| {
        let why = format!("failing or missing response from {}: {why}", target.what);
        ("FailedDiscoveryCheck", why)
    })
}

async fn set_condition(server: &Arc<ApiServer>, service: &Value, ok: bool, reason: &str, message: &str) {
    let status = if ok { "True" } else { "False" };
    let present = service.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available");
    if present.is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message) {
        return;
    }
    let since = present.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| clock::now_rfc3339().into())});
    let resource = server.cache.of(kinds::API_SERVICES);
    let Some(entry) = resource.get(service.name()) else { return };
    let mut new = entry.parse();
    new["status"]["conditions"] = json!([condition]);
    let key = store_key(resource.kind, service.name()).into();
    let write = Write::Update { key, value: encode(&new), expected: entry.revision };
    // Whoever was faster brings us here again.
    if let Err(error) = write::commit(server, resource.kind, service.name(), write).await {
        tracing::debug!(%error, name = service.name(), "failed to update the status of an APIService");
    }
}
