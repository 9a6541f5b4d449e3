//! `patch`

use std::sync::Arc;

use apimachinery::patch::{json_patch, merge_patch, strategic_merge};
use apimachinery::yaml;
use bounded::Limits;
use serde_json::Value;

use super::common::{DryRun, each, targets, told, write};
use super::{Command, run};
use crate::client::{Call, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{Flag, common as f, text, text_or};
use crate::select::Target;

pub const COMMAND: Command =
    Command { name: "patch", about: "Update fields of a resource", flags: &[FLAGS], run: run!(patch), ..Command::NONE };

const FLAGS: &[Flag] = &[
    f::OUTPUT,
    f::TEMPLATE,
    f::ALLOW_MISSING,
    f::SHOW_MANAGED_FIELDS,
    f::DRY_RUN,
    f::FIELD_MANAGER,
    f::FILENAME,
    f::KUSTOMIZE,
    f::RECURSIVE,
    f::LOCAL,
    f::SUBRESOURCE,
    text("patch", "The patch, in JSON or YAML").short('p'),
    text("patch-file", "A file with the patch"),
    text_or("type", "strategic", "json, merge or strategic"),
];

async fn patch(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    let (patch, file) = (args.text("patch"), args.text("patch-file"));
    if patch.is_empty() == file.is_empty() {
        let problem = if patch.is_empty() {
            "must specify --patch or --patch-file containing the contents of the patch"
        } else {
            "cannot specify --patch and --patch-file together"
        };
        return fail(problem);
    }
    let kind = args.text("type").to_lowercase();
    let content_type = match kind.as_str() {
        "json" => JSON_PATCH,
        "merge" => MERGE_PATCH,
        "strategic" => STRATEGIC_PATCH,
        _ => return fail(format!("--type must be one of [json merge strategic], not {:?}", args.text("type"))),
    };
    let text = if file.is_empty() {
        patch.to_string()
    } else {
        bounded::text(file, bounded::MAX_OWN_FILE_BYTES)
            .map_err(|error| Error::Message(format!("unable to read patch file: {error}")))?
    };
    let patch = yaml::first(text.as_bytes(), Limits::FILE)
        .map_err(|error| Error::Message(format!("unable to parse {text:?}: {error}")))?
        .value;
    let (found, errors) = targets(&cx, &args.words).await?;
    each(&found, errors, |target| one(&cx, target, &patch, content_type)).await
}

async fn one(cx: &Context, target: &Target, patch: &Value, content_type: &str) -> Result<()> {
    let before = &target.object;
    if cx.args.is("local") || DryRun::of(cx)? == DryRun::Client {
        let mut object = before.clone();
        applied(target, &mut object, patch, content_type)?;
        return told(cx, &object, done(before, &object));
    }
    let mut path = target.path();
    if !cx.args.text("subresource").is_empty() {
        path = format!("{path}/{}", cx.args.text("subresource"));
    }
    let call = write(cx, Call::new("PATCH", &path).content_type(content_type).body(patch), "kubectl-patch")?;
    let after = cx.json(call).await?;
    told(cx, &after, done(before, &after))
}

fn done(before: &Value, after: &Value) -> &'static str {
    let without = |object: &Value| {
        let mut object = object.clone();
        crate::print::hide_managed_fields(&mut object);
        object
    };
    if without(before) == without(after) { "patched (no change)" } else { "patched" }
}

/// An object with a patch, made here.
///
/// # Errors
/// When the patch doesn't fit.
pub fn applied(target: &Target, object: &mut Value, patch: &Value, content_type: &str) -> Result<()> {
    let wrong = |error: apimachinery::patch::PatchError| Error::Message(error.to_string());
    match content_type {
        JSON_PATCH => json_patch(object, patch).map_err(wrong),
        MERGE_PATCH => {
            merge_patch(object, patch);
            Ok(())
        }
        _ => {
            let resource = &target.resource;
            match api::find(&resource.group, &resource.version, &resource.plural) {
                Some(kind) => strategic_merge(object, patch, &api::merge::BuiltinStrategy::of(kind)).map_err(wrong),
                None => fail("strategic merge patch is not supported for this type: use --type merge"),
            }
        }
    }
}
