//! What kubelets answer: logs, exec, attach, port-forward, and a node's own paths.

use api::pod_logs::LogOptions;
use api::{Subresource, kinds};
use apimachinery::{ObjectExt as _, Status};
use http::{Request, Response, Uri};
use serde_json::Value;

use super::rest;
use crate::ApiServer;
use crate::egress::kubelet::destination;
use crate::request::ResourceRequest;
use crate::response::Body;

/// Answers a stream subresource of a pod, which the kubelet serves below `/VERB`.
///
/// # Errors
/// 400 for options of logs, for an unknown container and for a pod without a node; 404 without the pod; 502 when the kubelet can't be
/// reached.
pub async fn pod(
    server: &ApiServer,
    info: &ResourceRequest,
    verb: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let pod = server.cache.of(kinds::PODS).get(&info.key()).ok_or_else(|| info.not_found())?.parse();
    if info.subresource == Some(Subresource::Log) {
        LogOptions::read(&info.path.name, info.query.pairs())?;
    }
    let node = pod.str_at(&["spec", "nodeName"]);
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.path.name)));
    }
    let uri = kubelet_uri(info, &pod, verb, request.uri())?;
    destination(server, node)?.forward(uri, request, |_| ()).await
}

/// `nodes/NAME/proxy/…`: the kubelet's own paths.
///
/// # Errors
/// 404 without the node, 502 when its kubelet can't be reached.
pub async fn node(
    server: &ApiServer,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let name = info.path.name.split(':').next().unwrap_or("");
    let uri = rest(info, request.uri())?;
    destination(server, name)?.forward(uri, request, |_| ()).await
}

/// The path on the kubelet: `/containerLogs/NS/POD/CONTAINER`, `/exec/…`, `/attach/…`, `/portForward/NS/POD`.
fn kubelet_uri(info: &ResourceRequest, pod: &Value, verb: &str, uri: &Uri) -> Result<Uri, Status> {
    let mut path = format!("/{verb}/{}/{}", info.path.namespace, info.path.name);
    if verb != "portForward" {
        path = format!("{path}/{}", container(info, pod)?);
    }
    if let Some(query) = uri.query() {
        path = format!("{path}?{query}");
    }
    path.parse().map_err(|_| Status::bad_request("the query is malformed"))
}

fn container(info: &ResourceRequest, pod: &Value) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        pod.array_at(&["spec", list]).iter().map(|c| c.str_at(&["name"]).to_string()).collect()
    };
    let wanted = info.query.get("container");
    let (plain, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !wanted.is_empty() {
        let known = plain.iter().chain(&init).chain(&ephemeral).any(|n| n == wanted);
        if known {
            return Ok(wanted.into());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", info.path.name)));
    }
    match plain.as_slice() {
        [only] => Ok(only.clone()),
        many => {
            let default = pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
            if many.iter().any(|n| n == default) {
                return Ok(default.into());
            }
            let init = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]{init}",
                info.path.name,
                many.join(" ")
            )))
        }
    }
}
