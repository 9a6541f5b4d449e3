//! From a request to its answer.

mod body;
mod delete;
mod meta;
mod read;
mod reviews;
mod subresource;
mod watch;
pub mod write;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Status;
use http::{Method, Request, Response, header};

use api::{Kind, Verbs, protobuf};

use crate::auth::{self, Attributes, User};
use crate::fairness::{self, Asked};
use crate::request::{self, Info, Query, ResourcePath};
use crate::response::{self, Body};
use crate::{ApiServer, Peer, relay};

pub use body::Patch;

/// How long a request may take that is no watch and no stream.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The form that a client wants objects in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Table,
    Partial,
    Protobuf,
}

pub async fn dispatch(server: &Arc<ApiServer>, request: Request<Body>, peer: Peer) -> Response<Body> {
    let told = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_string(), std::time::Instant::now()));
    let response = answer_any(server, request, &peer).await;
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
    let (record, request) = audit.begin(&user, request).await;
    let answer = route(server, &user, request).await.unwrap_or_else(|status| refuse(&status));
    match record {
        Some(record) => record.end(answer).await,
        None => answer,
    }
}

fn refuse(status: &Status) -> Response<Body> {
    if status.code >= 500 {
        tracing::warn!(code = status.code, message = %status.message, "a request failed");
    }
    response::error(status)
}

async fn route(server: &Arc<ApiServer>, user: &User, request: Request<Body>) -> Result<Response<Body>, Status> {
    let path = request::resource_path(request.uri().path());
    let query = Query::parse(request.uri());
    if path.as_ref().is_some_and(|path| is_stream(&path.subresource)) {
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
            limit: query.number("limit").ok().flatten().filter(|limit| *limit > 0),
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
    let Some(path) = path else {
        return meta::answer(server, user, &request);
    };
    let kind = server.catalog.find(&path.group, &path.version, &path.plural).ok_or_else(Status::no_route)?;
    let verb = request::verb(request.method(), &path, &query).ok_or_else(Status::method_not_allowed)?;
    let manager = request::manager(&query, request.headers(), user)?;
    let info = Info { kind, path, verb, query, manager };
    auth::authorize(server, user, &info)?;
    if !kind.namespaced && !info.path.namespace.is_empty() {
        return Err(Status::no_route());
    }
    if info.verb == "watch" || is_stream(&info.path.subresource) {
        return answer(server, user, info, request).await;
    }
    tokio::time::timeout(TIMEOUT, answer(server, user, info, request))
        .await
        .unwrap_or_else(|_| Err(Status::new(504, "Timeout", "request did not complete within the allowed duration")))
}

fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if is_stream(&info.path.subresource) && info.path.subresource != "log" {
        subresource::admit_connection(server, user, &info).await?;
    }
    match (info.kind.plural, info.path.subresource.as_str()) {
        ("pods", "proxy") => return relay::pod_proxy(server, &info, request).await,
        ("services", "proxy") => return relay::service_proxy(server, &info, request).await,
        ("nodes", "proxy") => return relay::node(server, &info, request).await,
        ("pods", subresource) if is_stream(subresource) => return relay::pod(server, &info, request).await,
        _ => {}
    }
    let form = form(&request, info.kind);
    if info.kind.verbs == Verbs::Create {
        return reviews::create(server, user, &info, request).await;
    }
    if !info.path.subresource.is_empty() && info.path.subresource != "status" {
        return subresource::answer(server, user, &info, request).await;
    }
    if info.path.subresource == "status" && !info.kind.has_status {
        return Err(Status::no_route());
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

/// The first form in the Accept header that is served.
fn form<B>(request: &Request<B>, kind: &Kind) -> Form {
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    for media in accept.split(',') {
        let mut parts = media.split(';').map(str::trim);
        let base = parts.next().unwrap_or("");
        if base == protobuf::MEDIA_TYPE && protobuf::speaks(kind) && !parts.clone().any(|p| p.starts_with("as=")) {
            return Form::Protobuf;
        }
        if !matches!(base, "application/json" | "*/*" | "application/*" | "") {
            continue;
        }
        match parts.find_map(|p| p.strip_prefix("as=")) {
            Some("Table") => return Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Form::Partial,
            Some(_) => {}
            None => return Form::Json,
        }
    }
    Form::Json
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
