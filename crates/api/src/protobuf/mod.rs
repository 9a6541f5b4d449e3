//! Objects of built-in kinds in protobuf, as client-go sends and asks for them (`application/vnd.kubernetes.protobuf`).
//!
//! The schema says what a field is, `schema/numbers.json.zst` (written by `xtask schema` from the `k8s-pb` crate) which
//! number it has. An object is a message in an envelope that names its kind, after a magic number.
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`.

#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod decode;
mod encode;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::{self, Type};
use crate::{KINDS, Kind, OLDER, kinds};

pub use decode::decode;
pub use encode::{event, item, item_size, list_head, object, object_message, status};

/// The media type of upstream's protobuf, in `Content-Type` and `Accept`.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 100;

static NUMBERS: &[u8] = include_bytes!("../../schema/numbers.json.zst");

/// What a field number stands for.
enum Field {
    /// A field in JSON.
    Named(String),
    /// A message whose fields stand in JSON beside the others, as Go embeds its type; the key of its numbers.
    Embedded(String),
}

/// The fields of a message by name, for writing.
#[derive(Default)]
struct Layout {
    fields: HashMap<String, (u32, &'static Type)>,
    embedded: Vec<(u32, Layout)>,
}

struct Numbers {
    /// By the name of a type, or `type/Embedded`.
    messages: HashMap<String, HashMap<u32, Field>>,
    layouts: HashMap<String, Layout>,
}

fn numbers() -> &'static Numbers {
    static CACHE: OnceLock<Numbers> = OnceLock::new();
    CACHE.get_or_init(|| {
        let text = zstd::decode_all(NUMBERS).unwrap_or_default();
        let raw: HashMap<String, HashMap<String, String>> = serde_json::from_slice(&text).unwrap_or_default();
        let field = |name: String| match name.strip_prefix('@') {
            Some(key) => Field::Embedded(key.into()),
            None => Field::Named(name),
        };
        let read = |fields: HashMap<String, String>| {
            fields.into_iter().filter_map(|(number, name)| Some((number.parse().ok()?, field(name)))).collect()
        };
        let messages: HashMap<String, HashMap<u32, Field>> = raw.into_iter().map(|(key, f)| (key, read(f))).collect();
        let types = messages.keys().filter(|key| !key.contains('/'));
        let layouts = types.map(|name| (name.clone(), layout(&messages, name, name))).collect();
        Numbers { messages, layouts }
    })
}

fn layout(messages: &HashMap<String, HashMap<u32, Field>>, name: &str, key: &str) -> Layout {
    let mut layout = Layout::default();
    let Some(Type::Object { fields, .. }) = schema::types().get(name) else { return layout };
    for (number, field) in messages.get(key).into_iter().flatten() {
        match field {
            Field::Named(wanted) => {
                if let Some((_, of)) = fields.iter().find(|(field, _)| field == wanted) {
                    layout.fields.insert(wanted.clone(), (*number, of));
                }
            }
            Field::Embedded(key) => layout.embedded.push((*number, self::layout(messages, name, key))),
        }
    }
    layout
}

/// Whether objects of a kind can be written as protobuf. Schemas in definitions have unions that the schema of this crate
/// doesn't tell apart; clients of that group use JSON.
pub fn speaks(kind: &Kind) -> bool {
    !kind.custom && kind != kinds::CUSTOM_RESOURCE_DEFINITIONS && numbers().layouts.contains_key(&kind.schema())
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn type_name(version: &str, kind: &str) -> Option<String> {
    if let Some(found) = KINDS.iter().chain(OLDER).find(|k| k.kind == kind && k.api_version() == version) {
        return Some(found.schema());
    }
    let name = match kind {
        "DeleteOptions" => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "Scale" => "io.k8s.api.autoscaling.v1.Scale",
        "Eviction" => "io.k8s.api.policy.v1.Eviction",
        "TokenRequest" => "io.k8s.api.authentication.v1.TokenRequest",
        _ => return None,
    };
    Some(name.into())
}
