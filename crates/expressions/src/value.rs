//! Between JSON and the language's values.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cel::Value as CelValue;
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional, CelString,
    CelTimestamp, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

type Boxed<'v> = Box<dyn Val + 'v>;

/// Words that CEL reserves.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

const ESCAPES: [(&str, &str); 4] = [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// How a field with a name that is none in CEL is written there: `__dash__` for `-` and so on; `None` for names that
/// can't be written.
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if is_reserved(name) {
        return Some(format!("__{name}__").into());
    }
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_good) {
        return None;
    }
    if !name.contains("__") && !name.contains(['.', '-', '/']) {
        return Some(name.into());
    }
    // The first one writes what the others would be taken for.
    Some(ESCAPES.iter().fold(name.to_string(), |name, (text, escape)| name.replace(text, escape)).into())
}

/// The opposite of [`escape`].
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && is_reserved(word)
    {
        return word.into();
    }
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(next) = rest.chars().next() {
        let escape = ESCAPES.iter().find_map(|(text, escape)| Some((*text, rest.strip_prefix(escape)?)));
        let (text, after) = escape.unwrap_or_else(|| rest.split_at(next.len_utf8()));
        plain.push_str(text);
        rest = after;
    }
    plain
}

fn number<'v>(n: &Number) -> Boxed<'v> {
    match (n.as_i64(), n.as_u64()) {
        (Some(i), _) => Box::new(CelInt::from(i)),
        (None, Some(u)) => Box::new(CelUInt::from(u)),
        _ => Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN))),
    }
}

fn list<'v>(items: Vec<Boxed<'v>>) -> Boxed<'v> {
    Box::new(CelList::from(items))
}

fn map<'v>(members: HashMap<CelMapKey<'v>, Boxed<'v>>) -> Boxed<'v> {
    Box::new(CelMap::from(members))
}

/// A value as it stands.
pub fn untyped<'v>(value: &'v Value) -> Boxed<'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Number(n) => number(n),
        Value::String(s) => Box::new(CelString::from(s.as_str())),
        Value::Array(items) => list(items.iter().map(untyped).collect()),
        Value::Object(members) => map(members.iter().map(|(k, v)| (CelMapKey::from(k.as_str()), untyped(v))).collect()),
    }
}

/// A value with the types of its structural schema: numbers that are whole by chance stay numbers, texts with a format
/// become times and bytes, and names of fields are escaped.
pub fn typed<'v>(value: &'v Value, schema: &'v Value) -> Boxed<'v> {
    match value {
        Value::Number(n) if schema["type"] == "number" => Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) if schema["format"].is_string() => formatted(text, schema["format"].as_str().unwrap_or("")),
        Value::Array(items) if schema["items"].is_object() => {
            list(items.iter().map(|item| typed(item, &schema["items"])).collect())
        }
        Value::Object(members) if schema["properties"].is_object() || schema["additionalProperties"].is_object() => {
            object(members, schema)
        }
        other => untyped(other),
    }
}

fn object<'v>(members: &'v Map<String, Value>, schema: &'v Value) -> Boxed<'v> {
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let others = &schema["additionalProperties"];
    let mut values = HashMap::with_capacity(members.len());
    for (key, member) in members {
        if let Some(of) = schema["properties"].get(key) {
            let Some(name) = escape(key) else { continue };
            let make = || if key == "metadata" { metadata(member) } else { typed(member, of) };
            // Words that the language reserves may be written as they are, too.
            if is_reserved(key) {
                values.insert(CelMapKey::from(key.as_str()), make());
            }
            values.insert(CelMapKey::from(name.into_owned()), make());
        } else if others.is_object() {
            values.insert(CelMapKey::from(key.as_str()), typed(member, others));
        } else if keeps && let Some(name) = escape(key) {
            values.insert(CelMapKey::from(name.into_owned()), untyped(member));
        }
    }
    map(values)
}

/// Of an object's metadata, rules may see only its names.
fn metadata<'v>(value: &'v Value) -> Boxed<'v> {
    let seen =
        ["name", "generateName"].into_iter().filter_map(|key| Some((CelMapKey::from(key), untyped(value.get(key)?))));
    map(seen.collect())
}

fn formatted<'v>(text: &'v str, format: &str) -> Boxed<'v> {
    let plain = || -> Boxed<'v> { Box::new(CelString::from(text)) };
    match format {
        "byte" => STANDARD.decode(text).map_or_else(|_| plain(), |b| Box::new(CelBytes::from(b))),
        "date-time" => chrono::DateTime::parse_from_rfc3339(text)
            .map_or_else(|_| plain(), |time| Box::new(CelTimestamp::from(time))),
        "date" => text
            .parse::<chrono::NaiveDate>()
            .ok()
            .and_then(|d| d.and_hms_opt(0, 0, 0))
            .map_or_else(plain, |t| Box::new(CelTimestamp::from(t.and_utc().fixed_offset()))),
        "duration" => duration(text).map_or_else(plain, |d| Box::new(CelDuration::from(d))),
        _ => plain(),
    }
}

/// `1h30m`: Go's durations.
pub fn duration(text: &str) -> Option<chrono::Duration> {
    apimachinery::duration::parse(text).map(chrono::Duration::nanoseconds)
}

pub fn optional<'v>(value: Option<Boxed<'v>>) -> Boxed<'v> {
    Box::new(value.map_or_else(CelOptional::none, CelOptional::of))
}

/// What an expression made, as JSON.
pub fn to_json(value: &dyn Val) -> Result<Value, String> {
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return optional.option().map_or(Ok(Value::Null), to_json);
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.inner().iter().map(|v| to_json(v.as_ref())).collect::<Result<Vec<_>, _>>().map(Value::Array);
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut members = Map::new();
        for (key, member) in map.inner() {
            let CelMapKey::String(key) = key else { return Err("only texts can be the names of members".into()) };
            // An absent optional is an absent field.
            if member.downcast_ref::<CelOptional>().is_none_or(|o| o.option().is_some()) {
                members.insert(key.inner().to_string(), to_json(member.as_ref())?);
            }
        }
        return Ok(Value::Object(members));
    }
    if let Some(time) = value.downcast_ref::<CelTimestamp>() {
        return Ok(time.inner().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into());
    }
    if let Some(duration) = value.downcast_ref::<CelDuration>() {
        let seconds = duration.inner().num_milliseconds() as f64 / 1000.0;
        return Ok(format!("{seconds}s").into());
    }
    let simple = CelValue::try_from(value).map_err(|e| e.to_string())?;
    simple.json().map_err(|e| e.to_string())
}
