//! Get and list. The common case copies bytes and parses nothing.

use std::sync::Arc;

use apimachinery::{ObjectExt as _, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};
use store::ReadError;

use api::{Kind, protobuf};

use super::Form;
use crate::ApiServer;
use crate::cache::{Resource, store_key};
use crate::convert;
use crate::object::{Entry, Filter};
use crate::request::Info;
use crate::response::{self, Body};

pub fn resource(server: &ApiServer, kind: &Kind) -> Result<Arc<Resource>, Status> {
    server.cache.resource(kind).ok_or_else(Status::method_not_allowed)
}

pub async fn get(server: &ApiServer, info: &Info, form: Form) -> Result<Response<Body>, Status> {
    let entry = resource(server, info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?;
    if !info.kind.has_versions() {
        return Ok(one(server, info, form, 200, entry.bytes.clone()));
    }
    let converted = convert::entries(server, info.kind, vec![entry]).await?;
    let bytes = converted.first().map(|e| e.bytes.clone()).ok_or_else(|| info.not_found())?;
    Ok(one(server, info, form, 200, bytes))
}

/// An answer that is one object.
pub fn one(server: &ApiServer, info: &Info, form: Form, code: u16, bytes: Bytes) -> Response<Body> {
    if form == Form::Json {
        return response::json_bytes(code, bytes);
    }
    let object: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let value = match form {
        Form::Protobuf => {
            let (message, complete) = protobuf::object_message(info.kind, &object);
            return match complete {
                true => response::protobuf(code, protobuf::object(info.kind, &message)),
                false => response::json_bytes(code, bytes),
            };
        }
        Form::Partial => partial(&object),
        _ => {
            let metadata = json!({"resourceVersion": object.resource_version()});
            table(server, info, &[object], metadata)
        }
    };
    response::json(code, &value)
}

/// Only the metadata of an object.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A table of objects; `includeObject` says what of each object comes along.
pub fn table(server: &ApiServer, info: &Info, objects: &[Value], metadata: Value) -> Value {
    let include = match info.query.get("includeObject") {
        "Object" => |o: &Value| o.clone(),
        "None" => |_: &Value| Value::Null,
        _ => partial,
    };
    server.catalog.table(info.kind, objects, include, metadata)
}

/// Where a list goes on: the revision it is of, and the key to begin after.
struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let parse = || -> Option<Continue> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Continue { revision: value["rv"].as_u64()?, after: value["start"].as_str()?.into() })
        };
        parse().ok_or_else(|| Status::bad_request("continue key is not valid: it must be one that a list returned"))
    }
}

pub async fn list(server: &Arc<ApiServer>, info: &Info, form: Form) -> Result<Response<Body>, Status> {
    let resource = resource(server, info.kind)?;
    let filter = info.query.filter(info.kind, &info.path.namespace)?;
    let limit = info.query.number::<usize>("limit")?.unwrap_or(0);
    let token = info.query.get("continue");
    let wanted = wanted_revision(info)?;
    if let Some(newer) = wanted.not_older_than {
        wait_for(server, newer).await?;
    }
    let present = server.cache.revision();
    let plain = form == Form::Json && limit == 0 && token.is_empty() && wanted.exactly.is_none();
    if plain && filter.is_everything() && server.catalog.has_one_version(info.kind) {
        let items = resource.whole_list(join);
        let revision = present.max(resource.changed());
        return Ok(list_bytes(info.kind, revision, items, None));
    }
    let (mut items, revision, after) = if !token.is_empty() {
        let from = Continue::decode(token)?;
        (at_revision(server, info, &filter, from.revision).await?, from.revision, from.after)
    } else if let Some(exact) = wanted.exactly {
        (at_revision(server, info, &filter, exact).await?, exact, String::new())
    } else {
        let (items, changed) = resource.list(&filter);
        (items, present.max(changed), String::new())
    };
    if !after.is_empty() {
        let start = items.partition_point(|e| e.key.as_ref() <= after.as_str());
        items.drain(..start);
    }
    let mut more = None;
    if limit > 0 && items.len() > limit {
        let left = items.len() - limit;
        items.truncate(limit);
        let after = items.last().map(|e| e.key.to_string()).unwrap_or_default();
        more = Some((Continue { revision, after }.encode(), left));
    }
    let items = convert::entries(server, info.kind, items).await?;
    if form == Form::Protobuf && items.iter().all(|e| e.protobuf(info.kind).complete) {
        let more = more.as_ref().map(|(token, left)| (token.as_str(), *left));
        let messages = items.iter().map(|e| e.protobuf(info.kind).bytes.as_ref());
        return Ok(response::protobuf(200, protobuf::list(info.kind, revision, more, messages)));
    }
    if matches!(form, Form::Json | Form::Protobuf) {
        return Ok(list_bytes(info.kind, revision, join(&items), more));
    }
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some((token, left)) = more {
        metadata["continue"] = token.into();
        metadata["remainingItemCount"] = left.into();
    }
    let objects: Vec<Value> = items.iter().map(|e| e.parse()).collect();
    let value = match form {
        Form::Table => table(server, info, &objects, metadata),
        _ => {
            let items: Vec<Value> = objects.iter().map(partial).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                   "metadata": metadata, "items": items})
        }
    };
    Ok(response::json(200, &value))
}

#[derive(Default)]
struct Wanted {
    exactly: Option<u64>,
    not_older_than: Option<u64>,
}

/// `resourceVersion` and `resourceVersionMatch` of a list.
fn wanted_revision(info: &Info) -> Result<Wanted, Status> {
    let revision = info.query.number::<u64>("resourceVersion")?;
    let exact = match info.query.get("resourceVersionMatch") {
        "" => info.query.number::<usize>("limit")?.unwrap_or(0) > 0 && revision.is_some_and(|r| r > 0),
        "Exact" => true,
        "NotOlderThan" => false,
        other => {
            let text = format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            );
            return Err(Status::bad_request(text));
        }
    };
    Ok(match revision {
        Some(r) if exact => Wanted { exactly: Some(r), not_older_than: None },
        Some(r) if r > 0 => Wanted { exactly: None, not_older_than: Some(r) },
        _ => Wanted::default(),
    })
}

/// Waits a little for a revision that a client has seen elsewhere.
async fn wait_for(server: &ApiServer, revision: u64) -> Result<(), Status> {
    let reached = tokio::time::timeout(std::time::Duration::from_secs(3), server.cache.reached(revision)).await;
    reached.map_err(|_| {
        let text = format!("Too large resource version: {revision}, current: {}", server.cache.revision());
        Status::new(504, "Timeout", text)
    })
}

/// The matching objects as of `revision`: from the cache while nothing changed since, else from the store's history.
async fn at_revision(
    server: &ApiServer,
    info: &Info,
    filter: &Filter,
    revision: u64,
) -> Result<Vec<Arc<Entry>>, Status> {
    let resource = resource(server, info.kind)?;
    let (items, changed) = resource.list(filter);
    if changed <= revision {
        wait_for(server, revision).await?;
        return Ok(items);
    }
    let prefix = store_key(info.kind, "");
    let past = server.store.list_at(&prefix, revision).await.map_err(|error| match error {
        ReadError::Compacted { .. } => Status::gone(format!(
            "The provided continue parameter is too old to display a consistent list result: {error}. \
             You must start a new list without the continue parameter."
        )),
        other => Status::internal(other),
    })?;
    let entries = past.into_iter().map(|kv| {
        let key = kv.key.strip_prefix(prefix.as_str()).unwrap_or(&kv.key).into();
        Arc::new(Entry::new(info.kind, key, &kv.value, kv.revision))
    });
    Ok(entries.filter(|e| filter.matches(info.kind, e)).collect())
}

/// The objects with commas in between.
fn join(items: &[Arc<Entry>]) -> Bytes {
    let size = items.iter().map(|e| e.bytes.len() + 1).sum();
    let mut out = BytesMut::with_capacity(size);
    for (i, entry) in items.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&entry.bytes);
    }
    out.freeze()
}

fn list_bytes(kind: &Kind, revision: u64, items: Bytes, more: Option<(String, usize)>) -> Response<Body> {
    let more =
        more.map_or(String::new(), |(token, left)| format!(",\"continue\":\"{token}\",\"remainingItemCount\":{left}"));
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"{more}}},\"items\":[",
        kind.kind,
        kind.api_version()
    );
    let parts = [Bytes::from(head), items, Bytes::from_static(b"]}\n")];
    response::json_stream(futures::stream::iter(parts))
}
