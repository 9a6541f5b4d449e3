//! What commands that write have in common: dry runs, managers, and how they tell what they did.

use std::time::Duration;

use serde_json::Value;

use crate::client::Call;
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::print::{Printer, go_json, hide_managed_fields, line, name_of, say};
use crate::select::Target;

/// The annotation with what was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DryRun {
    No,
    Client,
    Server,
}

impl DryRun {
    /// # Errors
    /// When `--dry-run` says something else.
    pub fn of(cx: &Context) -> Result<Self> {
        match cx.args.text("dry-run") {
            "" | "none" => Ok(DryRun::No),
            "client" => Ok(DryRun::Client),
            "unchanged" => {
                eprintln!("W --dry-run is deprecated and can be replaced with --dry-run=client.");
                Ok(DryRun::Client)
            }
            "server" => Ok(DryRun::Server),
            other => fail(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\".")),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            DryRun::No => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }
}

/// Parameters of a write.
pub fn write<'a>(cx: &Context, call: Call<'a>, manager: &str) -> Result<Call<'a>> {
    let given = cx.args.text("field-manager");
    let call = call.maybe("fieldManager", if given.is_empty() { manager } else { given });
    Ok(if DryRun::of(cx)? == DryRun::Server { call.query("dryRun", "All") } else { call })
}

/// The server's validation of fields, as `--validate` asks.
///
/// # Errors
/// When it says something else.
pub fn validated<'a>(cx: &Context, call: Call<'a>) -> Result<Call<'a>> {
    let mode = match cx.args.text("validate") {
        "" | "strict" | "true" => "Strict",
        "warn" => "Warn",
        "ignore" | "false" => "Ignore",
        other => {
            return fail(format!(
                "invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"
            ));
        }
    };
    Ok(call.query("fieldValidation", mode))
}

/// Tells what was done to an object: in the format of `-o`, else as `kind/name done`.
///
/// # Errors
/// When the format isn't known.
pub fn told(cx: &Context, object: &Value, done: &str) -> Result<()> {
    let suffix = if cx.args.command == "patch" { "" } else { DryRun::of(cx)?.suffix() };
    match Printer::of(&cx.args, false)? {
        None => line(&format!("{} {done}{suffix}", name_of(object))),
        Some(printer) => {
            let mut object = object.clone();
            if !cx.args.is("show-managed-fields") {
                hide_managed_fields(&mut object);
            }
            say(&printer.text(&object, true)?)
        }
    }
}

/// Keeps an object's own text in its annotation.
pub fn keep_config(object: &mut Value) {
    let mut own = object.clone();
    if let Some(annotations) = own["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    if !own["metadata"]["annotations"].is_object() {
        own["metadata"]["annotations"] = Value::Object(Default::default());
    }
    let text = go_json(&own) + "\n";
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = Value::Object(Default::default());
    }
    object["metadata"]["annotations"][LAST_APPLIED] = text.into();
}

/// Objects of the selection, or of `-f` with `--local`, for a command that changes each.
///
/// # Errors
/// When nothing is selected; what isn't there is an error beside the others.
pub async fn targets(cx: &Context, words: &[String]) -> Result<(Vec<Target>, Vec<Error>)> {
    let selection = crate::select::select(cx, words).await?;
    let every = cx.args.is("all") || !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if !selection.lists.is_empty() && !every {
        return fail("resource(s) were provided, but no name was specified");
    }
    if cx.args.is("local") {
        return Ok((selection.targets, Vec::new()));
    }
    Ok(crate::select::load(cx, &selection).await)
}

/// Does something for each target; an error doesn't keep it from the others.
///
/// # Errors
/// All of them.
pub async fn each<'a, F>(
    targets: &'a [Target],
    mut errors: Vec<Error>,
    mut work: impl FnMut(&'a Target) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    for target in targets {
        if let Err(error) = work(target).await {
            errors.push(error);
        }
    }
    all(errors)
}

/// Splits words into types and pairs: a pair has `=` or ends in `-`.
pub fn pairs(words: &[String]) -> (Vec<String>, Vec<String>) {
    let first =
        words.iter().position(|w| w.contains('=') || (w.ends_with('-') && !w.is_empty())).unwrap_or(words.len());
    (words[..first].to_vec(), words[first..].to_vec())
}

/// Waits between two looks at an object.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// A `map` of `k=v,k=v`.
///
/// # Errors
/// When a part has no `=`.
pub fn label_map(text: &str) -> Result<Value> {
    let mut map = serde_json::Map::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else { return fail(format!("unexpected label format: {part}")) };
        map.insert(key.trim().into(), value.trim().into());
    }
    Ok(Value::Object(map))
}
