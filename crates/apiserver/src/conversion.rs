//! Conversion: an object is stored in one version of its kind, and read and written in any.
//!
//! Older versions of built-in kinds are converted by [`api::Kind::convert`]. Versions of a definition with the strategy `None` differ in
//! their name alone; those with `Webhook` are converted by a program in the cluster (`apiextensions.k8s.io/v1` ConversionReview).

use std::sync::Arc;

use api::Kind;
use apimachinery::{ObjectExt as _, Status, bounded, names};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::egress;
use crate::registry::{Entry, PIECE, encode};

/// Brings objects to `version`.
async fn convert(
    server: &ApiServer,
    kind: &Kind,
    version: &str,
    mut objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    if !kind.custom {
        objects.iter_mut().for_each(|o| kind.convert(o, version));
        return Ok(objects);
    }
    let webhook = server.catalog.definition(kind).and_then(|d| d.webhook.clone());
    let Some(webhook) = webhook else {
        objects.iter_mut().for_each(|o| o["apiVersion"] = version.into());
        return Ok(objects);
    };
    let stale: Vec<usize> = (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != version).collect();
    if stale.is_empty() {
        return Ok(objects);
    }
    let sent: Vec<&Value> = stale.iter().map(|i| &objects[*i]).collect();
    let review = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": uuid::Uuid::new_v4().to_string(), "desiredAPIVersion": version, "objects": sent}});
    let converted = ask(server, &webhook, &review).await.map_err(|why| {
        Status::internal(format!("conversion webhook for {}, Kind={} failed: {why}", kind.api_version(), kind.kind))
    })?;
    if converted.len() != stale.len() {
        let text = format!("the conversion webhook returned {} objects, expected {}", converted.len(), stale.len());
        return Err(Status::internal(text));
    }
    for (i, mut new) in stale.into_iter().zip(converted) {
        let old = &objects[i];
        if new["apiVersion"] != version
            || new["kind"] != old["kind"]
            || new.uid() != old.uid()
            || new.name() != old.name()
        {
            let text = format!("the conversion webhook changed the identity of {}, or didn't convert it", old.name());
            return Err(Status::internal(text));
        }
        // Of the metadata, a webhook may change labels and annotations.
        let (labels, annotations) = (new["metadata"]["labels"].take(), new["metadata"]["annotations"].take());
        new["metadata"] = old["metadata"].clone();
        for (field, value) in [("labels", labels), ("annotations", annotations)] {
            if value.is_null() {
                new.meta_mut().remove(field);
                continue;
            }
            check_map(field, &value).map_err(|why| {
                Status::internal(format!(
                    "conversion webhook for {}, Kind={} returned invalid metadata: {why}",
                    kind.api_version(),
                    kind.kind
                ))
            })?;
            new.set_meta(field, value);
        }
        objects[i] = new;
    }
    Ok(objects)
}

/// What a webhook makes of labels and annotations is what anybody may make of them (upstream's `restoreObjectMeta`): no client could read
/// the object otherwise, nor any list that it is in.
fn check_map(field: &str, value: &Value) -> Result<(), String> {
    let Some(map) = value.as_object() else { return Err(format!("invalid metadata.{field} in converted object")) };
    for (key, value) in map {
        let Some(text) = value.as_str() else {
            return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
        };
        let name = if field == "labels" { key.clone() } else { key.to_ascii_lowercase() };
        names::qualified_name(&name).map_err(|why| format!("metadata.{field}: Invalid value: {key:?}: {why}"))?;
        if field == "labels" {
            names::label_value(text).map_err(|why| format!("metadata.labels: Invalid value: {text:?}: {why}"))?;
        }
    }
    Ok(())
}

async fn ask(server: &ApiServer, webhook: &Value, review: &Value) -> Result<Vec<Value>, String> {
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(30), egress::post(server, webhook, None, review)).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer came within 30s".into()))?;
    let response = &answer["response"];
    if response["uid"] != review["request"]["uid"] {
        return Err("its answer is to another request (the uid differs)".into());
    }
    match response.at(&["result", "status"]).as_str() {
        Some("Success") => Ok(response.array_at(&["convertedObjects"]).to_vec()),
        _ => Err(response.str_at(&["result", "message"]).to_string()),
    }
}

/// An object in the version of `kind`.
///
/// # Errors
/// 500 when the conversion webhook fails.
pub async fn object(server: &ApiServer, kind: &Kind, object: Value) -> Result<Value, Status> {
    // Also to the version that is stored: what admission saw in another one comes back.
    if object["apiVersion"] == kind.api_version().as_str() {
        return Ok(object);
    }
    let mut all = convert(server, kind, &kind.api_version(), vec![object]).await?;
    all.pop().ok_or_else(|| Status::internal("an object was lost in conversion"))
}

/// Bytes of objects of a list that are to be converted at a time. A webhook's answer is bounded, and a list isn't; and it shouldn't be asked for each
/// object.
pub fn batch_bytes(server: &ApiServer, kind: &Kind) -> usize {
    match server.catalog.definition(kind).is_some_and(|definition| definition.webhook.is_some()) {
        true => 1 << 20,
        false => PIECE,
    }
}

/// Stored objects in the version of `kind`.
///
/// # Errors
/// 500 when the conversion webhook fails.
pub async fn entries(server: &ApiServer, kind: &Kind, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Status> {
    if !kind.has_versions() {
        return Ok(entries);
    }
    let version = kind.api_version();
    if kind.custom && server.catalog.definition(kind).is_none_or(|d| d.webhook.is_none()) {
        return Ok(entries.into_iter().map(|e| e.in_version(&version)).collect());
    }
    let objects = convert(server, kind, &version, entries.iter().map(|e| e.parse()).collect()).await?;
    Ok(entries.iter().zip(objects).map(|(entry, object)| entry.with_content(&encode(&object))).collect())
}

/// The canonical form of an object in the version that is stored, and in that of the request.
///
/// # Errors
/// 413 when it is too large, 500 when the conversion webhook fails.
pub async fn encode_stored(server: &ApiServer, kind: &Kind, object: &mut Value) -> Result<(Bytes, Bytes), Status> {
    bounded::check_stored(object).map_err(|why| {
        let text = format!("Request entity too large: {} {:?} can't be stored: {why}", kind.kind, object.name());
        Status::new(413, "RequestEntityTooLarge", text)
    })?;
    let version = server.catalog.stored_version(kind);
    if object["apiVersion"] == version.as_str() {
        let canonical = encode(object);
        return Ok((canonical.clone(), canonical));
    }
    let answer = encode(object);
    let mut stored = convert(server, kind, &version, vec![object.clone()]).await?;
    Ok((encode(&stored.pop().unwrap_or_default()), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_annotations_of_a_conversion_are_texts_by_names() {
        for (field, value, is_fine) in [
            ("labels", json!({"a.b/c": "d", "e": ""}), true),
            ("labels", json!({"a": 5}), false),
            ("labels", json!({"a": null}), false),
            ("labels", json!({"a": "no label value"}), false),
            ("labels", json!({"not a name": "b"}), false),
            ("labels", json!([]), false),
            ("labels", json!("a"), false),
            ("annotations", json!({"a": "any text", "A/b": ""}), true),
            ("annotations", json!({"a": {}}), false),
            ("annotations", json!({"not a name": "b"}), false),
            ("annotations", json!(5), false),
        ] {
            assert_eq!(check_map(field, &value).is_ok(), is_fine, "{field} {value}");
        }
    }
}
