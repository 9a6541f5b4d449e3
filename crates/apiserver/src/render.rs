//! Objects in the form that a client asks for: JSON, protobuf, a table, or metadata alone.

use apimachinery::ObjectExt as _;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use api::protobuf;

use crate::ApiServer;
use crate::registry::Printer;
use crate::request::ResourceRequest;
use crate::response::negotiation::Form;
use crate::response::{self, Body};

/// An answer that is one object.
pub fn one(server: &ApiServer, info: &ResourceRequest, form: Form, code: u16, bytes: Bytes) -> Response<Body> {
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
        Form::Partial(version) => partial(version, &object),
        Form::Table(version) => {
            let metadata = json!({"resourceVersion": object.resource_version()});
            table(server, info, version, &[object], metadata)
        }
        Form::Json => object,
    };
    response::json(code, &value)
}

/// Only the metadata of an object.
pub fn partial(version: &str, object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"]})
}

/// A table of objects; `includeObject` says what of each object comes along.
pub fn table(server: &ApiServer, info: &ResourceRequest, version: &str, objects: &[Value], metadata: Value) -> Value {
    table_by(&server.catalog.printer(info.kind), info, version, objects, metadata)
}

/// The same, by a printer that doesn't change.
pub fn table_by(printer: &Printer, info: &ResourceRequest, version: &str, objects: &[Value], metadata: Value) -> Value {
    let include = |object: &Value| match info.query.get("includeObject") {
        "Object" => object.clone(),
        "None" => Value::Null,
        _ => partial(version, object),
    };
    let mut table = printer.table(objects, include, metadata);
    table["apiVersion"] = version.into();
    table
}

/// A list of parsed objects. What has no protobuf is JSON.
pub fn objects_list(
    server: &ApiServer,
    info: &ResourceRequest,
    form: Form,
    objects: Vec<Value>,
    metadata: Value,
) -> Response<Body> {
    let value = match form {
        Form::Table(version) => table(server, info, version, &objects, metadata),
        Form::Partial(version) => {
            let items: Vec<Value> = objects.iter().map(|o| partial(version, o)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": metadata, "items": items})
        }
        Form::Json | Form::Protobuf => {
            let kind = info.kind;
            json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata,
                "items": objects})
        }
    };
    response::json(200, &value)
}
