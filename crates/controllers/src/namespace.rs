//! Namespaces that are deleted: everything in them goes first.

use std::time::Duration;

use api::{KINDS, Kind, Verbs};
use informer::{Change, Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use serde_json::{Value, json};

use crate::{Context, Result, custom_resources};

pub fn start(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let queue = Queue::default();
    let add = queue.clone();
    namespaces.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && new.metadata.deletion_timestamp.is_some()
        {
            add.add(new.key());
        }
    });
    queue.work("namespace", 2, move |key| {
        let (context, namespaces, definitions) = (context.clone(), namespaces.clone(), definitions.clone());
        async move {
            informer::synced!(definitions);
            empty(&context, &namespaces, &definitions, &key).await
        }
    });
}

fn path(kind: &Kind, namespace: &str) -> String {
    let root = if kind.group.is_empty() { "/api".to_string() } else { format!("/apis/{}", kind.group) };
    format!("{root}/{}/namespaces/{namespace}/{}", kind.version, kind.plural)
}

pub async fn request(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let request = http::Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = request.body(body).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn empty(
    context: &Context,
    namespaces: &Informer<Namespace>,
    definitions: &Informer<CustomResourceDefinition>,
    key: &Key,
) -> Result<Option<Duration>> {
    let Some(namespace) = namespaces.get(key) else { return Ok(None) };
    if namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_none_or(Vec::is_empty) {
        return Ok(None);
    }
    let mut left = Vec::new();
    let custom = custom_resources::kinds(definitions);
    for kind in KINDS.iter().chain(custom).filter(|k| k.namespaced && k.verbs == Verbs::All) {
        let path = path(kind, &key.name);
        let found = match request(&context.client, "GET", &format!("{path}?limit=1"), &Value::Null).await {
            // A definition that went meanwhile took its objects along.
            Err(kube::Error::Api(status)) if kind.custom && status.code == 404 => continue,
            found => found?,
        };
        if found["items"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        request(&context.client, "DELETE", &path, &json!({"propagationPolicy": "Background"})).await?;
        let found = request(&context.client, "GET", &path, &Value::Null).await?;
        let count = found["items"].as_array().map_or(0, Vec::len);
        if count > 0 {
            left.push(format!("{} has {count} resource instances", kind.resource()));
        }
    }
    let path = format!("/api/v1/namespaces/{}", key.name);
    if !left.is_empty() {
        // Says what it waits for, so that nobody has to guess.
        let condition = json!({"type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
            "message": format!("Some resources are remaining: {}", left.join(", ")),
            "lastTransitionTime": apimachinery::clock::now_rfc3339()});
        let mut object = request(&context.client, "GET", &path, &Value::Null).await?;
        object["status"]["conditions"] = json!([condition]);
        let _ = request(&context.client, "PUT", &format!("{path}/status"), &object).await;
        return Ok(Some(Duration::from_millis(500)));
    }
    let mut object = request(&context.client, "GET", &path, &Value::Null).await?;
    object["spec"]["finalizers"] = json!([]);
    crate::ignore(request(&context.client, "PUT", &format!("{path}/finalize"), &object).await, &[404])?;
    Ok(None)
}
