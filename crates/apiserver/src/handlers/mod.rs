//! From a request to its answer.

mod body;
mod delete;
mod form;
mod health;
mod meta;
mod read;
mod reviews;
mod subresource;
mod token;
mod watch;
pub mod write;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::Status;
use http::{Method, Request, Response};

use api::{Subresource, Verbs};

use crate::auth::{self, Attributes, User};
use crate::fairness::{self, Asked};
use crate::metrics::Labels;
use crate::request::{self, Info, Query, ResourcePath};
use crate::response::{self, Body};
use crate::{ApiServer, Peer, relay};

pub use body::Patch;
use form::Form;

/// How long a request may take that is no watch and no stream.
const TIMEOUT: Duration = Duration::from_secs(60);

pub async fn dispatch(server: &Arc<ApiServer>, request: Request<Body>, peer: Peer) -> Response<Body> {
    let told = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_string(), std::time::Instant::now()));
    // On this machine the bytes cost less than their compression.
    let near = request.extensions().get::<IpAddr>().is_some_and(IpAddr::is_loopback);
    let packed = !near && form::wants_gzip(request.headers());
    let mut response = answer_any(server, request, &peer).await;
    if packed {
        response = form::compress(response).await;
    }
    if let Some((method, path, begun)) = told {
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(%method, path, code = response.status().as_u16(), milliseconds, "request");
    }
    response
}

async fn answer_any(server: &Arc<ApiServer>, request: Request<Body>, peer: &Peer) -> Response<Body> {
    let user = match auth::authenticate(server, request.headers(), peer) {
        Ok(user) => user,
        Err(status) => return refuse(&status),
    };
    let Some(audit) = &server.config.audit else {
        return route(server, &user, request).await.unwrap_or_else(|status| refuse(&status));
    };
    let (record, request) = audit.begin(&user, request);
    let work = route(server, &user, request);
    match record {
        Some(record) => {
            let answer = record.during(work).await.unwrap_or_else(|status| refuse(&status));
            record.end(answer).await
        }
        None => work.await.unwrap_or_else(|status| refuse(&status)),
    }
}

fn refuse(status: &Status) -> Response<Body> {
    if status.code >= 500 {
        tracing::warn!(code = status.code, message = %status.message, "a request failed with a server error");
    }
    response::error(status)
}

async fn route(server: &Arc<ApiServer>, user: &User, request: Request<Body>) -> Result<Response<Body>, Status> {
    let path = request::resource_path(request.uri().path());
    let query = Query::parse(request.uri());
    if path.as_ref().is_some_and(|path| is_stream(server, path)) {
        return serve(server, user, request, path, query).await;
    }
    let turn = fairness::turn(server, user, &asked(&request, path.as_ref(), &query)).await?;
    let mut answer = serve(server, user, request, path, query).await.unwrap_or_else(|status| refuse(&status));
    turn.mark(&mut answer);
    Ok(answer)
}

/// What a request asks for, for its place in line. What is wrong with it is found out later.
fn asked<'a>(request: &'a Request<Body>, path: Option<&'a ResourcePath>, query: &Query) -> Asked<'a> {
    match path {
        Some(path) => Asked {
            verb: request::verb(request.method(), path, query).unwrap_or(""),
            group: &path.group,
            version: &path.version,
            resource: &path.plural,
            subresource: &path.subresource,
            namespace: &path.namespace,
            path: "",
            // A list of the past may have to be read from the store whole, however little of it is answered.
            limit: query.number("limit").ok().flatten().filter(|limit| *limit > 0 && !is_of_the_past(query)),
        },
        None => Asked {
            verb: match *request.method() {
                Method::GET => "get",
                Method::HEAD => "head",
                Method::POST => "post",
                Method::PUT => "put",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            },
            path: request.uri().path(),
            ..Asked::default()
        },
    }
}

fn is_of_the_past(query: &Query) -> bool {
    let exactly =
        !matches!(query.get("resourceVersion"), "" | "0") && query.get("resourceVersionMatch") != "NotOlderThan";
    exactly || !query.get("continue").is_empty()
}

async fn serve(
    server: &Arc<ApiServer>,
    user: &User,
    request: Request<Body>,
    path: Option<ResourcePath>,
    query: Query,
) -> Result<Response<Body>, Status> {
    let request = match relay::aggregated(server, user, request).await {
        Ok(answer) => return answer,
        Err(request) => request,
    };
    let begun = Instant::now();
    let Some(path) = path else {
        let labels = Labels::other(request.method());
        let _running = server.metrics.begin(&labels);
        let (request, _) = request.into_parts();
        let answer = meta::answer(server, user, &request).await;
        let code = answer.as_ref().map_or_else(|status| status.code, |answer| answer.status().as_u16());
        server.metrics.end(&labels, code, begun.elapsed());
        let answer = answer?;
        let mut answer = match form::negotiate(form::accept(&request.headers), None, false) {
            Ok((_, true)) => form::as_yaml(answer).await,
            _ => answer,
        };
        if ["/api", "/openapi"].iter().any(|document| request.uri.path().starts_with(document)) {
            answer = form::tagged(answer, &request.headers).await;
        }
        return Ok(form::may_be_compressed(answer));
    };
    let kind = server.catalog.find(&path.group, &path.version, &path.plural).ok_or_else(Status::no_route)?;
    let verb = request::verb(request.method(), &path, &query).ok_or_else(Status::method_not_allowed)?;
    let manager = request::manager(&query, request.headers(), user)?;
    let subresource = kind.subresource(&path.subresource);
    let info = Info { kind, path, subresource, verb, query, manager };
    let applies = verb == "patch" && body::is_apply(&request);
    let labels = Labels::of(&info, applies);
    let running = server.metrics.begin(&labels);
    let answer = serve_resource(server, user, request, info).await;
    let code = answer.as_ref().map_or_else(|status| status.code, |answer| answer.status().as_u16());
    server.metrics.end(&labels, code, begun.elapsed());
    // What goes on for long is told of as long as its body lives.
    answer.map(|answer| if labels.is_long() { response::with(answer, running) } else { answer })
}

async fn serve_resource(
    server: &Arc<ApiServer>,
    user: &User,
    request: Request<Body>,
    info: Info,
) -> Result<Response<Body>, Status> {
    let kind = info.kind;
    auth::authorize(server, user, &info)?;
    if !info.is_served() {
        return Err(Status::no_route());
    }
    if let Some(sub) = info.subresource {
        if !sub.has(info.verb) {
            return Err(Status::method_not_allowed());
        }
        if sub.is_stream() {
            if opens_both_ways(sub, request.headers()) {
                auth::authorize_as(server, user, &info, "create")?;
            }
            return stream(server, user, info, sub, request).await;
        }
    }
    let watches = info.verb == "watch";
    let (form, yaml) = form::negotiate(form::accept(request.headers()), Some(kind), watches)?;
    // Deprecated versions say so, whatever is asked of them.
    let warned = |answer: Result<Response<Body>, Status>| {
        let mut answer = answer?;
        if kind.custom {
            response::warn(&mut answer, &server.catalog.warnings(kind));
        }
        Ok(answer)
    };
    if watches {
        return warned(answer(server, user, info, request, form).await);
    }
    let answer = tokio::time::timeout(TIMEOUT, answer(server, user, info, request, form))
        .await
        .unwrap_or_else(|_| Err(Status::new(504, "Timeout", "request did not complete within the allowed duration")));
    let answer = warned(answer);
    if yaml {
        let answer = form::as_yaml(answer.unwrap_or_else(|status| refuse(&status))).await;
        return Ok(form::may_be_compressed(answer));
    }
    answer.map(form::may_be_compressed)
}

/// Whether a path is that of a stream, which waits in no line (upstream's long-running requests).
fn is_stream(server: &ApiServer, path: &ResourcePath) -> bool {
    let kind = server.catalog.find(&path.group, &path.version, &path.plural);
    kind.and_then(|kind| kind.subresource(&path.subresource)).is_some_and(Subresource::is_stream)
}

/// Whether a stream lets its client do something, and not only read. A WebSocket is opened by GET, which alone must not
/// be enough for that (upstream's `AuthorizePodWebsocketUpgradeCreatePermission`, which leaves out proxies; but whoever
/// may upgrade a connection to a node's kubelet may run commands there).
fn opens_both_ways(sub: Subresource, headers: &http::HeaderMap) -> bool {
    let runs = matches!(sub, Subresource::Exec | Subresource::Attach | Subresource::PortForward);
    runs || (sub.is_proxy() && headers.contains_key(http::header::UPGRADE))
}

/// What is passed on between a client and a kubelet, a pod or a service.
async fn stream(
    server: &Arc<ApiServer>,
    user: &User,
    info: Info,
    sub: Subresource,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if sub != Subresource::Log {
        subresource::admit_connection(server, user, &info).await?;
    }
    match sub {
        Subresource::PodProxy => relay::pod_proxy(server, &info, request).await,
        Subresource::ServiceProxy => relay::service_proxy(server, &info, request).await,
        Subresource::NodeProxy => relay::node(server, &info, request).await,
        Subresource::Log => relay::pod(server, &info, "containerLogs", request).await,
        Subresource::Exec => relay::pod(server, &info, "exec", request).await,
        Subresource::Attach => relay::pod(server, &info, "attach", request).await,
        Subresource::PortForward => relay::pod(server, &info, "portForward", request).await,
        _ => Err(Status::no_route()),
    }
}

async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: Info,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    if info.kind.verbs == Verbs::Create {
        return reviews::create(server, user, &info, request).await;
    }
    match info.subresource {
        None | Some(Subresource::Status) => {}
        Some(sub) => return subresource::answer(server, user, &info, sub, request).await,
    }
    match info.verb {
        "get" => read::get(server, &info, form).await,
        "list" => read::list(server, &info, form).await,
        "watch" => watch::watch(server, &info, form).await,
        "create" if info.path.name.is_empty() => write::create(server, user, &info, request, form).await,
        "update" if !info.path.name.is_empty() => write::update(server, user, &info, request, form).await,
        "patch" if !info.path.name.is_empty() => write::patch(server, user, &info, request, form).await,
        "delete" => delete::one(server, user, &info, request).await,
        "deletecollection" => delete::collection(server, user, &info, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Whether a path that is no resource may be asked for.
pub fn authorize_path(server: &ApiServer, user: &User, method: &Method, path: &str) -> Result<(), Status> {
    let verb = method.as_str().to_ascii_lowercase();
    let attributes = Attributes { verb: &verb, group: "", resource: "", namespace: "", name: "", path };
    if auth::allows(server, user, &attributes) {
        return Ok(());
    }
    let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
    Err(Status::new(403, "Forbidden", format!("forbidden: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_the_past_counts_whole() {
        for (query, limit) in [
            ("limit=5", Some(5)),
            ("limit=0", None),
            ("", None),
            ("limit=5&continue=abc", None),
            ("limit=5&resourceVersion=7&resourceVersionMatch=Exact", None),
            ("limit=5&resourceVersion=7", None),
            ("limit=5&resourceVersion=0", Some(5)),
            ("limit=5&resourceVersion=7&resourceVersionMatch=NotOlderThan", Some(5)),
        ] {
            let request = Request::get(format!("/api/v1/pods?{query}")).body(Body::default()).unwrap();
            let path = request::resource_path(request.uri().path());
            let query = Query::parse(request.uri());
            assert_eq!(asked(&request, path.as_ref(), &query).limit, limit, "{query:?}");
        }
    }
}
