//! `get`: tables that the server makes, or objects in a format.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Command, run, usage};
use crate::client::{self, Call, JSON};
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::flags::{Flag, common as f, list, switch, switched_on, text};
use crate::print::table::{self, Shown};
use crate::print::{Printer, hide_managed_fields, line, say, sort, tabwriter};
use crate::resources::Resource;
use crate::select::{self, Selection};

mod watch;

pub const COMMAND: Command =
    Command { name: "get", about: "Display one or many resources", flags: &[FLAGS], run: run!(get), ..Command::NONE };

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::SELECTOR,
    f::FIELD_SELECTOR,
    f::ALL_NAMESPACES,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::CHUNK_SIZE,
    f::SUBRESOURCE,
    switch("watch", "After the objects, show their changes").short('w'),
    switch("watch-only", "Show changes only"),
    switch("output-watch-events", "Show what happened to objects, too"),
    switch("ignore-not-found", "What isn't there is no error"),
    switch("no-headers", "Without the names of the columns"),
    switch("show-labels", "With all labels as the last column"),
    switch("show-kind", "With the type in front of names"),
    switched_on("server-print", "Tables are made by the server"),
    list("label-columns", "Labels that have a column").short('L'),
    text("sort-by", "Path of the field to sort by"),
    text("raw", "Path of the server whose answer is shown as it is"),
];

async fn get(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    validate(&cx)?;
    if !args.text("raw").is_empty() {
        return raw(&cx).await;
    }
    if args.words.is_empty() && args.many("filename").is_empty() && args.text("kustomize").is_empty() {
        eprintln!(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n"
        );
        return usage(
            &cx,
            "Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).",
        );
    }
    let printer = Printer::of(args, true)?;
    let selection = select::select(&cx, &args.words).await?;
    if !args.text("subresource").is_empty() && !selection.lists.is_empty() {
        return fail("subresource cannot be used when bulk resources are specified");
    }
    if args.is("watch") || args.is("watch-only") {
        return watch::watch(&cx, &selection, printer).await;
    }
    match printer {
        Some(printer) => objects(&cx, &selection, &printer).await,
        None => tables(&cx, &selection).await,
    }
}

fn validate(cx: &Context) -> Result<()> {
    let args = &cx.args;
    let output = args.text("output");
    if !args.text("raw").is_empty() {
        if !args.words.is_empty() {
            return fail("arguments may not be passed when --raw is specified");
        }
        if args.is("watch") || args.is("watch-only") || !args.text("selector").is_empty() {
            return fail(
                "--raw may not be specified with other flags that filter the server request or alter the output",
            );
        }
        if !output.is_empty() {
            return fail("--raw and --output are mutually exclusive");
        }
        return Ok(());
    }
    if args.is("show-labels") && !output.is_empty() && output != "wide" {
        return fail(format!("--show-labels option cannot be used with {output} printer"));
    }
    if !args.many("label-columns").is_empty() && output.starts_with("custom-columns") {
        return fail(format!("--label-columns option cannot be used with {output} printer"));
    }
    if args.is("output-watch-events") && !args.is("watch") && !args.is("watch-only") {
        return fail("--output-watch-events option can only be used with --watch or --watch-only");
    }
    Ok(())
}

async fn raw(cx: &Context) -> Result<()> {
    let path = cx.args.text("raw");
    if !path.starts_with('/') {
        return fail(format!("--raw must be a valid URL path: parse {path:?}: invalid URI for request"));
    }
    let answer = cx.send(Call::new("GET", path).accept("application/json, */*")).await?;
    let mut body = answer.into_body();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        let frame = frame.map_err(|error| Error::Message(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            std::io::Write::write_all(&mut std::io::stdout().lock(), data)?;
        }
    }
    Ok(())
}

fn shown(cx: &Context, resource: &Resource, with_kind: bool) -> Shown {
    let args = &cx.args;
    Shown {
        wide: args.text("output") == "wide",
        namespace: args.is("all-namespaces") && resource.namespaced,
        without_head: args.is("no-headers"),
        labels: args.is("show-labels"),
        label_columns: args.many("label-columns").to_vec(),
        prefix: if with_kind || args.is("show-kind") { format!("{}/", resource.qualified()) } else { String::new() },
        event: None,
    }
}

/// What is written between tables of several types.
struct Tables {
    last: Option<Arc<Resource>>,
    written: bool,
    pending: String,
}

impl Tables {
    fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            say(&tabwriter::format(&self.pending, tabwriter::TABLE, None))?;
            self.written = true;
            self.pending.clear();
        }
        Ok(())
    }
}

async fn tables(cx: &Context, selection: &Selection) -> Result<()> {
    let args = &cx.args;
    let mut errors = Vec::new();
    let mut out = Tables { last: None, written: false, pending: String::new() };
    let mut found: Vec<(Arc<Resource>, Value)> = Vec::new();
    for target in &selection.targets {
        let path = if args.text("subresource").is_empty() {
            target.path()
        } else {
            format!("{}/{}", target.path(), args.text("subresource"))
        };
        match cx.json(call(cx, &path)).await {
            Ok(answer) => found.push((target.resource.clone(), table::of_objects(answer))),
            Err(error) if args.is("ignore-not-found") && error.is_not_found() => {}
            Err(error) => errors.push(error),
        }
    }
    for resource in &selection.lists {
        if let Err(error) = pages(cx, resource, selection, &mut found).await {
            // A type that has nothing there isn't the fault of `all`.
            if !(args.is("ignore-not-found") && error.is_not_found()) {
                errors.push(error);
            }
        }
    }
    sorted(cx, &mut found)?;
    let with_kind = found.iter().any(|(resource, _)| *resource != found[0].0);
    let all_namespaced = found.iter().all(|(resource, _)| resource.namespaced) && !args.is("all-namespaces");
    for (resource, answer) in found {
        let shown = shown(cx, &resource, with_kind);
        let rows = answer["rows"].as_array().map_or(&[][..], Vec::as_slice);
        if rows.is_empty() {
            continue;
        }
        if out.last.as_ref() != Some(&resource) {
            out.flush()?;
            if out.last.is_some() && out.written && !shown.without_head {
                line("")?;
            }
            if !shown.without_head {
                out.pending = table::head(&answer, &shown);
            }
            out.last = Some(resource.clone());
        }
        for row in rows {
            out.pending.push_str(&table::row(&answer, row, &shown));
        }
    }
    out.flush()?;
    if !out.written && !args.is("ignore-not-found") && errors.is_empty() {
        match all_namespaced {
            true => eprintln!("No resources found in {} namespace.", cx.namespace()?),
            false => eprintln!("No resources found"),
        }
    }
    all(errors)
}

/// A request for tables.
fn call<'a>(cx: &Context, path: &'a str) -> Call<'a> {
    let accept = if cx.args.is("server-print") { table::ACCEPT } else { JSON };
    let call = Call::new("GET", path).accept(accept);
    if cx.args.text("sort-by").is_empty() { call } else { call.query("includeObject", "Object") }
}

/// The pages of a list. A page keeps no more of its objects than what columns need.
async fn pages(
    cx: &Context,
    resource: &Arc<Resource>,
    selection: &Selection,
    found: &mut Vec<(Arc<Resource>, Value)>,
) -> Result<()> {
    let sorts = !cx.args.text("sort-by").is_empty();
    let chunk = if sorts { 0 } else { cx.args.number("chunk-size")? };
    let limit = if chunk > 0 { chunk.to_string() } else { String::new() };
    let path = resource.path(&selection.namespace, "");
    let mut next = String::new();
    loop {
        let call = call(cx, &path)
            .maybe("labelSelector", &selection.selector)
            .maybe("fieldSelector", &selection.field_selector)
            .maybe("limit", &limit)
            .maybe("continue", &next);
        let mut page =
            table::of_objects(cx.json(call).await.map_err(|error| select::selected_by(error, resource, selection))?);
        next = page["metadata"]["continue"].as_str().unwrap_or("").into();
        if !sorts {
            for row in page["rows"].as_array_mut().into_iter().flatten() {
                let metadata = &row["object"]["metadata"];
                let kept = json!({"metadata": {"namespace": metadata["namespace"], "labels": metadata["labels"]}});
                row["object"] = kept;
            }
        }
        found.push((resource.clone(), page));
        if next.is_empty() {
            return Ok(());
        }
    }
}

/// Sorts the rows of all tables.
fn sorted(cx: &Context, found: &mut [(Arc<Resource>, Value)]) -> Result<()> {
    let by = cx.args.text("sort-by");
    if by.is_empty() {
        return Ok(());
    }
    let path = sort::path(by)?;
    for (_, table) in found.iter_mut() {
        let rows = table["rows"].as_array().cloned().unwrap_or_default();
        let objects: Vec<&Value> = rows.iter().map(|r| &r["object"]).collect();
        // Where no row has the field, upstream shows none.
        let places = sort::order(&objects, &path, by).unwrap_or_default();
        table["rows"] = places.into_iter().map(|at| rows[at].clone()).collect();
    }
    Ok(())
}

async fn objects(cx: &Context, selection: &Selection, printer: &Printer) -> Result<()> {
    let args = &cx.args;
    let mut errors = Vec::new();
    let mut found: Vec<Value> = Vec::new();
    let single = selection.single && selection.lists.is_empty();
    for target in &selection.targets {
        let path = if args.text("subresource").is_empty() {
            target.path()
        } else {
            format!("{}/{}", target.path(), args.text("subresource"))
        };
        match cx.get(&path).await {
            Ok(object) => found.push(object),
            Err(error) if args.is("ignore-not-found") && error.is_not_found() => {}
            Err(error) if single => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    for resource in &selection.lists {
        match select::list(cx, resource, selection, client::JSON).await {
            Ok(mut list) => {
                for mut object in list["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                    object["apiVersion"] = resource.api_version().into();
                    object["kind"] = resource.kind.clone().into();
                    found.push(object);
                }
            }
            Err(error) if args.is("ignore-not-found") && error.is_not_found() => {}
            Err(error) if selection.lists.len() == 1 => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() && args.is("ignore-not-found") {
        return all(errors);
    }
    if !args.text("sort-by").is_empty() {
        let by = args.text("sort-by");
        let places = sort::order(&found.iter().collect::<Vec<_>>(), &sort::path(by)?, by)?;
        found = places.into_iter().map(|at| found[at].clone()).collect();
    }
    let mut whole = match found.len() {
        1 if single => found.remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": found}),
    };
    if !args.is("show-managed-fields") {
        hide_managed_fields(&mut whole);
    }
    say(&printer.text(&whole, true)?)?;
    all(errors)
}
