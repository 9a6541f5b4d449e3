//! `get --watch`: changes as they come.

use std::sync::Arc;

use bounded::line_async;
use serde_json::{Value, json};

use super::{Selection, call, shown, table};
use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::print::{Printer, hide_managed_fields, say, tabwriter};
use crate::resources::Resource;

/// A change has no more bytes.
const MAX_EVENT_BYTES: u64 = 64 << 20;

/// Prints what is there, then changes.
pub async fn watch(cx: &Context, selection: &Selection, printer: Option<Printer>) -> Result<()> {
    let (resource, namespace, name) = watched(selection)?;
    let path = resource.path(&namespace, &name);
    let one =
        call(cx, &path).maybe("labelSelector", &selection.selector).maybe("fieldSelector", &selection.field_selector);
    let one = if printer.is_some() { one.accept(crate::client::JSON) } else { one };
    let first = match cx.json(one).await {
        Ok(first) => first,
        Err(error) if cx.args.is("ignore-not-found") && error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    let version = first["metadata"]["resourceVersion"].as_str().unwrap_or("").to_string();
    let mut out = Output {
        cx,
        printer,
        shown: shown(cx, &resource, false),
        widths: Vec::new(),
        columns: Value::Null,
        first: true,
    };
    if cx.args.is("output-watch-events") {
        out.shown.event = Some("ADDED".into());
    }
    if !cx.args.is("watch-only") {
        out.show("ADDED", first)?;
    }
    // An object is watched from where it was seen; a list from its own version.
    let list = resource.path(&namespace, "");
    let field = if name.is_empty() { selection.field_selector.clone() } else { format!("metadata.name={name}") };
    let mut changes = Call::new("GET", &list)
        .query("watch", "true")
        .query("resourceVersion", version)
        .maybe("labelSelector", &selection.selector)
        .maybe("fieldSelector", &field);
    if out.printer.is_none() && cx.args.is("server-print") {
        changes = changes.accept(table::ACCEPT);
    }
    let mut stream = cx.stream(changes).await?;
    loop {
        let Some(line) = line_async(&mut stream, MAX_EVENT_BYTES).await? else { return Ok(()) };
        let event: Value = serde_json::from_str(&line)?;
        let kind = event["type"].as_str().unwrap_or("").to_string();
        match kind.as_str() {
            "BOOKMARK" => {}
            "ERROR" => {
                return Err(Error::Status(
                    Box::new(event["object"].clone()),
                    "unable to decode an event from the watch stream: ".into(),
                ));
            }
            _ => out.show(&kind, event["object"].clone())?,
        }
    }
}

/// The one type that is watched, where, and the object if it is one.
fn watched(selection: &Selection) -> Result<(Arc<Resource>, String, String)> {
    let types = selection.lists.len().saturating_add(selection.targets.len());
    if selection.from_files && types > 1 || selection.lists.len() > 1 {
        return fail("you may only specify a single resource type");
    }
    if types != 1 {
        return fail("watch is only supported on individual resources and resource collections");
    }
    let (resource, name) = match (selection.targets.first(), selection.lists.first()) {
        (Some(target), _) => (target.resource.clone(), target.name.clone()),
        (None, Some(list)) => (list.clone(), String::new()),
        (None, None) => return fail("nothing was selected"),
    };
    let namespace = selection.targets.first().map_or(&selection.namespace, |t| &t.namespace).clone();
    Ok((resource, namespace, name))
}

struct Output<'a> {
    cx: &'a Context,
    printer: Option<Printer>,
    shown: table::Shown,
    widths: Vec<usize>,
    columns: Value,
    first: bool,
}

impl Output<'_> {
    fn show(&mut self, kind: &str, mut answer: Value) -> Result<()> {
        let Some(printer) = &self.printer else { return self.rows(kind, table::of_objects(answer)) };
        if !self.cx.args.is("show-managed-fields") {
            hide_managed_fields(&mut answer);
        }
        let items = match answer["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![answer],
        };
        for item in items {
            let item = if self.shown.event.is_some() { json!({"type": kind, "object": item}) } else { item };
            say(&printer.text(&item, self.first)?)?;
            self.first = false;
        }
        Ok(())
    }

    fn rows(&mut self, kind: &str, table: Value) -> Result<()> {
        if self.shown.event.is_some() {
            self.shown.event = Some(kind.into());
        }
        let rows = table["rows"].as_array().map_or(&[][..], Vec::as_slice);
        if rows.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        // Changes come without the columns after the first.
        if table["columnDefinitions"].as_array().is_some_and(|c| !c.is_empty()) {
            if self.columns.is_null() && !self.shown.without_head {
                text.push_str(&table::head(&table, &self.shown));
            }
            self.columns = table["columnDefinitions"].clone();
        }
        let with_columns = json!({"columnDefinitions": self.columns});
        for row in rows {
            text.push_str(&table::row(&with_columns, row, &self.shown));
        }
        say(&tabwriter::format(&text, tabwriter::TABLE, Some(&mut self.widths)))
    }
}
