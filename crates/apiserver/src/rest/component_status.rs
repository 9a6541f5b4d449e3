//! `componentstatuses`: whether scheduler, controller manager and data store work, found out when a client asks (deprecated since v1.19).

use apimachinery::Status;
use http::Response;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::json;
use crate::registry::{Entry, encode};
use crate::render::{objects_list, one};
use crate::request::ResourceRequest;
use crate::response::Body;
use crate::response::negotiation::Form;

/// The user of the client that scheduler and controllers share.
const CONTROL_PLANE_USER: &str = "system:kube-controller-manager";

/// What there is, under upstream's names; the data store is the one that upstream's `etcd-0` is.
const COMPONENTS: [&str; 3] = ["controller-manager", "scheduler", "etcd-0"];

/// Answers get and list.
///
/// # Errors
/// 500 for an unknown component, as upstream; 405 for other verbs.
pub async fn answer(server: &ApiServer, info: &ResourceRequest, form: Form) -> Result<Response<Body>, Status> {
    match info.verb {
        "get" => {
            let name = info.path.name.as_str();
            if !COMPONENTS.contains(&name) {
                return Err(Status::internal(format!("Component not found: {name}")));
            }
            let object = status(server, name).await;
            Ok(one(server, info, form, 200, json::to_vec(&object).into()))
        }
        "list" => {
            let filter = info.query.filter(info.kind, "")?;
            let mut objects = Vec::new();
            for name in COMPONENTS {
                let object = status(server, name).await;
                if filter.matches(info.kind, &Entry::new(info.kind, name.into(), &encode(&object), 0)) {
                    objects.push(object);
                }
            }
            Ok(objects_list(server, info, form, objects, json!({})))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// The status of one component. Scheduler and controllers are tasks of this process: they run as long as their client is there.
async fn status(server: &ApiServer, name: &str) -> Value {
    let failure = match name {
        "etcd-0" => (!server.is_store_ready().await).then_some("the data store can't be read or written"),
        _ => (!server.has_component(CONTROL_PLANE_USER)).then_some("it doesn't run in this process"),
    };
    let (healthy, message) = failure.map_or(("True", "ok"), |why| ("False", why));
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": healthy, "message": message}]})
}
