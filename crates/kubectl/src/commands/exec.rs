//! `exec` and `attach`, over WebSocket.

mod streams;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};
use serde_json::Value;

pub use self::streams::{Ended, Streams, discard, start, tell};
use super::{Command, run};
use crate::client::unreachable;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, common as f, switch, text};
use crate::select::{self, Target};
use crate::workload;

const FLAGS: &[Flag] = &[
    f::CONTAINER,
    f::POD_RUNNING_TIMEOUT,
    switch("stdin", "Pass standard input on").short('i'),
    switch("tty", "Standard input is a terminal").short('t'),
    switch("quiet", "Only what the container prints").short('q'),
    text("detach-keys", "Keys that leave the container: as ctrl-p,ctrl-q"),
];

pub const EXEC: Command = Command {
    name: "exec",
    about: "Execute a command in a container",
    flags: &[FLAGS, &[f::FILENAME]],
    run: run!(exec),
    ..Command::NONE
};
pub const ATTACH: Command = Command {
    name: "attach",
    about: "Attach to a running container",
    flags: &[FLAGS],
    run: run!(attach),
    ..Command::NONE
};

/// The pod that a word names: itself, or the one of a workload that runs.
///
/// # Errors
/// When there is none.
pub async fn pod(cx: &Context, word: &str) -> Result<Value> {
    let words = if word.contains('/') { vec![word.to_string()] } else { vec!["pods".to_string(), word.to_string()] };
    let selection = select::select(cx, &words).await?;
    let Some(target) = selection.targets.first() else { return fail("pod or type/name must be specified") };
    let object = cx.get(&target.path()).await?;
    if target.resource.is("", "pods") {
        return Ok(object);
    }
    let target = Target { object, ..target.clone() };
    let found = workload::pods_of(cx, &target).await?;
    workload::best(found)
        .ok_or_else(|| Error::Message(format!("error: unable to find a running pod of {}", target.shown())))
}

async fn exec(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let Some(word) = args.words.first() else { return fail("pod, type/name or --filename must be specified") };
    let command = args.after_dash.clone().unwrap_or_default();
    if args.words.len() > 1 {
        return fail(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kubectl exec -h' for help and examples",
        );
    }
    if command.is_empty() {
        return fail("you must specify at least one command for the container");
    }
    let pod = pod(&cx, word).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if ["Succeeded", "Failed"].contains(&phase) {
        return fail(format!("cannot exec into a container in a completed pod; current phase is {phase}"));
    }
    into(&cx, &pod, Some(command)).await
}

async fn attach(cx: Arc<Context>) -> Result<()> {
    let Some(word) = cx.args.words.first() else { return fail("at least 1 argument is required for attach") };
    let pod = pod(&cx, word).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if ["Succeeded", "Failed"].contains(&phase) {
        return fail(format!("cannot attach a container in a completed pod; current phase is {phase}"));
    }
    into(&cx, &pod, None).await
}

/// The container of `-c`, or the one that is meant without it.
///
/// # Errors
/// When the pod has none of this name.
pub fn container(cx: &Context, pod: &Value) -> Result<String> {
    let named = cx.args.text("container");
    if named.is_empty() {
        let (chosen, note) = workload::default_container(pod);
        if let Some(note) = note.filter(|_| !cx.args.is("quiet")) {
            eprintln!("{note}");
        }
        return Ok(chosen.unwrap_or_default());
    }
    if !workload::container_names(pod).iter().any(|name| name == named) {
        return fail(format!("container {named} not found in pod {}", pod["metadata"]["name"].as_str().unwrap_or("")));
    }
    Ok(named.into())
}

/// Runs a command in a pod's container, or attaches to it.
///
/// # Errors
/// When it can't be reached; an exit code of its own is this program's.
pub async fn into(cx: &Context, pod: &Value, command: Option<Vec<String>>) -> Result<()> {
    let args = &cx.args;
    let (name, namespace) =
        (pod["metadata"]["name"].as_str().unwrap_or(""), pod["metadata"]["namespace"].as_str().unwrap_or(""));
    let container = container(cx, pod)?;
    use std::io::IsTerminal as _;
    let mut tty = args.is("tty");
    if tty && args.is("stdin") && !std::io::stdin().is_terminal() {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        tty = false;
    }
    let params =
        AttachParams::default().stdin(args.is("stdin")).stdout(true).stderr(!tty).tty(tty).container(container);
    let connection = cx.connection().await?;
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let raw = if tty && args.is("stdin") { Some(Raw::enter()) } else { None };
    let process = match command {
        Some(command) => api.exec(name, command, &params).await,
        None => api.attach(name, &params).await,
    };
    let process = process.map_err(|error| match &error {
        kube::Error::Api(status) => Error::Message(status.message.clone()),
        _ => unreachable(&error, &connection.host),
    })?;
    let ended = follow(process).await;
    drop(raw);
    ended.ok()
}

/// Passes bytes between this process and a container's until it ends.
async fn follow(mut process: AttachedProcess) -> Ended {
    let (stdout, stderr, input, status) = (process.stdout(), process.stderr(), process.stdin(), process.take_status());
    let feed = tasks::spawn("standard-input", async move {
        if let Some(mut input) = input {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
        }
    });
    let out = async {
        if let Some(mut from) = stdout {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::stdout()).await;
        }
    };
    let err = async {
        if let Some(mut from) = stderr {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::stderr()).await;
        }
    };
    tokio::join!(out, err);
    feed.abort();
    match status {
        // A server that says nothing at the end has nothing to complain of.
        Some(status) => status.await.map_or(Ended::Code(0), |status| Ended::of(Some(status))),
        None => Ended::Code(0),
    }
}

/// A terminal without its line editing; it is as before when this goes.
struct Raw(Option<String>);

impl Raw {
    fn enter() -> Self {
        let saved = stty(&["-g"]);
        stty(&["raw", "-echo"]);
        Raw(saved)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            stty(&[saved.trim()]);
        }
    }
}

/// The terminal's settings, by the program that every system has.
fn stty(arguments: &[&str]) -> Option<String> {
    let child = std::process::Command::new("stty")
        .args(arguments)
        .stdin(std::process::Stdio::inherit())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    let text = child.stdout.take().and_then(|out| bounded::text_of(out, 4096).ok());
    child.wait().ok()?;
    text
}
