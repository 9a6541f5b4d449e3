//! `pods/NAME/proxy/…` and `services/NAME/proxy/…`: HTTP to what runs in the cluster, with the API's authorization.

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::links::{Page, Place};
use super::{rest, split_at_proxy};
use crate::ApiServer;
use crate::egress::{Destination, connector, resolve_endpoint};
use crate::registry::object_key;
use crate::request::ResourceRequest;
use crate::response::{self, Body};

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

/// `pods/NAME/proxy/…`.
///
/// # Errors
/// 400 for a malformed name, 404 without the pod, 503 when it can't be reached.
pub async fn pod(server: &ApiServer, info: &ResourceRequest, request: Request<Body>) -> Result<Response<Body>, Status> {
    let wanted = Name::read(&info.path.name)?;
    let missing = || kinds::PODS.not_found(wanted.name);
    let key = object_key(&info.path.namespace, wanted.name);
    let pod = server.cache.of(kinds::PODS).get(&key).ok_or_else(missing)?.parse();
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

/// `services/NAME/proxy/…`.
///
/// # Errors
/// 400 for a malformed name, 404 without the service, 503 when no endpoint can be reached.
pub async fn service(
    server: &ApiServer,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let wanted = Name::read(&info.path.name)?;
    let key = object_key(&info.path.namespace, wanted.name);
    let service = server.cache.of(kinds::SERVICES).get(&key);
    // Its writer chose any name in the world: upstream's proxy knows endpoints alone.
    if service.is_some_and(|service| service.parse().at(&["spec", "type"]) == "ExternalName") {
        return Err(Status::unavailable(format!("no endpoints available for service {:?}", wanted.name)));
    }
    let (address, port) = resolve_endpoint(server, &info.path.namespace, wanted.name, wanted.port)?;
    send(info, &format!("service {}", wanted.name), (&address, port), wanted.tls, request).await
}

async fn send(
    info: &ResourceRequest,
    what: &str,
    (host, port): (&str, u16),
    tls: bool,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    // There is no authority by which a pod's certificate could be verified (as upstream).
    let tls = tls.then(|| connector(None, None)).transpose().map_err(Status::internal)?;
    let destination = Destination {
        description: what.into(),
        host: host.into(),
        port,
        tls: tls.map(|c| (c, host.to_string())),
        allow_any_address: false,
    };
    let (prefix, path) = split_at_proxy(info, request.uri().path());
    let asked = HeaderValue::from_str(&format!("{prefix}{}", if path.is_empty() { "/" } else { path }));
    let own = apimachinery::authority(host, port);
    let called = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(String::from);
    let called = called.or_else(|| request.uri().authority().map(ToString::to_string));
    let place = Place { prefix: prefix.into(), hosts: std::iter::once(own).chain(called).collect() };
    let uri = rest(info, request.uri())?;
    let answer = destination.forward(uri, request, move |headers| {
        if let Ok(asked) = asked {
            headers.insert("x-forwarded-uri", asked);
        }
        // Pages are changed on their way.
        headers.remove(header::ACCEPT_ENCODING);
    });
    // In upstream's words, which are others for kubelets.
    let failed = |e: Status| match e.code {
        502 => Status::unavailable(format!("error trying to reach service: {}", e.message)),
        _ => e,
    };
    Ok(with_links(answer.await.map_err(failed)?, place))
}

/// An answer with its links as the client has to see them.
fn with_links(mut answer: Response<Body>, place: Place) -> Response<Body> {
    let text = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(location) = text(header::LOCATION).filter(|location| !location.is_empty()) {
        if let Some(moved) = place.moved(location).and_then(|moved| HeaderValue::from_str(&moved).ok()) {
            answer.headers_mut().insert(header::LOCATION, moved);
        }
        return answer;
    }
    let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
    let is_plain = text(header::CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
    if kind != "text/html" || !is_plain {
        return answer;
    }
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    let page = Page::new(place);
    answer.map(|body| {
        let pieces = futures::stream::unfold(Some((body, page)), |state| async move {
            let (mut body, mut page) = state?;
            // Trailers, if there are any, were about the page as it was.
            Some(match body.frame().await.map(|frame| frame.map(Frame::into_data)) {
                None | Some(Ok(Err(_))) => (Ok(Frame::data(Bytes::from(page.end()))), None),
                Some(Ok(Ok(bytes))) => (Ok(Frame::data(Bytes::from(page.pass(&bytes)))), Some((body, page))),
                Some(Err(error)) => (Err(error), None),
            })
        });
        response::boxed(StreamBody::new(pieces))
    })
}
