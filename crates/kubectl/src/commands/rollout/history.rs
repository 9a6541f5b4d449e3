//! `rollout history` and `rollout undo`: revisions are replica sets of a deployment, and controller revisions of the others.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::common::{DryRun, each, targets, told, write};
use crate::client::{Call, JSON_PATCH, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Result, fail};
use crate::print::{Printer, say, tabwriter};
use crate::select::{self, Selection, Target};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";

/// A revision: its number, what it holds, why it was made.
struct Revision {
    number: i64,
    object: Value,
    cause: String,
}

async fn revisions(cx: &Context, target: &Target) -> Result<Vec<Revision>> {
    let is_deployment = target.resource.is("apps", "deployments");
    let plural = if is_deployment { "replicasets" } else { "controllerrevisions" };
    if !super::is_rolled(target) {
        return fail(format!("no history viewer has been implemented for {:?}", target.resource.kind));
    }
    let resource = cx.resources().await?.named("apps", plural)?;
    let selector = crate::print::table::label_text(&target.object["spec"]["selector"]["matchLabels"], ",");
    let selection = Selection { namespace: target.namespace.clone(), selector, ..Selection::default() };
    let found = select::list(cx, &resource, &selection, crate::client::JSON).await?;
    let uid = &target.object["metadata"]["uid"];
    let mut all = Vec::new();
    for object in found["items"].as_array().into_iter().flatten() {
        let owned = object["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|o| o["uid"] == *uid && o["controller"] == true);
        if !owned {
            continue;
        }
        let annotations = &object["metadata"]["annotations"];
        let number = if is_deployment {
            annotations[REVISION].as_str().and_then(|r| r.parse().ok())
        } else {
            object["revision"].as_i64()
        };
        let cause = annotations[CAUSE]
            .as_str()
            .or_else(|| object["data"]["metadata"]["annotations"][CAUSE].as_str())
            .unwrap_or("")
            .to_string();
        all.push(Revision { number: number.unwrap_or(0), object: object.clone(), cause });
    }
    all.sort_by_key(|r| r.number);
    Ok(all)
}

pub async fn history(cx: Arc<Context>) -> Result<()> {
    super::require(&cx)?;
    let revision = cx.args.number("revision")?;
    if revision < 0 {
        return fail(format!("revision must be a positive integer: {revision}"));
    }
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| show(&cx, target, revision)).await
}

async fn show(cx: &Context, target: &Target, wanted: i64) -> Result<()> {
    let all = revisions(cx, target).await?;
    let shown = target.shown();
    if wanted > 0 {
        let Some(found) = all.iter().find(|r| r.number == wanted) else {
            return fail("unable to find the specified revision");
        };
        if let Some(printer) = Printer::of(&cx.args, false)? {
            return say(&printer.text(&found.object, true)?);
        }
        let template = if found.object["spec"].is_object() {
            &found.object["spec"]["template"]
        } else {
            &found.object["data"]["spec"]["template"]
        };
        let text = crate::describe::pod_template(template);
        return say(&format!("{shown} with revision #{wanted}\n{text}\n"));
    }
    if let Some(printer) = Printer::of(&cx.args, false)? {
        for revision in &all {
            say(&printer.text(&revision.object, true)?)?;
        }
        return Ok(());
    }
    let mut text = String::from("REVISION\tCHANGE-CAUSE\n");
    for revision in &all {
        let cause = if revision.cause.is_empty() { "<none>" } else { &revision.cause };
        text += &format!("{}\t{cause}\n", revision.number);
    }
    say(&format!("{shown} \n{}\n", tabwriter::format(&text, tabwriter::DESCRIBE, None)))
}

pub async fn undo(cx: Arc<Context>) -> Result<()> {
    super::require(&cx)?;
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| undo_one(&cx, target)).await
}

async fn undo_one(cx: &Context, target: &Target) -> Result<()> {
    let wanted = cx.args.number("to-revision")?;
    if wanted < 0 {
        return fail("revision must be a positive integer: ".to_string() + &wanted.to_string());
    }
    if target.object["spec"]["paused"] == true {
        return fail(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again",
        );
    }
    let all = revisions(cx, target).await?;
    let found = if wanted > 0 {
        all.iter().find(|r| r.number == wanted)
    } else {
        all.len().checked_sub(2).and_then(|at| all.get(at))
    };
    let Some(found) = found else {
        return match wanted {
            0 => fail(format!("no rollout history found for {} {:?}", target.resource.singular, target.name)),
            _ => fail(format!("unable to find specified revision {wanted} in history")),
        };
    };
    let path = target.path();
    let done = "rolled back";
    let (patch, content_type) = if found.object["spec"].is_object() {
        let mut template = found.object["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        if template == target.object["spec"]["template"] {
            return told(
                cx,
                &target.object,
                &format!("skipped rollback (current template already matches revision {})", found.number),
            );
        }
        (json!([{"op": "replace", "path": "/spec/template", "value": template}]), JSON_PATCH)
    } else {
        (found.object["data"].clone(), STRATEGIC_PATCH)
    };
    if DryRun::of(cx)? == DryRun::Client {
        return told(cx, &target.object, done);
    }
    let call = write(cx, Call::new("PATCH", &path).content_type(content_type).body(&patch), "kubectl-rollout")?;
    let made = cx.json(call).await?;
    told(cx, &made, done)
}
