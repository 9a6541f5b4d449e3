//! From the name of a service to the address of one of its endpoints (upstream's `ServiceResolver`).

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use rand::seq::IndexedRandom as _;

use crate::ApiServer;
use crate::registry::{Filter, object_key};

/// A ready endpoint of a service by the number or name of one of its ports; the only port, or 443 or 80, if none is named.
///
/// # Errors
/// 404 without the service, 503 when it has no such port or no ready endpoint.
pub fn resolve_endpoint(server: &ApiServer, namespace: &str, name: &str, port: &str) -> Result<(String, u16), Status> {
    let key = object_key(namespace, name);
    let missing = || kinds::SERVICES.not_found(name);
    let service = server.cache.of(kinds::SERVICES).get(&key).ok_or_else(missing)?.parse();
    let ports = service.array_at(&["spec", "ports"]);
    let numbered = |number: u64| ports.iter().find(|p| p["port"] == number);
    let found = match (port, ports) {
        ("", [only]) => Some(only),
        ("", _) => numbered(443).or_else(|| numbered(80)),
        (port, _) => port.parse().ok().and_then(numbered).or_else(|| ports.iter().find(|p| p["name"] == port)),
    };
    let wanted =
        found.ok_or_else(|| Status::unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    if service.at(&["spec", "type"]) == "ExternalName" {
        let number = wanted["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
        return Ok((service.str_at(&["spec", "externalName"]).into(), number));
    }
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    let slices = server.cache.of(kinds::ENDPOINT_SLICES).list(&filter).0;
    let mut ready = Vec::new();
    for slice in slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
        let slice = slice.parse();
        let number = slice.array_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == wanted.str_at(&["name"]));
        let Some(number) = number.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        for endpoint in slice.array_at(&["endpoints"]) {
            if endpoint.at(&["conditions", "ready"]) != false {
                ready.extend(endpoint.strings_at(&["addresses"]).first().map(|a| ((*a).to_string(), number)));
            }
        }
    }
    let chosen = ready.choose(&mut rand::rng()).cloned();
    chosen.ok_or_else(|| Status::unavailable(format!("no endpoints available for service {name:?}")))
}
