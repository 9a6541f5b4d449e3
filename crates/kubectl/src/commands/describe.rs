//! `describe`

use std::sync::Arc;

use super::{Command, run};
use crate::context::Context;
use crate::describe::describe as text_of;
use crate::error::{Result, all, fail};
use crate::flags::{common as f, switched_on};
use crate::print::say;
use crate::select::{self, Selection, Target};

pub const COMMAND: Command = Command {
    name: "describe",
    about: "Show details of a specific resource or group of resources",
    flags: &[&[
        f::SELECTOR,
        f::ALL_NAMESPACES,
        f::FILENAME,
        f::KUSTOMIZE,
        f::RECURSIVE,
        f::CHUNK_SIZE,
        switched_on("show-events", "With events"),
    ]],
    run: run!(describe),
    ..Command::NONE
};

async fn describe(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if args.words.is_empty() && args.many("filename").is_empty() && args.text("kustomize").is_empty() {
        return fail(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.",
        );
    }
    let selection = select::select(&cx, &args.words).await?;
    let (mut found, mut errors) = select::load(&cx, &selection).await;
    let mut exact = true;
    // A name that isn't there may be the begin of others.
    if errors.len() == 1
        && errors[0].is_not_found()
        && selection.targets.len() == 1
        && found.is_empty()
        && !selection.from_files
    {
        let more = by_prefix(&cx, &selection.targets[0]).await?;
        if !more.is_empty() {
            (found, errors, exact) = (more, Vec::new(), false);
        }
    }
    // Of several objects events are shown if they are asked for.
    let show_events = args.is("show-events") && (args.given("show-events") || found.len() == 1 && exact);
    let mut first = true;
    for target in &found {
        match text_of(&cx, target, show_events).await {
            Ok(text) => {
                say(&if first { text } else { format!("\n\n{text}") })?;
                first = false;
            }
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() && errors.is_empty() {
        match selection.namespace.as_str() {
            "" => eprintln!("No resources found"),
            namespace if selection.lists.iter().all(|r| r.namespaced) => {
                eprintln!("No resources found in {namespace} namespace.")
            }
            _ => eprintln!("No resources found"),
        }
    }
    all(errors)
}

async fn by_prefix(cx: &Context, target: &Target) -> Result<Vec<Target>> {
    let selection =
        Selection { lists: vec![target.resource.clone()], namespace: target.namespace.clone(), ..Selection::default() };
    let (found, errors) = select::load(cx, &selection).await;
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    Ok(found.into_iter().filter(|t| t.name.starts_with(&target.name)).collect())
}
