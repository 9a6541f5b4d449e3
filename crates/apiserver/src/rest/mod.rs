//! Requests for resources, once it is clear that their user may make them: by subresource and verb.

mod component_status;
mod list;
mod read;
mod reviews;
mod watch;
mod write;

pub use read::Continue;
pub use watch::places_of_watches;

use std::sync::Arc;
use std::time::Duration;

use api::{Subresource, Verbs};
use apimachinery::Status;
use http::{Request, Response};

use crate::authentication::User;
use crate::request::ResourceRequest;
use crate::response::negotiation::{self, Form};
use crate::response::{self, Body};
use crate::{ApiServer, authorization, streams, subresources};

/// How long a request may take that is no watch and no stream.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Answers a request for a resource.
///
/// # Errors
/// 404 for a path that the kind hasn't got, 405 for a verb, 406 for media types, 504 when it takes too long, and what is answered to the
/// verb.
pub async fn serve(
    server: &Arc<ApiServer>,
    user: &User,
    request: Request<Body>,
    info: ResourceRequest,
) -> Result<Response<Body>, Status> {
    let kind = info.kind;
    if !info.is_served() {
        return Err(Status::no_route());
    }
    if let Some(sub) = info.subresource {
        if !sub.has(info.verb) {
            return Err(Status::method_not_allowed());
        }
        if sub.is_stream() {
            if opens_both_ways(sub, request.headers()) {
                authorization::authorize_as(server, user, &info, "create")?;
            }
            if sub != Subresource::Log {
                subresources::admit_connection(server, user, &info).await?;
            }
            return streams::answer(server, &info, sub, request).await;
        }
    }
    let watches = info.verb == "watch";
    let (form, yaml) = negotiation::negotiate(negotiation::accept(request.headers()), Some(kind), watches)?;
    let answering = answer(server, user, info, request, form, yaml);
    let answer = if watches {
        answering.await
    } else {
        let late = |_| Err(Status::new(504, "Timeout", "request did not complete within the allowed duration"));
        tokio::time::timeout(TIMEOUT, answering).await.unwrap_or_else(late)
    };
    // Deprecated versions say so, whatever is asked of them.
    let answer = answer.map(|mut answer| {
        if kind.custom || kind.strategy.deprecation.is_some() {
            response::warn(&mut answer, &server.catalog.warnings(kind));
        }
        answer
    });
    if watches {
        return answer;
    }
    if yaml {
        let answer = negotiation::as_yaml(answer.unwrap_or_else(|status| response::refuse(&status))).await;
        return Ok(negotiation::may_be_compressed(answer));
    }
    answer.map(negotiation::may_be_compressed)
}

/// Whether a stream lets its client do something, and not only read. A WebSocket is opened by GET, which alone must not
/// be enough for that (upstream's `AuthorizePodWebsocketUpgradeCreatePermission`, which leaves out proxies; but a client
/// that may upgrade a connection to a node's kubelet may run commands there).
fn opens_both_ways(sub: Subresource, headers: &http::HeaderMap) -> bool {
    let runs = matches!(sub, Subresource::Exec | Subresource::Attach | Subresource::PortForward);
    runs || (sub.is_proxy() && headers.contains_key(http::header::UPGRADE))
}

async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: ResourceRequest,
    request: Request<Body>,
    form: Form,
    yaml: bool,
) -> Result<Response<Body>, Status> {
    match info.kind.verbs {
        Verbs::All => {}
        Verbs::Create => return reviews::create(server, user, &info, request).await,
        Verbs::Read => return component_status::answer(server, &info, form).await,
    }
    match info.subresource {
        None | Some(Subresource::Status) => {}
        Some(sub) => return subresources::answer(server, user, &info, sub, request, form).await,
    }
    match info.verb {
        "get" => read::get(server, &info, form).await,
        "list" => read::list(server, user, &info, form, yaml).await,
        "watch" => watch::watch(server, user, &info, form).await,
        "create" if info.path.name.is_empty() => write::create(server, user, &info, request, form).await,
        "update" if !info.path.name.is_empty() => write::update(server, user, &info, request, form).await,
        "patch" if !info.path.name.is_empty() => write::patch(server, user, &info, request, form).await,
        "delete" => write::delete(server, user, &info, request).await,
        "deletecollection" if info.kind.strategy.deletion.by_collection => {
            write::delete_collection(server, user, &info, request).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}
