//! `config view|current-context|get-contexts|get-clusters|get-users|use-context|set-context|set-cluster|set-credentials|set|unset|delete-*|rename-context`:
//! the kubeconfig as a document, so that what this program doesn't know stays in it.

mod change;

use std::path::PathBuf;
use std::sync::Arc;

use apimachinery::yaml as reader;
use bounded::Limits;
use serde_json::{Value, json};

use super::{Command, run};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch, switched_on, text};
use crate::print::{Printer, line, say, tabwriter, yaml};

pub const COMMAND: Command = Command {
    name: "config",
    about: "Modify kubeconfig files",
    commands: &[
        &CURRENT,
        &change::DELETE_CLUSTER,
        &change::DELETE_CONTEXT,
        &change::DELETE_USER,
        &CLUSTERS,
        &CONTEXTS,
        &USERS,
        &change::RENAME_CONTEXT,
        &change::SET,
        &change::SET_CLUSTER,
        &change::SET_CONTEXT,
        &change::SET_CREDENTIALS,
        &change::UNSET,
        &change::USE_CONTEXT,
        &VIEW,
    ],
    ..Command::NONE
};

const CURRENT: Command =
    Command { name: "current-context", about: "Display the current-context", run: run!(current), ..Command::NONE };
const CLUSTERS: Command = Command {
    name: "get-clusters",
    about: "Display clusters defined in the kubeconfig",
    run: run!(names),
    ..Command::NONE
};
const USERS: Command =
    Command { name: "get-users", about: "Display users defined in the kubeconfig", run: run!(names), ..Command::NONE };
const CONTEXTS: Command = Command {
    name: "get-contexts",
    about: "Describe one or many contexts",
    flags: &[&[switch("no-headers", "Without the names of the columns"), text("output", "name").short('o')]],
    run: run!(contexts),
    ..Command::NONE
};
const VIEW: Command = Command {
    name: "view",
    about: "Display merged kubeconfig settings or a specified kubeconfig file",
    flags: &[&[
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        switched_on("merge", "Merge all files"),
        switch("raw", "With secrets and bytes"),
        switch("flatten", "With the content of files"),
        switch("minify", "Only what the current context uses"),
    ]],
    run: run!(view),
    ..Command::NONE
};

const LISTS: &[&str] = &["clusters", "contexts", "users"];

/// A kubeconfig without anything.
fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": [], "current-context": "", "preferences": {}})
}

/// One file; one that isn't there is empty.
fn read(path: &PathBuf) -> Result<Value> {
    let bytes = match bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(empty()),
        Err(error) => return fail(format!("error loading config file {:?}: {error}", path.display().to_string())),
    };
    let document = reader::first(&bytes, Limits::FILE).map_err(|error| {
        Error::Message(format!("error loading config file {:?}: {error}", path.display().to_string()))
    })?;
    let mut value = if document.value.is_object() { document.value } else { empty() };
    for list in LISTS {
        if !value[*list].is_array() {
            value[*list] = json!([]);
        }
    }
    Ok(value)
}

/// All files together: of each name the first counts.
fn merged(cx: &Context) -> Result<Value> {
    let mut whole = empty();
    for path in cx.kubeconfig_files() {
        if cx.args.given("kubeconfig") && !path.exists() {
            return fail(format!("stat {}: no such file or directory", path.display()));
        }
        let file = read(&path)?;
        for list in LISTS {
            for entry in file[*list].as_array().into_iter().flatten() {
                let known = whole[*list].as_array().is_some_and(|all| all.iter().any(|e| e["name"] == entry["name"]));
                if let Some(all) = whole[*list].as_array_mut().filter(|_| !known) {
                    all.push(entry.clone());
                }
            }
        }
        if whole["current-context"] == "" && file["current-context"].is_string() {
            whole["current-context"] = file["current-context"].clone();
        }
    }
    if !cx.args.text("context").is_empty() {
        whole["current-context"] = cx.args.text("context").into();
    }
    Ok(whole)
}

fn entry<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    config[list].as_array()?.iter().find(|e| e["name"] == name)
}

async fn current(cx: Arc<Context>) -> Result<()> {
    match merged(&cx)?["current-context"].as_str().unwrap_or("") {
        "" => fail("current-context is not set"),
        name => line(name),
    }
}

async fn names(cx: Arc<Context>) -> Result<()> {
    let list = if cx.args.command.ends_with("users") { "users" } else { "clusters" };
    let config = merged(&cx)?;
    let mut all: Vec<&str> = config[list].as_array().into_iter().flatten().filter_map(|e| e["name"].as_str()).collect();
    all.sort_unstable();
    line(&format!("NAME{}", all.iter().map(|n| format!("\n{n}")).collect::<String>()))
}

async fn contexts(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if !["", "name"].contains(&args.text("output")) {
        return fail(format!("output must be one of '' or 'name': {}", args.text("output")));
    }
    let config = merged(&cx)?;
    let mut all: Vec<&Value> = config["contexts"].as_array().into_iter().flatten().collect();
    all.sort_by_key(|c| c["name"].as_str().unwrap_or("").to_string());
    if !args.words.is_empty() {
        for word in &args.words {
            if entry(&config, "contexts", word).is_none() {
                return fail(format!("context {word} not found"));
            }
        }
        all.retain(|c| args.words.iter().any(|w| c["name"] == w.as_str()));
    }
    if args.text("output") == "name" {
        return say(&all.iter().map(|c| format!("{}\n", c["name"].as_str().unwrap_or(""))).collect::<String>());
    }
    let mut out =
        if args.is("no-headers") { String::new() } else { "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n".to_string() };
    for named in all {
        let text = |field: &str| named["context"][field].as_str().unwrap_or("");
        let mark = if named["name"] == config["current-context"] { "*" } else { "" };
        out += &format!(
            "{mark}\t{}\t{}\t{}\t{}\n",
            named["name"].as_str().unwrap_or(""),
            text("cluster"),
            text("user"),
            text("namespace")
        );
    }
    say(&tabwriter::format(&out, tabwriter::TABLE, None))
}

async fn view(cx: Arc<Context>) -> Result<()> {
    let mut config = merged(&cx)?;
    if cx.args.is("minify") {
        minify(&mut config)?;
    }
    if cx.args.is("flatten") {
        flatten(&mut config)?;
    }
    if !cx.args.is("raw") && !cx.args.is("flatten") {
        hide(&mut config);
    }
    if let Some(map) = config.as_object_mut() {
        map.remove("preferences");
        for list in LISTS {
            if map.get(*list).and_then(Value::as_array).is_some_and(Vec::is_empty) {
                map.insert((*list).into(), Value::Null);
            }
        }
    }
    match Printer::of(&cx.args, false)? {
        Some(printer) => say(&printer.text(&config, true)?),
        None => say(&yaml::write(&config)),
    }
}

/// Only what the current context uses.
fn minify(config: &mut Value) -> Result<()> {
    let current = config["current-context"].as_str().unwrap_or("").to_string();
    if current.is_empty() {
        return fail("current-context must exist in order to minify");
    }
    let Some(context) = entry(config, "contexts", &current).cloned() else {
        return fail(format!("cannot locate context {current}"));
    };
    for (list, name) in [
        ("contexts", &Value::from(current)),
        ("clusters", &context["context"]["cluster"]),
        ("users", &context["context"]["user"]),
    ] {
        if let Some(all) = config[list].as_array_mut() {
            all.retain(|e| e["name"] == *name);
        }
    }
    Ok(())
}

/// Files become their content.
fn flatten(config: &mut Value) -> Result<()> {
    use base64::Engine as _;
    for (list, inner, fields) in [
        ("clusters", "cluster", &["certificate-authority"][..]),
        ("users", "user", &["client-certificate", "client-key"][..]),
    ] {
        for named in config[list].as_array_mut().into_iter().flatten() {
            for field in fields {
                let Some(path) = named[inner][*field].as_str().map(String::from) else { continue };
                let bytes = bounded::bytes(&path, bounded::MAX_OWN_FILE_BYTES)?;
                named[inner][format!("{field}-data")] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
                if let Some(map) = named[inner].as_object_mut() {
                    map.remove(*field);
                }
            }
        }
    }
    Ok(())
}

/// Secrets are never shown, nor long bytes.
fn hide(config: &mut Value) {
    let replace = |map: &mut Value, field: &str, with: &str| {
        if map[field].is_string() {
            map[field] = with.into();
        }
    };
    for named in config["clusters"].as_array_mut().into_iter().flatten() {
        replace(&mut named["cluster"], "certificate-authority-data", "DATA+OMITTED");
    }
    for named in config["users"].as_array_mut().into_iter().flatten() {
        let user = &mut named["user"];
        replace(user, "client-certificate-data", "DATA+OMITTED");
        replace(user, "client-key-data", "DATA+OMITTED");
        replace(user, "token", "REDACTED");
        replace(user, "password", "REDACTED");
    }
}
