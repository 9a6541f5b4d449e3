//! `events`

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Command, run};
use crate::client::Call;
use crate::context::Context;
use crate::describe::interval;
use crate::error::{Result, fail};
use crate::flags::{common as f, list, switch, text};
use crate::print::{Printer, say, tabwriter};

pub const COMMAND: Command = Command {
    name: "events",
    about: "List events",
    flags: &[&[
        f::OUTPUT,
        f::TEMPLATE,
        f::ALLOW_MISSING,
        f::SHOW_MANAGED_FIELDS,
        f::ALL_NAMESPACES,
        f::CHUNK_SIZE,
        switch("watch", "After the events, show new ones").short('w'),
        text("for", "Of this object: TYPE/NAME"),
        list("types", "Of these types: Normal, Warning"),
        switch("no-headers", "Without the names of the columns"),
    ]],
    run: run!(events),
    ..Command::NONE
};

async fn events(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let fields = of(&cx).await?;
    for kind in args.many("types") {
        if !["normal", "warning"].contains(&kind.to_lowercase().as_str()) {
            return fail("valid --types are Normal or Warning");
        }
    }
    let namespace = if args.is("all-namespaces") { String::new() } else { cx.namespace()? };
    let path = if namespace.is_empty() {
        "/api/v1/events".to_string()
    } else {
        format!("/api/v1/namespaces/{namespace}/events")
    };
    let found = cx.json(Call::new("GET", &path).maybe("fieldSelector", &fields.join(","))).await?;
    let is_wanted = |event: &Value| {
        args.many("types").is_empty()
            || args.many("types").iter().any(|t| event["type"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(t)))
    };
    let mut all: Vec<Value> =
        found["items"].as_array().into_iter().flatten().filter(|e| is_wanted(e)).cloned().collect();
    all.sort_by(|a, b| time(a).cmp(time(b)));
    if let Some(printer) = Printer::of(args, false)? {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": all});
        return say(&printer.text(&list, true)?);
    }
    let version = found["metadata"]["resourceVersion"].as_str().unwrap_or("").to_string();
    if all.is_empty() && !args.is("watch") {
        match namespace.as_str() {
            "" => eprintln!("No events found."),
            namespace => eprintln!("No events found in {namespace} namespace."),
        }
        return Ok(());
    }
    let mut out = if args.is("no-headers") {
        String::new()
    } else {
        format!("{}LAST SEEN\tTYPE\tREASON\tOBJECT\tMESSAGE\n", if namespace.is_empty() { "NAMESPACE\t" } else { "" })
    };
    out.extend(all.iter().map(|event| row(event, namespace.is_empty())));
    let mut widths = Vec::new();
    say(&tabwriter::format(&out, tabwriter::TABLE, Some(&mut widths)))?;
    if !args.is("watch") {
        return Ok(());
    }
    let call = Call::new("GET", &path)
        .query("watch", "true")
        .query("resourceVersion", version)
        .maybe("fieldSelector", &fields.join(","));
    let mut stream = cx.stream(call).await?;
    while let Some(line) = bounded::line_async(&mut stream, 64 << 20).await? {
        let event: Value = serde_json::from_str(&line)?;
        if ["ADDED", "MODIFIED"].contains(&event["type"].as_str().unwrap_or("")) && is_wanted(&event["object"]) {
            say(&tabwriter::format(&row(&event["object"], namespace.is_empty()), tabwriter::TABLE, Some(&mut widths)))?;
        }
    }
    Ok(())
}

/// The fields of events that are of `--for`.
async fn of(cx: &Context) -> Result<Vec<String>> {
    if cx.args.text("for").is_empty() {
        return Ok(Vec::new());
    }
    let Some((kind, name)) = cx.args.text("for").split_once('/') else {
        return fail("--for must be in resource/name form");
    };
    let resource = cx.resources().await?.find(kind)?;
    let (kind, version) = (&resource.kind, resource.api_version());
    Ok(vec![
        format!("involvedObject.kind={kind}"),
        format!("involvedObject.apiVersion={version}"),
        format!("involvedObject.name={name}"),
    ])
}

fn time(event: &Value) -> &str {
    let text = |value: &'static str| event.pointer(value).and_then(Value::as_str).filter(|t| !t.is_empty());
    text("/series/lastObservedTime").or_else(|| text("/lastTimestamp")).or_else(|| text("/eventTime")).unwrap_or("")
}

fn row(event: &Value, with_namespace: bool) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_string();
    let namespace = if with_namespace { text(&event["metadata"]["namespace"]) + "\t" } else { String::new() };
    let object = &event["involvedObject"];
    format!(
        "{namespace}{}\t{}\t{}\t{}/{}\t{}\n",
        interval(event),
        text(&event["type"]),
        text(&event["reason"]),
        text(&object["kind"]),
        text(&object["name"]),
        text(&event["message"]).trim()
    )
}
