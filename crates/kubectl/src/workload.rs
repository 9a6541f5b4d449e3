//! Pods of workloads, and which container of a pod is meant when none is named.

use serde_json::Value;

use crate::client::Call;
use crate::context::Context;
use crate::error::{Result, fail};
use crate::print::table::label_text;
use crate::select::Target;

/// Names the container that commands mean.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Pods with these labels.
///
/// # Errors
/// When they can't be listed.
pub async fn pods(cx: &Context, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let found = cx.json(Call::new("GET", &path).query("labelSelector", selector)).await?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}

/// The selector of an object's pods, if it has pods.
pub fn selector_of(target: &Target) -> Option<String> {
    let spec = &target.object["spec"];
    let selector = &spec["selector"];
    if target.resource.is("", "services") || target.resource.is("", "replicationcontrollers") {
        return Some(label_text(selector, ",")).filter(|s| s != "<none>");
    }
    if !selector.is_object() {
        return None;
    }
    let mut parts: Vec<String> = Vec::new();
    let labels = label_text(&selector["matchLabels"], ",");
    if labels != "<none>" {
        parts.push(labels);
    }
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or("");
        let values =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        parts.push(match e["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.into(),
            _ => format!("!{key}"),
        });
    }
    Some(parts.join(","))
}

/// The pods of a workload or service.
///
/// # Errors
/// When it has none by its kind.
pub async fn pods_of(cx: &Context, target: &Target) -> Result<Vec<Value>> {
    let Some(selector) = selector_of(target) else {
        return fail(format!(
            "cannot get the logs from {}: selector for {} not implemented",
            target.resource.kind, target.resource.kind
        ));
    };
    pods(cx, &target.namespace, &selector).await
}

/// The pod that one would look at first: on a node, running, ready, and of those the oldest.
pub fn best(pods: Vec<Value>) -> Option<Value> {
    let rank = |pod: &Value| {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or("").to_string();
        let phase = match text("/status/phase").as_str() {
            "Running" => 0,
            "Pending" => 2,
            _ => 1,
        };
        let conditions = pod["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        (text("/spec/nodeName").is_empty(), phase, !ready, text("/metadata/creationTimestamp"), text("/metadata/name"))
    };
    pods.into_iter().min_by_key(rank)
}

/// All containers of a pod, those that run before first.
pub fn container_names(pod: &Value) -> Vec<String> {
    let of = |field: &str| {
        let all = pod["spec"][field].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str().map(String::from)).collect::<Vec<_>>()
    };
    [of("initContainers"), of("containers"), of("ephemeralContainers")].concat()
}

/// The container that is meant, and what to tell when others could be.
pub fn default_container(pod: &Value) -> (Option<String>, Option<String>) {
    let all = container_names(pod);
    if let Some(named) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && all.iter().any(|c| c == named)
    {
        return (Some(named.into()), None);
    }
    let first =
        pod["spec"]["containers"].as_array().and_then(|c| c.first()).and_then(|c| c["name"].as_str()).map(String::from);
    let count = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let note = (count > 1 || all.len() > count).then(|| {
        let shown = all.iter().map(|name| {
            let kind =
                |field: &str| pod["spec"][field].as_array().into_iter().flatten().any(|c| c["name"] == name.as_str());
            let suffix = if kind("initContainers") {
                " (init)"
            } else if kind("ephemeralContainers") {
                " (ephem)"
            } else {
                ""
            };
            format!("{name}{suffix}")
        });
        // Containers first, as upstream lists them.
        let mut shown: Vec<String> = shown.collect();
        shown.sort_by_key(|name| name.ends_with(" (init)") || name.ends_with(" (ephem)"));
        format!("Defaulted container {:?} out of: {}", first.clone().unwrap_or_default(), shown.join(", "))
    });
    (first, note)
}
