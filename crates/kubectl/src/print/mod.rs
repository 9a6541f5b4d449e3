//! Objects as text, in the formats of `-o`.

pub mod columns;
pub mod gotemplate;
pub mod jsonpath;
pub mod kyaml;
pub mod sort;
pub mod table;
pub mod tabwriter;
pub mod yaml;

use std::io::Write as _;

use serde_json::Value;

use crate::error::{Error, Result, fail};
use crate::flags::Args;

/// Writes to standard output.
///
/// # Errors
/// When nobody reads it any more.
pub fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A line on standard output.
///
/// # Errors
/// When nobody reads it any more.
pub fn line(text: &str) -> Result<()> {
    say(&format!("{text}\n"))
}

/// Control characters of terminals must not come from objects.
pub fn escape(text: &str) -> String {
    text.replace('\u{1b}', "^[").replace('\r', "\\r")
}

/// JSON as Go writes it: what HTML knows is escaped.
pub fn go_json(value: &Value) -> String {
    html(&value.to_string())
}

/// The same with an indentation of four.
pub fn go_json_pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, formatter);
    if serde::Serialize::serialize(value, &mut writer).is_err() {
        return value.to_string();
    }
    html(&String::from_utf8_lossy(&out))
}

fn html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// A value as Go's `fmt` prints it.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        // Not deeper than what was parsed.
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// How objects are printed.
pub enum Printer {
    /// `kind/name` and what was done.
    Name,
    Json,
    Yaml,
    Kyaml,
    JsonPath(jsonpath::Template),
    GoTemplate(gotemplate::Template),
    Columns(columns::Columns),
}

const FORMATS: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,wide,yaml";
const FORMATS_WITHOUT_TABLE: &str =
    "go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,yaml";

impl Printer {
    /// The printer of `-o`; none for texts and tables.
    ///
    /// # Errors
    /// When the format isn't known, or its template is broken.
    pub fn of(args: &Args, tables: bool) -> Result<Option<Self>> {
        let output = args.text("output");
        let (format, template) = output.split_once('=').unwrap_or((output, ""));
        let template = if template.is_empty() { args.text("template") } else { template };
        let format = if format.is_empty() && !template.is_empty() { "go-template" } else { format };
        let file = || -> Result<String> {
            let text = bounded::text(template, bounded::MAX_OWN_FILE_BYTES);
            text.map_err(|error| Error::Message(format!("error reading --template {template}, {error}")))
        };
        let needs = |what: &str| -> Result<()> {
            if template.is_empty() {
                fail(format!("template format specified but no template given{what}"))
            } else {
                Ok(())
            }
        };
        let missing_ok = args.text("allow-missing-template-keys") != "false";
        let printer = match format {
            "" => return Ok(None),
            "wide" if tables => return Ok(None),
            "name" => Printer::Name,
            "json" => Printer::Json,
            "yaml" => Printer::Yaml,
            "kyaml" => Printer::Kyaml,
            "jsonpath" | "jsonpath-as-json" => {
                needs("")?;
                Printer::JsonPath(jsonpath::Template::parse(template, missing_ok, format == "jsonpath-as-json")?)
            }
            "jsonpath-file" => {
                needs("")?;
                Printer::JsonPath(jsonpath::Template::parse(file()?.trim_end_matches('\n'), missing_ok, false)?)
            }
            "go-template" | "template" => {
                needs("")?;
                Printer::GoTemplate(gotemplate::Template::parse(template, missing_ok)?)
            }
            "go-template-file" | "templatefile" => {
                needs("")?;
                Printer::GoTemplate(gotemplate::Template::parse(&file()?, missing_ok)?)
            }
            "custom-columns" if tables => Printer::Columns(columns::Columns::parse(template, args.is("no-headers"))?),
            "custom-columns-file" if tables => Printer::Columns(columns::Columns::of_file(&file()?)?),
            _ => {
                let formats = if tables { FORMATS } else { FORMATS_WITHOUT_TABLE };
                return fail(format!(
                    "unable to match a printer suitable for the output format {output:?}, allowed formats are: {formats}"
                ));
            }
        };
        Ok(Some(printer))
    }

    /// An object or a list as text. `first` is false for the second and further documents.
    ///
    /// # Errors
    /// When a template can't be filled in.
    pub fn text(&self, object: &Value, first: bool) -> Result<String> {
        Ok(match self {
            Printer::Name => names(object),
            Printer::Json => go_json_pretty(object) + "\n",
            Printer::Yaml => format!("{}{}", if first { "" } else { "---\n" }, yaml::write(object)),
            Printer::Kyaml => kyaml::write(object),
            Printer::JsonPath(template) => template.fill(object)?,
            Printer::GoTemplate(template) => template.fill(object)?,
            Printer::Columns(columns) => columns.text(object, first)?,
        })
    }
}

/// `kind.group/name` of an object, or of all in a list.
fn names(object: &Value) -> String {
    let one = [object.clone()];
    let all = object["items"].as_array().filter(|_| object["kind"].as_str().is_some_and(|k| k.ends_with("List")));
    all.map_or(&one[..], Vec::as_slice).iter().map(|object| format!("{}\n", name_of(object))).collect()
}

/// `deployment.apps/web`
pub fn name_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("<unknown>").to_ascii_lowercase();
    let name = object["metadata"]["name"].as_str().filter(|n| !n.is_empty()).unwrap_or("<unknown>");
    match object["apiVersion"].as_str().unwrap_or("").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// Removes what only `--show-managed-fields` shows.
pub fn hide_managed_fields(object: &mut Value) {
    let hide = |object: &mut Value| {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    };
    if object["metadata"].is_object() {
        hide(object);
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        if item.is_object() {
            hide(item);
        }
    }
}
