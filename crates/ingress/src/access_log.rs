//! The access log.

use std::net::IpAddr;
use std::time::Instant;

use http::request::Parts;
use http::{Method, StatusCode, header};

use crate::downstream::Downstream;
use crate::table::RouteMatch;

/// An entry of the access log, until the response is known.
pub struct AccessLogEntry {
    begun: Instant,
    client: IpAddr,
    method: Method,
    host: String,
    path: String,
    agent: String,
}

impl AccessLogEntry {
    pub fn new(host: &str, request: &Parts, downstream: &Downstream) -> Self {
        let agent = request.headers.get(header::USER_AGENT).and_then(|a| a.to_str().ok()).unwrap_or("");
        AccessLogEntry {
            begun: Instant::now(),
            client: downstream.from,
            method: request.method.clone(),
            host: host.into(),
            // Without the query, which may hold secrets.
            path: request.uri.path().into(),
            agent: agent.into(),
        }
    }

    pub fn log(self, found: &RouteMatch, status: StatusCode) {
        let (took_ms, status) = (self.begun.elapsed().as_millis(), status.as_u16());
        let backend = found.action.backends.first().map_or("", |backend| backend.name.as_str());
        let AccessLogEntry { client, method, host, path, agent, .. } = self;
        tracing::info!(target: "ingress::access", %client, %method, host, path, status, took_ms, backend, agent, "request");
    }
}
