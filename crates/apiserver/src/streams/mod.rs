//! Subresources that are passed on: to a kubelet ([`kubelet`]: log, exec, attach, port-forward, nodes/proxy), or to a pod or service ([`proxy`]).

mod kubelet;
mod links;
mod proxy;

use api::Subresource;
use apimachinery::Status;
use http::{Request, Response, Uri};

use crate::ApiServer;
use crate::request::ResourceRequest;
use crate::response::Body;

/// Passes a request on to the backend of its subresource.
///
/// # Errors
/// 400 for a pod without a node, an unknown container or a malformed path, 404 without the object, 502 or 503 when the other end can't be
/// reached.
pub async fn answer(
    server: &ApiServer,
    info: &ResourceRequest,
    sub: Subresource,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match sub {
        Subresource::PodProxy => proxy::pod(server, info, request).await,
        Subresource::ServiceProxy => proxy::service(server, info, request).await,
        Subresource::NodeProxy => kubelet::node(server, info, request).await,
        Subresource::Log => kubelet::pod(server, info, "containerLogs", request).await,
        Subresource::Exec => kubelet::pod(server, info, "exec", request).await,
        Subresource::Attach => kubelet::pod(server, info, "attach", request).await,
        Subresource::PortForward => kubelet::pod(server, info, "portForward", request).await,
        _ => Err(Status::no_route()),
    }
}

/// A path at its subresource `proxy`: what comes before and with it, and what is asked of the target, as the client wrote
/// both. Names may begin with `proxy`, too, so segments are counted.
fn split_at_proxy<'a>(info: &ResourceRequest, path: &'a str) -> (&'a str, &'a str) {
    let group = if info.path.group.is_empty() { 2 } else { 3 };
    let namespace = if info.path.namespace.is_empty() { 0 } else { 2 };
    let mut left = group + namespace + 3;
    let mut end = 0;
    // Empty segments don't count, as in `request::resource_path`.
    for segment in path.split_inclusive('/') {
        let name = segment.trim_end_matches('/');
        left -= usize::from(!name.is_empty());
        if left == 0 {
            return path.split_at(end + name.len());
        }
        end += segment.len();
    }
    (path, "")
}

/// What is asked of a target: what follows `proxy` in a path, with its query.
fn rest(info: &ResourceRequest, uri: &Uri) -> Result<Uri, Status> {
    let (_, rest) = split_at_proxy(info, uri.path());
    let rest = if rest.is_empty() { "/" } else { rest };
    let text = uri.query().map_or_else(|| rest.to_string(), |query| format!("{rest}?{query}"));
    text.parse().map_err(|_| Status::bad_request("the path after proxy is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{self, Query};

    #[test]
    fn a_path_is_split_at_the_subresource_and_not_at_a_name() {
        for (path, before, rest) in [
            ("/api/v1/namespaces/n/pods/p/proxy", "/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/a/proxy/b", "/api/v1/namespaces/n/pods/p/proxy", "/a/proxy/b"),
            ("/api/v1/namespaces/n/services/proxy-x:80/proxy/", "/api/v1/namespaces/n/services/proxy-x:80/proxy", "/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy", "/api/v1/namespaces/proxy/pods/proxy/proxy", "/proxy"),
            ("/api/v1/nodes/proxy1/proxy/pods", "/api/v1/nodes/proxy1/proxy", "/pods"),
            ("//api/v1//nodes/n/proxy//x", "//api/v1//nodes/n/proxy", "//x"),
        ] {
            let read = request::resource_path(path).unwrap();
            let kind = api::find("", "v1", &read.plural).unwrap();
            let subresource = kind.subresource("proxy");
            assert_eq!(read.subresource, "proxy", "{path}");
            let info = ResourceRequest {
                kind,
                path: read,
                subresource,
                verb: "get",
                query: Query::default(),
                manager: String::new(),
            };
            assert_eq!(split_at_proxy(&info, path), (before, rest));
        }
    }
}
