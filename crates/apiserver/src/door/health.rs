//! `/healthz`, `/livez` and `/readyz`, with `?verbose`, `?exclude=` and each check by its own path.

use apimachinery::Status;
use http::Response;

use crate::ApiServer;
use crate::request::Query;
use crate::response::{self, Body};

/// The checks of each endpoint. A store that fails is no reason to restart the server, so it isn't among those of
/// `/livez`.
fn checks(endpoint: &str) -> &'static [&'static str] {
    match endpoint {
        "livez" => &["ping"],
        _ => &["ping", "store"],
    }
}

async fn passes(server: &ApiServer, check: &str) -> bool {
    match check {
        "store" => server.is_store_ready().await,
        _ => true,
    }
}

/// Answers as upstream does: `ok`, or which checks failed. Why one failed stands in the log, not here, as anonymous clients may
/// ask.
///
/// # Errors
/// 404 for a check that isn't there.
pub async fn answer(
    server: &ApiServer,
    endpoint: &str,
    one: Option<&str>,
    query: &Query,
) -> Result<Response<Body>, Status> {
    // Upstream's name for it, which probes ask for.
    let one = one.map(|name| if name == "etcd" { "store" } else { name });
    let all = checks(endpoint);
    if one.is_some_and(|name| !all.contains(&name)) {
        return Err(Status::no_route());
    }
    let excluded = query.all("exclude");
    let mut lines = String::new();
    let mut failed = false;
    for check in all.iter().filter(|check| one.is_none_or(|name| name == **check)) {
        if excluded.contains(check) {
            lines += &format!("[+]{check} excluded: ok\n");
        } else if passes(server, check).await {
            lines += &format!("[+]{check} ok\n");
        } else {
            failed = true;
            lines += &format!("[-]{check} failed: reason withheld\n");
        }
    }
    if failed {
        return Ok(response::text(500, format!("{lines}{endpoint} check failed\n")));
    }
    match one.is_none() && query.flag("verbose") {
        true => Ok(response::text(200, format!("{lines}{endpoint} check passed\n"))),
        false => Ok(response::text(200, "ok")),
    }
}
