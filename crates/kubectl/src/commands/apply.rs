//! `apply`: client-side by three ways, or by the server.

mod last_applied;
mod prune;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{DryRun, LAST_APPLIED, keep_config, validated, write};
use super::{Command, run, usage};
use crate::client::{APPLY_PATCH, Call, MERGE_PATCH, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Error, Result, all, fail};
use crate::flags::{Flag, common as f, list, optional_text, switch, switched_on, text, text_or};
use crate::print::{Printer, hide_managed_fields, line, name_of, say};
use crate::select::{self, Target};
use crate::threeway;

pub const COMMAND: Command = Command {
    name: "apply",
    about: "Apply a configuration to a resource by file name or stdin",
    flags: &[FLAGS],
    commands: &[&last_applied::VIEW, &last_applied::SET],
    run: run!(apply),
    ..Command::NONE
};

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
    f::SELECTOR,
    f::VALIDATE,
    f::ALL,
    f::TIMEOUT,
    switch("server-side", "The server merges"),
    switch("force-conflicts", "Take fields over from their managers, with --server-side"),
    switch("force", "Delete and create what can't be changed"),
    text_or("grace-period", "-1", "Seconds that deleted objects have"),
    optional_text("cascade", "background", "background", "What becomes of dependents of deleted objects"),
    switched_on("overwrite", "Take over what others have changed"),
    switched_on("openapi-patch", "Accepted for scripts' sake"),
    switch("wait", "Wait for deleted objects to be gone"),
    switch("prune", "Delete objects that were applied and are in no file any more"),
    list("prune-allowlist", "Types that --prune looks at: group/version/kind"),
    text("applyset", "Not served by this kubectl"),
];

/// How often a patch is tried again that lost against another write.
const MAX_CONFLICTS: usize = 5;

async fn apply(cx: Arc<Context>) -> Result<()> {
    let args = &cx.args;
    if let Some(word) = args.words.first() {
        return usage(&cx, &format!("Unexpected args: [{word}]"));
    }
    if args.many("filename").is_empty() && args.text("kustomize").is_empty() {
        return fail("must specify one of -f and -k");
    }
    validate(&cx)?;
    let selection = select::select(&cx, &[]).await?;
    if selection.targets.is_empty() {
        return fail("no objects passed to apply");
    }
    let (mut errors, mut applied) = (Vec::new(), Vec::new());
    let printer = Printer::of(args, false)?;
    for target in &selection.targets {
        let source = &target.source;
        let outcome =
            if args.is("server-side") { server_side(&cx, target).await } else { client_side(&cx, target).await };
        match outcome {
            Ok((object, done)) => {
                if printer.is_none() {
                    let suffix = match DryRun::of(&cx)? {
                        DryRun::No => "",
                        DryRun::Client => " (dry run)",
                        DryRun::Server => " (server dry run)",
                    };
                    line(&format!("{} {done}{suffix}", name_of(&object)))?;
                }
                applied.push(object);
            }
            Err(error) => errors.push(
                if error.text().starts_with("error when ") || error.text().starts_with("Apply failed with ") {
                    error
                } else {
                    error.with_prefix(&format!("error when applying {source:?}"))
                },
            ),
        }
    }
    if let Some(printer) = &printer {
        print(&cx, printer, applied.clone())?;
    }
    if args.is("prune") && errors.is_empty() {
        prune::prune(&cx, &selection, &applied).await?;
    }
    all(errors)
}

fn validate(cx: &Context) -> Result<()> {
    let args = &cx.args;
    if args.is("force-conflicts") && !args.is("server-side") {
        return fail("--force-conflicts only works with --server-side");
    }
    if DryRun::of(cx)? == DryRun::Client && args.is("server-side") {
        return fail("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    if args.is("force") && args.is("server-side") {
        return fail("--force cannot be used with --server-side");
    }
    if !args.text("applyset").is_empty() {
        return fail("--applyset isn't served by this kubectl");
    }
    if args.is("prune") && !args.is("all") && args.text("selector").is_empty() {
        return fail(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector",
        );
    }
    Ok(())
}

fn print(cx: &Context, printer: &Printer, mut objects: Vec<Value>) -> Result<()> {
    if !cx.args.is("show-managed-fields") {
        objects.iter_mut().for_each(hide_managed_fields);
    }
    match objects.len() {
        0 => Ok(()),
        1 => say(&printer.text(&objects[0], true)?),
        _ => say(&printer.text(&json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects}), true)?),
    }
}

async fn server_side(cx: &Context, target: &Target) -> Result<(Value, &'static str)> {
    let mut object = target.object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let path = target.path();
    let call = Call::new("PATCH", &path).content_type(APPLY_PATCH).body(&object);
    let call = call.query("force", cx.args.is("force-conflicts").to_string());
    let call = validated(cx, write(cx, call, "kubectl")?)?;
    let made = cx.json(call).await.map_err(|error| match &error {
        Error::Status(..) if error.reason() == "Conflict" => conflict(&error),
        _ => error,
    })?;
    Ok((made, "serverside-applied"))
}

/// What to do about other managers' fields.
fn conflict(error: &Error) -> Error {
    Error::Message(format!(
        "{}\nPlease review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n\
         * If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n\
         * If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n\
         * You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\n\
         See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts",
        error.text()
    ))
}

/// A file's object with its own text in the annotation.
fn modified(target: &Target) -> Value {
    let mut object = target.object.clone();
    keep_config(&mut object);
    object
}

async fn client_side(cx: &Context, target: &Target) -> Result<(Value, &'static str)> {
    let dry = DryRun::of(cx)?;
    let wanted = modified(target);
    let path = target.path();
    let retrieving = |error: Error| {
        error.with_prefix(&format!("error when retrieving current configuration of:\nResource: {:?}, GroupVersionKind: {:?}\nName: {:?}, Namespace: {:?}\nfrom server for: {:?}", gvr(target), gvk(target), target.name, target.namespace, target.source))
    };
    let mut tries = 0;
    loop {
        let current = match cx.get(&path).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => {
                return created(cx, target, wanted, dry).await;
            }
            Err(error) => return Err(retrieving(error)),
        };
        let last = current["metadata"]["annotations"][LAST_APPLIED].as_str();
        if last.is_none() && tries == 0 {
            warn_missing(target);
        }
        let original = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let (patch, content_type) = patch(target, &original, &wanted, &current);
        if patch == json!({}) {
            return Ok((current, "unchanged"));
        }
        if dry == DryRun::Client {
            let mut object = current;
            super::patch::applied(target, &mut object, &patch, content_type)?;
            return Ok((object, "configured"));
        }
        let call = Call::new("PATCH", &path).content_type(content_type).body(&patch);
        let call = validated(cx, write(cx, call, "kubectl-client-side-apply")?)?;
        match cx.json(call).await {
            Ok(made) => return Ok((made, "configured")),
            Err(error) if error.reason() == "Conflict" && tries < MAX_CONFLICTS => tries = tries.saturating_add(1),
            Err(error) if cx.args.is("force") && ["Conflict", "Invalid"].contains(&error.reason()) => {
                return replace(cx, target, &wanted).await;
            }
            Err(error) => {
                let shown = format!(
                    "error when applying patch:\n{}\nto:\nResource: {:?}, GroupVersionKind: {:?}\nName: {:?}, Namespace: {:?}\nfor: {:?}",
                    crate::print::go_json(&patch),
                    gvr(target),
                    gvk(target),
                    target.name,
                    target.namespace,
                    target.source
                );
                return Err(error.with_prefix(&format!("{shown}: error when patching {:?}", target.source)));
            }
        }
    }
}

async fn created(cx: &Context, target: &Target, wanted: Value, dry: DryRun) -> Result<(Value, &'static str)> {
    if dry == DryRun::Client {
        return Ok((wanted, "created"));
    }
    let list = target.resource.path(&target.namespace, "");
    let call = validated(cx, write(cx, Call::new("POST", &list).body(&wanted), "kubectl-client-side-apply")?)?;
    let made = cx.json(call).await;
    let made = made.map_err(|error| error.with_prefix(&format!("error when creating {:?}", target.source)))?;
    Ok((made, "created"))
}

fn warn_missing(target: &Target) {
    eprintln!(
        "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
        target.resource.plural, target.name
    );
}

fn gvr(target: &Target) -> String {
    let resource = &target.resource;
    format!("{}/{}, Resource={}", resource.group, resource.version, resource.plural)
}

fn gvk(target: &Target) -> String {
    let resource = &target.resource;
    format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind)
}

fn patch(target: &Target, original: &Value, wanted: &Value, current: &Value) -> (Value, &'static str) {
    let resource = &target.resource;
    match api::find(&resource.group, &resource.version, &resource.plural) {
        Some(kind) => {
            (threeway::strategic(original, wanted, current, &api::merge::BuiltinStrategy::of(kind)), STRATEGIC_PATCH)
        }
        None => (threeway::merge(original, wanted, current), MERGE_PATCH),
    }
}

/// What can't be changed is deleted and created, with `--force`.
async fn replace(cx: &Context, target: &Target, wanted: &Value) -> Result<(Value, &'static str)> {
    let path = target.path();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    cx.send(Call::new("DELETE", &path).body(&options)).await?;
    while cx.get(&path).await.is_ok() {
        super::common::pause().await;
    }
    let list = target.resource.path(&target.namespace, "");
    let made = cx.json(write(cx, Call::new("POST", &list).body(wanted), "kubectl-client-side-apply")?).await?;
    Ok((made, "configured"))
}
