//! The door: every request comes in here, and its answer goes out.
//!
//! In their order: what it asks for is read ([`RequestInfo`]) → who sends it ([`authentication`]), and as whom
//! ([`authorization::impersonate`]) → the audit log hears of it ([`audit`](crate::audit)) → it waits for its turn ([`fairness`]) → it goes to
//! a further API server ([`aggregator`]), to a path that is no resource ([`nonresource`]), or, if its user may make it
//! ([`authorization`]), to its resource ([`rest`]) → the answer is compressed, and held to its user's share of memory until it is read
//! ([`unsent`]).

mod health;
mod listener;
mod nonresource;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use apimachinery::Status;
use http::{Request, Response};

pub use listener::{serve, serve_local};

use crate::authentication::{self, User};
use crate::fairness::{self, RequestDigest};
use crate::metrics::Labels;
use crate::pipeline::is_apply;
use crate::request::{RequestInfo, ResourceRequest};
use crate::response::{self, Body, negotiation};
use crate::unsent::{self, Connection};
use crate::{ApiServer, Peer, aggregator, authorization, rest};

/// Answers a request. Errors are answers, too.
pub async fn handle(server: &Arc<ApiServer>, request: Request<Body>, peer: Peer) -> Response<Body> {
    let logged = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_string(), Instant::now()));
    // On this machine the bytes cost less than their compression.
    let is_near = request.extensions().get::<IpAddr>().is_some_and(IpAddr::is_loopback);
    let is_compressed = !is_near && negotiation::wants_gzip(request.headers());
    let connection = request.extensions().get::<Connection>().cloned();
    let mut answer = identified(server, request, &peer).await.unwrap_or_else(|status| response::refuse(&status));
    if is_compressed {
        answer = negotiation::compress(answer).await;
    }
    answer = unsent::hold(&server.unsent, answer, connection.as_ref());
    if let Some((method, path, begun)) = logged {
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(%method, path, code = answer.status().as_u16(), milliseconds, "request");
    }
    answer
}

/// Finds out who sends a request, and has it audited.
async fn identified(server: &Arc<ApiServer>, request: Request<Body>, peer: &Peer) -> Result<Response<Body>, Status> {
    let mut user = authentication::authenticate(server, request.headers(), peer)?;
    if !matches!(peer, Peer::Component(_)) {
        user = authorization::impersonate(server, request.headers(), user)?;
    }
    let request_info = RequestInfo::read(&server.catalog, request.method(), request.uri());
    let Some(audit) = &server.config.audit else { return in_turn(server, &user, request_info, request).await };
    let (record, request) = audit.begin(&user, &request_info, request);
    let work = in_turn(server, &user, request_info, request);
    let Some(record) = record else { return work.await };
    let answer = record.during(work).await.unwrap_or_else(|status| response::refuse(&status));
    Ok(record.end(answer).await)
}

/// Waits until it is a request's turn. Streams wait in no line (upstream's long-running requests).
async fn in_turn(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if request_info.is_stream() {
        return route(server, user, request_info, request).await;
    }
    let digest = RequestDigest::of(&request_info, request.uri().path());
    let turn = fairness::turn(server, user, &digest).await?;
    let mut answer =
        route(server, user, request_info, request).await.unwrap_or_else(|status| response::refuse(&status));
    turn.mark(&mut answer);
    Ok(answer)
}

/// Finds who answers a request, and counts the answer.
async fn route(
    server: &Arc<ApiServer>,
    user: &User,
    request_info: RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let request = match aggregator::answer(server, user, &request_info, request).await {
        Ok(answer) => return answer,
        Err(request) => request,
    };
    let begun = Instant::now();
    let RequestInfo { query, verb, resource } = request_info;
    let Some(resource) = resource else {
        let labels = Labels::other(request.method());
        let _running = server.metrics.begin(&labels);
        let answer = nonresource::serve(server, user, &query, request).await;
        server.metrics.end(&labels, code(&answer), begun.elapsed());
        return answer.map(|answer| unsent::ending(answer, user, true));
    };
    let kind = resource.kind.ok_or_else(Status::no_route)?;
    let verb = verb.ok_or_else(Status::method_not_allowed)?;
    let manager = crate::request::manager(&query, request.headers(), &user.name)?;
    let info = ResourceRequest { kind, path: resource.path, subresource: resource.subresource, verb, query, manager };
    let labels = Labels::of(&info, verb == "patch" && is_apply(&request));
    let running = server.metrics.begin(&labels);
    let answer = match authorization::authorize(server, user, &info) {
        Ok(()) => rest::serve(server, user, request, info).await,
        Err(status) => Err(status),
    };
    server.metrics.end(&labels, code(&answer), begun.elapsed());
    // A long-running request is in the gauge as long as its body lives.
    answer.map(|answer| match labels.is_long() {
        true => response::held_until_sent(answer, running),
        false => unsent::ending(answer, user, matches!(verb, "get" | "list")),
    })
}

fn code(answer: &Result<Response<Body>, Status>) -> u16 {
    answer.as_ref().map_or_else(|status| status.code, |answer| answer.status().as_u16())
}
