//! `pods/NAME/proxy/…` and `services/NAME/proxy/…`: HTTP to what runs in the cluster, with the API's authorization.

use apimachinery::{ObjectExt as _, Status};
use http::{HeaderValue, Request, Response, header};
use rand::seq::IndexedRandom as _;

use super::{Target, connector, rest, split_at_proxy};
use crate::ApiServer;
use crate::cache::object_key;
use crate::object::Filter;
use crate::request::Info;
use crate::response::Body;

/// `[scheme:]name[:port]`, as proxy paths name their target.
struct Name<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Name<'a> {
    fn read(text: &'a str) -> Result<Self, Status> {
        let (scheme, name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        match scheme {
            "" | "http" | "https" => Ok(Name { tls: scheme == "https", name, port }),
            _ => Err(Status::bad_request(format!("invalid proxy target {text:?}: it must be [http[s]:]name[:port]"))),
        }
    }
}

pub async fn pod(server: &ApiServer, info: &Info, request: Request<Body>) -> Result<Response<Body>, Status> {
    let wanted = Name::read(&info.path.name)?;
    let missing = || Status::not_found("", "pods", wanted.name);
    let key = object_key(&info.path.namespace, wanted.name);
    let pod = server.cache.named("pods").get(&key).ok_or_else(missing)?.parse();
    let address = pod.str_at(&["status", "podIP"]);
    if address.is_empty() {
        return Err(Status::unavailable(format!("pod {} has no address yet", wanted.name)));
    }
    let containers = pod.array_at(&["spec", "containers"]).iter();
    let ports: Vec<_> = containers.flat_map(|c| c.array_at(&["ports"])).collect();
    let chosen = match wanted.port {
        "" => ports.first().and_then(|p| p["containerPort"].as_u64()).or(Some(if wanted.tls { 443 } else { 80 })),
        port => port.parse().ok().or_else(|| ports.iter().find(|p| p["name"] == port)?["containerPort"].as_u64()),
    };
    let port = chosen.and_then(|p| u16::try_from(p).ok());
    let port = port.ok_or_else(|| Status::bad_request(format!("pod {} has no port {:?}", wanted.name, wanted.port)))?;
    send(info, &format!("pod {}", wanted.name), (address, port), wanted.tls, request).await
}

pub async fn service(server: &ApiServer, info: &Info, request: Request<Body>) -> Result<Response<Body>, Status> {
    let wanted = Name::read(&info.path.name)?;
    let key = object_key(&info.path.namespace, wanted.name);
    let service = server.cache.named("services").get(&key);
    // Any name in the world, which its writer chose: upstream's proxy knows endpoints alone.
    if service.is_some_and(|service| service.parse().at(&["spec", "type"]) == "ExternalName") {
        return Err(Status::unavailable(format!("no endpoints available for service {:?}", wanted.name)));
    }
    let (address, port) = endpoint(server, &info.path.namespace, wanted.name, wanted.port)?;
    send(info, &format!("service {}", wanted.name), (&address, port), wanted.tls, request).await
}

async fn send(
    info: &Info,
    what: &str,
    (host, port): (&str, u16),
    tls: bool,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    // Nobody could say which certificate is the right one.
    let tls = tls.then(|| connector(None, None)).transpose().map_err(Status::internal)?;
    let target =
        Target { what: what.into(), host: host.into(), port, tls: tls.map(|c| (c, host.to_string())), anywhere: false };
    let (prefix, _) = split_at_proxy(info, request.uri().path());
    let prefix = prefix.to_string();
    let uri = rest(info, request.uri())?;
    let forwarded = prefix.clone();
    let mut answer = target
        .forward(uri, request, move |headers| {
            if let Ok(value) = HeaderValue::from_str(&forwarded) {
                headers.insert("x-forwarded-uri", value);
            }
        })
        .await?;
    // A redirect to the root of the target is one to the root of the proxy.
    let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    let moved =
        location.filter(|l| l.starts_with('/')).and_then(|l| HeaderValue::from_str(&format!("{prefix}{l}")).ok());
    if let Some(moved) = moved {
        answer.headers_mut().insert(header::LOCATION, moved);
    }
    Ok(answer)
}

/// A ready endpoint of a service by the number or name of one of its ports; the only port, or 443 or 80, if none is named.
pub fn endpoint(server: &ApiServer, namespace: &str, name: &str, port: &str) -> Result<(String, u16), Status> {
    let key = object_key(namespace, name);
    let missing = || Status::not_found("", "services", name);
    let service = server.cache.named("services").get(&key).ok_or_else(missing)?.parse();
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
    let slices = server.cache.named("endpointslices.discovery.k8s.io").list(&filter).0;
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
