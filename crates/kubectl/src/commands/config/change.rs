//! Changes of the kubeconfig: of the file that has the entry, else of the first.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::super::{Command, run, usage};
use super::{entry, merged, read};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{switch, text};
use crate::print::{line, yaml};

pub const USE_CONTEXT: Command = Command {
    name: "use-context",
    aliases: &["use"],
    about: "Set the current-context in a kubeconfig file",
    run: run!(use_context),
    ..Command::NONE
};
pub const SET_CONTEXT: Command = Command {
    name: "set-context",
    about: "Set a context entry in kubeconfig",
    flags: &[&[switch("current", "The current context")]],
    run: run!(set_context),
    ..Command::NONE
};
pub const SET_CLUSTER: Command = Command {
    name: "set-cluster",
    about: "Set a cluster entry in kubeconfig",
    flags: &[&[switch("embed-certs", "Keep the content of files"), text("proxy-url", "Proxy")]],
    run: run!(set_cluster),
    ..Command::NONE
};
pub const SET_CREDENTIALS: Command = Command {
    name: "set-credentials",
    about: "Set a user entry in kubeconfig",
    flags: &[&[
        switch("embed-certs", "Keep the content of files"),
        text("exec-command", "Program that knows the credentials"),
        text("exec-api-version", "Version of its answers"),
    ]],
    run: run!(set_credentials),
    ..Command::NONE
};
pub const SET: Command =
    Command { name: "set", about: "Set an individual value in a kubeconfig file", run: run!(set), ..Command::NONE };
pub const UNSET: Command = Command {
    name: "unset",
    about: "Unset an individual value in a kubeconfig file",
    run: run!(unset),
    ..Command::NONE
};
pub const RENAME_CONTEXT: Command = Command {
    name: "rename-context",
    about: "Rename a context from the kubeconfig file",
    run: run!(rename),
    ..Command::NONE
};
pub const DELETE_CONTEXT: Command = Command {
    name: "delete-context",
    about: "Delete the specified context from the kubeconfig",
    run: run!(delete),
    ..Command::NONE
};
pub const DELETE_CLUSTER: Command = Command {
    name: "delete-cluster",
    about: "Delete the specified cluster from the kubeconfig",
    run: run!(delete),
    ..Command::NONE
};
pub const DELETE_USER: Command = Command {
    name: "delete-user",
    about: "Delete the specified user from the kubeconfig",
    run: run!(delete),
    ..Command::NONE
};

/// The file that is changed: the one that has the entry.
fn file_of(cx: &Context, list: &str, name: &str) -> Result<PathBuf> {
    let files = cx.kubeconfig_files();
    for path in &files {
        if entry(&read(path)?, list, name).is_some() {
            return Ok(path.clone());
        }
    }
    files.into_iter().next().ok_or_else(|| Error::Message("no kubeconfig file".into()))
}

/// Writes a kubeconfig whole, readable by its owner alone.
fn save(path: &PathBuf, config: &Value) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(yaml::write(config).as_bytes())?)
}

fn name(cx: &Context) -> Result<&str> {
    match &cx.args.words[..] {
        [name] => Ok(name),
        words => usage(cx, &format!("unexpected args: [{}]", words.join(" "))),
    }
}

async fn use_context(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    if entry(&merged(&cx)?, "contexts", name).is_none() {
        return fail(format!("no context exists with the name: {name:?}"));
    }
    let Some(path) = cx.kubeconfig_files().into_iter().next() else { return fail("no kubeconfig file") };
    let mut config = read(&path)?;
    config["current-context"] = name.into();
    save(&path, &config)?;
    line(&format!("Switched to context {name:?}."))
}

/// Sets members of an entry, which is made where there is none; returns whether it was there.
fn put(cx: &Context, list: &str, inner: &str, name: &str, members: Map<String, Value>) -> Result<bool> {
    let path = file_of(cx, list, name)?;
    let mut config = read(&path)?;
    let Some(all) = config[list].as_array_mut() else { return fail("the kubeconfig is broken") };
    let existed = all.iter().any(|e| e["name"] == name);
    if !existed {
        all.push(json!({"name": name, inner: {}}));
    }
    if let Some(found) = all.iter_mut().find(|e| e["name"] == name) {
        for (key, value) in members {
            found[inner][key] = value;
        }
    }
    all.sort_by_key(|e| e["name"].as_str().unwrap_or("").to_string());
    save(&path, &config)?;
    Ok(existed)
}

/// Flags that were given, by the names of their members.
fn given(cx: &Context, flags: &[(&str, &str)]) -> Map<String, Value> {
    let set = flags.iter().filter(|(flag, _)| cx.args.given(flag));
    set.map(|(flag, member)| ((*member).to_string(), Value::from(cx.args.text(flag)))).collect()
}

async fn set_context(cx: Arc<Context>) -> Result<()> {
    let current = merged(&cx)?["current-context"].as_str().unwrap_or("").to_string();
    let name = match (&cx.args.words[..], cx.args.is("current")) {
        ([name], false) => name.clone(),
        ([], true) if current.is_empty() => return fail("no current context is set"),
        ([], true) => current,
        _ => return fail("you must specify a non-empty context name or --current"),
    };
    let members = given(&cx, &[("cluster", "cluster"), ("user", "user"), ("namespace", "namespace")]);
    let existed = put(&cx, "contexts", "context", &name, members)?;
    line(&format!("Context {name:?} {}.", if existed { "modified" } else { "created" }))
}

/// A file's path, or its content with `--embed-certs`.
fn files(cx: &Context, members: &mut Map<String, Value>, flags: &[&str]) -> Result<()> {
    for flag in flags.iter().filter(|flag| cx.args.given(flag)) {
        let path = cx.args.text(flag);
        if cx.args.is("embed-certs") {
            let bytes = bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES)
                .map_err(|error| Error::Message(format!("could not read {flag} data from {path}: {error}")))?;
            members.insert(format!("{flag}-data"), base64::engine::general_purpose::STANDARD.encode(bytes).into());
        } else {
            members.insert((*flag).into(), std::path::absolute(path)?.display().to_string().into());
        }
    }
    Ok(())
}

async fn set_cluster(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let mut members =
        given(&cx, &[("server", "server"), ("tls-server-name", "tls-server-name"), ("proxy-url", "proxy-url")]);
    files(&cx, &mut members, &["certificate-authority"])?;
    if cx.args.given("insecure-skip-tls-verify") {
        members.insert("insecure-skip-tls-verify".into(), cx.args.is("insecure-skip-tls-verify").into());
    }
    put(&cx, "clusters", "cluster", name, members)?;
    line(&format!("Cluster {name:?} set."))
}

async fn set_credentials(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let mut members = given(&cx, &[("token", "token"), ("username", "username"), ("password", "password")]);
    files(&cx, &mut members, &["client-certificate", "client-key"])?;
    if cx.args.given("exec-command") {
        members.insert("exec".into(), json!({"command": cx.args.text("exec-command"), "apiVersion": cx.args.text("exec-api-version"), "args": null, "env": null, "interactiveMode": "IfAvailable", "provideClusterInfo": false}));
    }
    put(&cx, "users", "user", name, members)?;
    line(&format!("User {name:?} set."))
}

/// The list, the entry's name and the member of `clusters.NAME.server`.
fn property(path: &str) -> Result<(String, String, Vec<String>)> {
    let parts: Vec<&str> = path.split('.').collect();
    match parts.as_slice() {
        ["current-context"] => Ok(("current-context".into(), String::new(), Vec::new())),
        [list, name, rest @ ..] if super::LISTS.contains(list) => {
            Ok(((*list).into(), (*name).into(), rest.iter().map(|s| (*s).to_string()).collect()))
        }
        _ => fail(format!(
            "unknown property {path:?}: it is current-context, or begins with clusters, contexts or users and a name"
        )),
    }
}

async fn set(cx: Arc<Context>) -> Result<()> {
    let [path, value] = &cx.args.words[..] else {
        return usage(&cx, &format!("unexpected args: [{}]", cx.args.words.join(" ")));
    };
    let (list, name, rest) = property(path)?;
    if list == "current-context" {
        let Some(file) = cx.kubeconfig_files().into_iter().next() else { return fail("no kubeconfig file") };
        let mut config = read(&file)?;
        config["current-context"] = value.clone().into();
        save(&file, &config)?;
    } else {
        let [member] = &rest[..] else { return fail(format!("property {path:?} names no member")) };
        let inner = list.trim_end_matches('s').to_string();
        let value = match value.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            text => Value::from(text),
        };
        put(&cx, &list, &inner, &name, Map::from_iter([(member.clone(), value)]))?;
    }
    line(&format!("Property {path:?} set."))
}

async fn unset(cx: Arc<Context>) -> Result<()> {
    let path = name(&cx)?;
    let (list, name, rest) = property(path)?;
    let file = file_of(&cx, &list, &name)?;
    let mut config = read(&file)?;
    if list == "current-context" {
        config["current-context"] = "".into();
    } else if let Some(all) = config[&list].as_array_mut() {
        match rest.first() {
            None => all.retain(|e| e["name"] != name.as_str()),
            Some(member) => {
                let inner = list.trim_end_matches('s');
                for found in all.iter_mut().filter(|e| e["name"] == name.as_str()) {
                    if let Some(map) = found[inner].as_object_mut() {
                        map.remove(member);
                    }
                }
            }
        }
    }
    save(&file, &config)?;
    line(&format!("Property {path:?} unset."))
}

async fn rename(cx: Arc<Context>) -> Result<()> {
    let [old, new] = &cx.args.words[..] else {
        return usage(&cx, &format!("unexpected args: [{}]", cx.args.words.join(" ")));
    };
    let whole = merged(&cx)?;
    if entry(&whole, "contexts", old).is_none() {
        return fail(format!(
            "cannot rename the context {old:?}, it's not in {}",
            cx.kubeconfig_files().first().map_or(String::new(), |p| p.display().to_string())
        ));
    }
    if entry(&whole, "contexts", new).is_some() {
        return fail(format!(
            "cannot rename the context {old:?}, the context {new:?} already exists in {}",
            cx.kubeconfig_files().first().map_or(String::new(), |p| p.display().to_string())
        ));
    }
    let file = file_of(&cx, "contexts", old)?;
    let mut config = read(&file)?;
    for found in config["contexts"].as_array_mut().into_iter().flatten().filter(|e| e["name"] == old.as_str()) {
        found["name"] = new.clone().into();
    }
    if config["current-context"] == old.as_str() {
        config["current-context"] = new.clone().into();
    }
    save(&file, &config)?;
    line(&format!("Context {old:?} renamed to {new:?}."))
}

async fn delete(cx: Arc<Context>) -> Result<()> {
    let name = name(&cx)?;
    let what = cx.args.command.rsplit('-').next().unwrap_or("");
    let list = format!("{what}s");
    let file = file_of(&cx, &list, name)?;
    let mut config = read(&file)?;
    if entry(&config, &list, name).is_none() {
        return fail(format!("cannot delete {what} {name}, not in {}", file.display()));
    }
    if what == "context" && config["current-context"] == name {
        eprintln!(
            "warning: this removed your active context, use \"kubectl config use-context\" to select a different one"
        );
    }
    if let Some(all) = config[&list].as_array_mut() {
        all.retain(|e| e["name"] != name);
    }
    save(&file, &config)?;
    line(&format!("deleted {what} {name} from {}", file.display()))
}
