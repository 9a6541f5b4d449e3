//! `create configmap`, and what it has in common with `create secret generic`: keys of literals, files and environment files.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::super::{Command, run};
use super::{FLAGS, finish, name};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, many, switch};

pub const COMMAND: Command = Command {
    name: "configmap",
    aliases: &["cm"],
    about: "Create a config map from a local file, directory or literal value",
    flags: &[FLAGS, SOURCES],
    run: run!(create),
    ..Command::NONE
};

pub const SOURCES: &[Flag] = &[
    many("from-literal", "A key and its value: key=value"),
    many("from-file", "A file, or a directory of files: [key=]path"),
    many("from-env-file", "A file of lines key=value"),
    switch("append-hash", "Append a hash of the content to the name"),
];

async fn create(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in sources(&cx)? {
        match String::from_utf8(bytes) {
            Ok(text) => data.insert(key, text.into()),
            Err(error) => {
                binary.insert(key, base64::engine::general_purpose::STANDARD.encode(error.into_bytes()).into())
            }
        };
    }
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    if !data.is_empty() {
        map["data"] = Value::Object(data);
    }
    if !binary.is_empty() {
        map["binaryData"] = Value::Object(binary);
    }
    if cx.args.is("append-hash") {
        return fail("--append-hash isn't served by this kubectl");
    }
    finish(&cx, "configmaps", true, map).await
}

/// Keys and their bytes, of all flags.
///
/// # Errors
/// When one can't be read, isn't a key, or comes twice.
pub fn sources(cx: &Context) -> Result<Vec<(String, Vec<u8>)>> {
    let what = cx.args.command.split(' ').nth(1).unwrap_or("");
    let args = &cx.args;
    if !args.many("from-env-file").is_empty()
        && (!args.many("from-file").is_empty() || !args.many("from-literal").is_empty())
    {
        return fail("from-env-file cannot be combined with from-file or from-literal");
    }
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |key: String, bytes: Vec<u8>| -> Result<()> {
        let good = !key.is_empty()
            && key.len() <= 253
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && key != "."
            && key != "..";
        if !good {
            return fail(format!(
                "{key:?} is not a valid key name for a {}: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                if what == "configmap" { "ConfigMap" } else { "Secret" }
            ));
        }
        if all.iter().any(|(known, _)| *known == key) {
            return fail(format!(
                "cannot add key {key:?}, another key by that name already exists in Data for {} {:?}",
                if what == "configmap" { "ConfigMap" } else { "Secret" },
                cx.args.words.first().map_or("", String::as_str)
            ));
        }
        all.push((key, bytes));
        Ok(())
    };
    for file in args.many("from-file") {
        let (key, path) = match file.split_once('=') {
            Some((key, path)) => (Some(key.to_string()), path),
            None => (None, file.as_str()),
        };
        for (key, path) in files_of(key, path)? {
            let bytes = bounded::bytes(&path, bounded::MAX_OWN_FILE_BYTES)
                .map_err(|error| Error::Message(format!("error reading {}: {error}", path.display())))?;
            add(key, bytes)?;
        }
    }
    for literal in args.many("from-literal") {
        let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return fail(format!("invalid literal source {literal}, expected key=value"));
        };
        // Quotes that a shell left around the value.
        let quoted = |q: char| value.len() >= 2 && value.starts_with(q) && value.ends_with(q);
        let value = if quoted('"') || quoted('\'') { &value[1..value.len().saturating_sub(1)] } else { value };
        add(key.into(), value.into())?;
    }
    for file in args.many("from-env-file") {
        for (key, value) in environment(file)? {
            add(key, value)?;
        }
    }
    Ok(all)
}

/// The lines of a file: `KEY=VALUE`, or a variable of this process.
fn environment(file: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let text = bounded::text(file, bounded::MAX_OWN_FILE_BYTES);
    let text = text.map_err(|error| Error::Message(format!("error reading {file}: {error}")))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    let pairs =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| match line.split_once('=') {
            Some((key, value)) => (key.to_string(), value.into()),
            None => (line.to_string(), std::env::var(line).unwrap_or_default().into_bytes()),
        });
    Ok(pairs.collect())
}

fn files_of(key: Option<String>, path: &str) -> Result<Vec<(String, std::path::PathBuf)>> {
    let found = std::fs::metadata(path)
        .map_err(|_| Error::Message(format!("error reading {path}: no such file or directory")))?;
    if !found.is_dir() {
        let own = Path::new(path).file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        return Ok(vec![(key.unwrap_or(own), path.into())]);
    }
    if key.is_some() {
        return fail("cannot give a key name for a directory path");
    }
    let mut files: Vec<_> =
        std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_file()).collect();
    files.sort();
    Ok(files
        .into_iter()
        .map(|p| (p.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned()), p))
        .collect())
}
