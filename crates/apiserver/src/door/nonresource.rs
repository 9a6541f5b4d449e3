//! Paths that name no resource: discovery, OpenAPI, health, version.

use std::sync::Arc;

use apimachinery::Status;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use serde_json::json;

use super::health;
use crate::authentication::{Tokens, User};
use crate::authorization::authorize_path;
use crate::request::Query;
use crate::response::{self, Body, negotiation};
use crate::{ApiServer, KUBERNETES_VERSION, joining, metrics, openapi};

/// Answers a request for a path that is no resource, in JSON or YAML.
///
/// # Errors
/// 403 when the user may not ask for the path, 404 and 405 for paths and methods that there aren't.
pub async fn serve(
    server: &Arc<ApiServer>,
    user: &User,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (request, _) = request.into_parts();
    let mut answer = answer(server, user, query, &request).await?;
    if let Ok((_, true)) = negotiation::negotiate(negotiation::accept(&request.headers), None, false) {
        answer = negotiation::as_yaml(answer).await;
    }
    let is_tagged = answer.headers().contains_key(header::ETAG);
    if !is_tagged && ["/api", "/openapi"].iter().any(|document| request.uri.path().starts_with(document)) {
        answer = negotiation::tagged(answer, &request.headers).await;
    }
    let is_compressed = answer.headers().contains_key(header::CONTENT_ENCODING);
    Ok(if is_compressed { answer } else { negotiation::may_be_compressed(answer) })
}

async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    query: &Query,
    request: &Parts,
) -> Result<Response<Body>, Status> {
    let path = request.uri.path();
    // The CA's certificate is no secret; a node needs it before it can trust this server.
    if path == "/cacerts" {
        return Ok(response::text(200, server.config.authority.certificate_pem().to_string()));
    }
    if let Some(answer) = joining::answer(server, user, request).await {
        return Ok(response::text(200, answer?));
    }
    authorize_path(server, user, &request.method, path)?;
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    let accept = request.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let aggregated = accept.contains("as=APIGroupDiscoveryList");
    let trimmed = path.trim_end_matches('/');
    let parts: Vec<&str> = trimmed.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [endpoint @ ("healthz" | "livez" | "readyz"), rest @ ..] if rest.len() < 2 => {
            health::answer(server, endpoint, rest.first().copied(), query).await
        }
        [".well-known", "openid-configuration"] => Ok(response::json(200, &Tokens::configuration(server))),
        ["openid", "v1", "jwks"] => {
            let mut answer = response::json(200, &server.tokens.keys());
            let kind = header::HeaderValue::from_static("application/jwk-set+json");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(answer)
        }
        ["metrics"] => Ok(response::text(200, metrics::text(server))),
        ["version"] => Ok(response::json(200, &version())),
        ["api"] if aggregated => Ok(server.discovery.aggregated_core()),
        ["apis"] if aggregated => Ok(server.discovery.aggregated_groups()),
        ["api"] => Ok(response::json(200, &server.discovery.core_versions(server.config.advertise))),
        ["apis"] => Ok(response::json(200, &server.discovery.groups())),
        ["api", version] => server.discovery.resources("", version).ok_or_else(Status::no_route),
        ["apis", group] => server.discovery.group(group).ok_or_else(Status::no_route),
        ["apis", group, version] => server.discovery.resources(group, version).ok_or_else(Status::no_route),
        ["openapi", rest @ ..] => openapi(server, &request.headers, rest).await,
        [] => Ok(response::json(
            200,
            &json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        )),
        _ => Err(Status::no_route()),
    }
}

/// `/openapi/…`
async fn openapi(server: &Arc<ApiServer>, request: &HeaderMap, path: &[&str]) -> Result<Response<Body>, Status> {
    let accept = negotiation::accept(request);
    let catalog = server.catalog.clone();
    // Read before the document is made: what is made of a newer catalog may be kept as an older one's, but never the other way round.
    let generation = catalog.generation();
    let documents = &server.documents;
    let (group, version) = match path {
        ["v2"] if accept.contains("com.github.proto-openapi.spec.v2") => {
            let make = move || Some(openapi::v2::as_protobuf(&catalog));
            return documents.answer("v2 protobuf", generation, make, request, false).await;
        }
        ["v2"] => {
            let as_yaml = negotiation::negotiate(accept, None, false).is_ok_and(|(_, as_yaml)| as_yaml);
            let make = move || Some(openapi::v2::as_json(&catalog));
            return documents.answer("v2", generation, make, request, as_yaml).await;
        }
        ["v3"] => return Ok(response::json(200, &openapi::index(&server.catalog, &server.aggregator))),
        ["v3", "api", version] => (String::new(), (*version).to_string()),
        ["v3", "apis", group, version] => ((*group).to_string(), (*version).to_string()),
        _ => return Err(Status::no_route()),
    };
    let as_yaml = negotiation::negotiate(accept, None, false).is_ok_and(|(_, as_yaml)| as_yaml);
    let name = format!("v3 {group}/{version}");
    let make = move || openapi::document(&catalog, &group, &version);
    documents.answer(&name, generation, make, request, as_yaml).await
}

fn version() -> serde_json::Value {
    // As Go names it.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1", "minor": "37", "gitVersion": format!("{KUBERNETES_VERSION}+timonel"),
        "gitCommit": env!("TIMONEL_COMMIT"), "gitTreeState": env!("TIMONEL_TREE_STATE"),
        "buildDate": env!("TIMONEL_BUILD_DATE"), "goVersion": "none (Rust)", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture), "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
    })
}
