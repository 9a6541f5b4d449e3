//! `logs`

use std::sync::Arc;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::flags::{common as f, switch, text, text_or};
use crate::print::say;
use crate::select::{self, Selection, Target};
use crate::workload;
use bounded::line_async;

/// A longer line is told in pieces by the kubelet.
const MAX_LINE_BYTES: u64 = 16 << 20;

pub const COMMAND: Command = Command {
    name: "logs",
    about: "Print the logs for a container in a pod",
    flags: &[&[
        f::SELECTOR,
        f::CONTAINER,
        f::POD_RUNNING_TIMEOUT,
        switch("follow", "Until the container ends").short('f'),
        switch("all-containers", "Of all containers"),
        switch("all-pods", "Of all pods of a workload"),
        switch("prefix", "With the pod and container in front of lines"),
        switch("previous", "Of the container that ran before").short('p'),
        switch("timestamps", "With the time of lines"),
        switch("ignore-errors", "Go on where a log can't be had"),
        switch("insecure-skip-tls-verify-backend", "Don't check the kubelet's certificate"),
        text_or("tail", "-1", "The last lines; -1 is all, 10 with a selector"),
        text("since", "Of the last time, as 5m"),
        text("since-time", "After this time (RFC 3339)"),
        text("limit-bytes", "No more bytes"),
        text_or("max-log-requests", "5", "How many logs are followed at once"),
    ]],
    run: run!(logs),
    ..Command::NONE
};

/// A container's log.
struct Source {
    path: String,
    prefix: String,
}

async fn logs(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let selector = args.text("selector");
    if args.words.is_empty() && selector.is_empty() {
        return super::usage(
            &cx,
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
        );
    }
    if args.words.len() > 2 || !selector.is_empty() && !args.words.is_empty() {
        return fail(match selector {
            "" => {
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command"
            }
            _ => "only a selector (-l) or a POD name is allowed",
        });
    }
    if args.given("since") && args.given("since-time") {
        return fail("at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let pods = pods(&cx).await?;
    let mut container = args.text("container").to_string();
    if let Some(word) = args.words.get(1) {
        if !container.is_empty() {
            return fail("only one of -c or an inline [CONTAINER] arg is allowed");
        }
        container = word.clone();
    }
    let mut sources = Vec::new();
    for pod in &pods {
        for name in containers(&cx, pod, &container, pods.len() > 1)? {
            sources.push(Source {
                path: path(&cx, pod, &name)?,
                prefix: format!("[pod/{}/{name}] ", pod["metadata"]["name"].as_str().unwrap_or("")),
            });
        }
    }
    let most = args.number("max-log-requests")?;
    if args.is("follow") && sources.len() as i64 > most {
        return fail(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {most}, use --max-log-requests to increase the limit",
            sources.len()
        ));
    }
    if args.is("follow") {
        let streams = sources.iter().map(|source| copy(&cx, source));
        return all(futures::future::join_all(streams).await.into_iter().filter_map(Result::err).collect());
    }
    for source in &sources {
        match copy(&cx, source).await {
            Err(error) if args.is("ignore-errors") => say(&format!("error: {}\n", error.text()))?,
            other => other?,
        }
    }
    Ok(())
}

/// The pods of the command line: one, those of a selector, or those of a workload.
async fn pods(cx: &Context) -> Result<Vec<Value>> {
    let args = &cx.args;
    let namespace = cx.namespace()?;
    let selector = args.text("selector");
    if !selector.is_empty() {
        return workload::pods(cx, &namespace, selector).await;
    }
    let word = &args.words[0];
    let words = if word.contains('/') { vec![word.clone()] } else { vec!["pods".to_string(), word.clone()] };
    let named: Selection = select::select(cx, &words).await?;
    let Some(target) = named.targets.first() else { return fail("expected a resource") };
    let object = cx.get(&target.path()).await.map_err(|error| match error.reason() {
        "NotFound" => Error::Message(format!(
            "error from server (NotFound): {} in namespace {:?}",
            error.text(),
            target.namespace
        )),
        _ => error,
    })?;
    if target.resource.is("", "pods") {
        return Ok(vec![object]);
    }
    let target = Target { object, ..target.clone() };
    let found = workload::pods_of(cx, &target).await?;
    if args.is("all-pods") {
        return Ok(found);
    }
    let count = found.len();
    let first = workload::best(found).ok_or_else(|| Error::Message("timed out waiting for the condition".into()))?;
    if count > 1 {
        eprintln!("Found {count} pods, using pod/{}", first["metadata"]["name"].as_str().unwrap_or(""));
    }
    Ok(vec![first])
}

fn containers(cx: &Context, pod: &Value, wanted: &str, many: bool) -> Result<Vec<String>> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let all = workload::container_names(pod);
    if cx.args.is("all-containers") || cx.args.is("all-pods") && wanted.is_empty() && many {
        return Ok(all);
    }
    if !wanted.is_empty() {
        if !all.iter().any(|c| c == wanted) {
            return fail(format!("container {wanted} is not valid for pod {name} out of: {}", all.join(", ")));
        }
        return Ok(vec![wanted.into()]);
    }
    let (chosen, note) = workload::default_container(pod);
    if let Some(note) = note.filter(|_| !many) {
        eprintln!("{note}");
    }
    Ok(chosen.into_iter().collect())
}

fn path(cx: &Context, pod: &Value, container: &str) -> Result<String> {
    let args = &cx.args;
    let metadata = &pod["metadata"];
    let root = format!(
        "/api/v1/namespaces/{}/pods/{}/log",
        metadata["namespace"].as_str().unwrap_or(""),
        metadata["name"].as_str().unwrap_or("")
    );
    let mut call = Call::new("GET", &root).query("container", container);
    for (flag, parameter) in [
        ("follow", "follow"),
        ("previous", "previous"),
        ("timestamps", "timestamps"),
        ("insecure-skip-tls-verify-backend", "insecureSkipTLSVerifyBackend"),
    ] {
        if args.is(flag) {
            call = call.query(parameter, "true");
        }
    }
    let tail = args.number("tail")?;
    let tail = if !args.given("tail") && !args.text("selector").is_empty() && !args.is("follow") { 10 } else { tail };
    if tail >= 0 {
        call = call.query("tailLines", tail.to_string());
    }
    if args.given("since") {
        call = call.query("sinceSeconds", (args.duration("since")? / 1_000_000_000).max(1).to_string());
    }
    call = call.maybe("sinceTime", args.text("since-time")).maybe("limitBytes", args.text("limit-bytes"));
    Ok(call.target())
}

async fn copy(cx: &Context, source: &Source) -> Result<()> {
    let mut stream = cx.stream(Call::new("GET", &source.path).accept("application/json, */*")).await?;
    if cx.args.is("prefix") {
        while let Some(line) = line_async(&mut stream, MAX_LINE_BYTES).await? {
            say(&format!("{}{line}\n", source.prefix))?;
        }
        return Ok(());
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        std::io::Write::write_all(&mut out, &buffer[..count])?;
        std::io::Write::flush(&mut out)?;
    }
}
