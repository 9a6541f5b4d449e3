//! `edit` and `diff`: objects as files, for the user's programs.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use apimachinery::yaml as reader;
use bounded::Limits;
use serde_json::{Value, json};

use super::common::{LAST_APPLIED, each, keep_config, targets, told, write};
use super::{Command, run};
use crate::client::{APPLY_PATCH, Call, MERGE_PATCH, STRATEGIC_PATCH};
use crate::context::Context;
use crate::error::{Error, Result, fail};
use crate::flags::{common as f, switch, text_or};
use crate::print::{go_json_pretty, hide_managed_fields, yaml};
use crate::select::{self, Target};
use crate::threeway;

pub const EDIT: Command = Command {
    name: "edit",
    about: "Edit a resource on the server",
    flags: &[&[
        text_or("output", "yaml", "yaml or json").short('o'),
        f::FILENAME,
        f::KUSTOMIZE,
        f::RECURSIVE,
        f::FIELD_MANAGER,
        f::VALIDATE,
        f::SAVE_CONFIG,
        f::SUBRESOURCE,
        f::SHOW_MANAGED_FIELDS,
        switch("output-patch", "Show the patch"),
        switch("windows-line-endings", "Accepted for scripts' sake"),
    ]],
    run: run!(edit),
    ..Command::NONE
};

pub const DIFF: Command = Command {
    name: "diff",
    about: "Diff the live version against a would-be applied version",
    flags: &[&[
        f::FILENAME,
        f::KUSTOMIZE,
        f::RECURSIVE,
        f::SELECTOR,
        f::FIELD_MANAGER,
        f::SHOW_MANAGED_FIELDS,
        switch("server-side", "The server merges"),
        switch("force-conflicts", "Take fields over from their managers"),
        text_or("concurrency", "1", "Accepted for scripts' sake"),
    ]],
    run: run!(diff),
    ..Command::NONE
};

async fn edit(cx: Arc<Context>) -> Result<()> {
    let (found, errors) = targets(&cx, &cx.args.words).await?;
    each(&found, errors, |target| edit_one(&cx, target)).await
}

/// How often somebody is asked to mend what can't be read.
const MAX_TRIES: usize = 20;

async fn edit_one(cx: &Context, target: &Target) -> Result<()> {
    let mut before = target.object.clone();
    if !cx.args.is("show-managed-fields") {
        hide_managed_fields(&mut before);
    }
    let is_json = cx.args.text("output") == "json";
    let shown = if is_json { go_json_pretty(&before) + "\n" } else { yaml::write(&before) };
    let head = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort the edit. If an error occurs while saving this file will be\n# reopened with the relevant failures.\n#\n";
    let folder = Folder::make("edit")?;
    let file = folder.0.join(format!("kubectl-edit.{}", if is_json { "json" } else { "yaml" }));
    let mut content = format!("{}{shown}", if is_json { "" } else { head });
    for _ in 0..MAX_TRIES {
        std::fs::write(&file, &content)?;
        open_editor(&file)?;
        let after = bounded::text(&file, bounded::MAX_OWN_FILE_BYTES)?;
        if after == content {
            eprintln!("Edit cancelled, no changes made.");
            return Ok(());
        }
        let object = match reader::first(after.as_bytes(), Limits::FILE) {
            Ok(document) if document.value.is_null() => {
                eprintln!("Edit cancelled, saved file was empty.");
                return Ok(());
            }
            Ok(document) => document.value,
            Err(error) => {
                content = format!("# {error}\n{after}");
                continue;
            }
        };
        match save(cx, target, &before, object).await {
            Ok(()) => return Ok(()),
            Err(error) if ["Invalid", "BadRequest"].contains(&error.reason()) => {
                let told: String = error.text().lines().map(|l| format!("# {l}\n")).collect();
                content = format!("{told}{after}");
            }
            Err(error) => return Err(error),
        }
    }
    fail("the object could not be saved")
}

async fn save(cx: &Context, target: &Target, before: &Value, mut object: Value) -> Result<()> {
    for field in ["apiVersion", "kind"] {
        if object[field] != before[field] {
            return fail(format!("{field} can't be changed by edit"));
        }
    }
    if object["metadata"]["name"] != before["metadata"]["name"] {
        return fail("metadata.name can't be changed by edit");
    }
    if cx.args.is("save-config") || object["metadata"]["annotations"][LAST_APPLIED].is_string() {
        keep_config(&mut object);
    }
    let resource = &target.resource;
    let (patch, content_type) = match api::find(&resource.group, &resource.version, &resource.plural) {
        Some(kind) => {
            (threeway::strategic(before, &object, before, &api::merge::BuiltinStrategy::of(kind)), STRATEGIC_PATCH)
        }
        None => (threeway::merge(before, &object, before), MERGE_PATCH),
    };
    if patch == json!({}) {
        return told(cx, before, "skipped");
    }
    let mut path = target.path();
    if !cx.args.text("subresource").is_empty() {
        path = format!("{path}/{}", cx.args.text("subresource"));
    }
    let call = write(cx, Call::new("PATCH", &path).content_type(content_type).body(&patch), "kubectl-edit")?;
    let made = cx.json(call).await?;
    crate::print::line(&format!("{} edited", crate::print::name_of(&made)))
}

fn open_editor(file: &Path) -> Result<()> {
    let named =
        ["KUBE_EDITOR", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()));
    let editor = named.unwrap_or_else(|| "vi".into());
    // Editors may be given with arguments.
    let status =
        std::process::Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file).status()?;
    if status.success() { Ok(()) } else { fail(format!("there was a problem with the editor {editor:?}")) }
}

/// A folder of this command's own, which goes with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make(what: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let unique = format!("kubectl-{what}-{}-{}", std::process::id(), apimachinery::clock::now().as_nanosecond());
        let path = std::env::temp_dir().join(unique);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Of our own making: a level of folders with files.
        for folder in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if folder.path().is_dir() {
                for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_file(file.path());
                }
                let _ = std::fs::remove_dir(folder.path());
            } else {
                let _ = std::fs::remove_file(folder.path());
            }
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

async fn diff(cx: Arc<Context>) -> Result<()> {
    if cx.args.many("filename").is_empty() && cx.args.text("kustomize").is_empty() {
        return fail("must specify one of -f and -k");
    }
    let selection = select::select(&cx, &[]).await?;
    let folder = Folder::make("diff")?;
    let (live, merged) = (folder.0.join("LIVE"), folder.0.join("MERGED"));
    std::fs::create_dir(&live)?;
    std::fs::create_dir(&merged)?;
    for target in &selection.targets {
        let resource = &target.resource;
        let version = if resource.group.is_empty() {
            resource.version.clone()
        } else {
            format!("{}.{}", resource.group, resource.version)
        };
        let name = format!("{version}.{}.{}.{}", resource.kind, target.namespace, target.name);
        let current = match cx.get(&target.path()).await {
            Ok(current) => Some(current),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let wanted = would_be(&cx, target, current.as_ref()).await?;
        let text = |object: &Value| {
            let mut object = object.clone();
            if !cx.args.is("show-managed-fields") {
                hide_managed_fields(&mut object);
            }
            mask(target, &mut object);
            yaml::write(&object)
        };
        std::fs::write(live.join(&name), current.as_ref().map_or(String::new(), &text))?;
        std::fs::write(merged.join(&name), text(&wanted))?;
    }
    let program = std::env::var("KUBECTL_EXTERNAL_DIFF").unwrap_or_default();
    let words: Vec<&str> =
        if program.is_empty() { vec!["diff", "-u", "-N"] } else { program.split_whitespace().collect() };
    let status =
        std::process::Command::new(words[0]).args(&words[1..]).arg(&live).arg(&merged).stdin(Stdio::null()).status();
    let status = status.map_err(|error| Error::Message(format!("failed to run {:?}: {error}", words[0])))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Error::Exit(u8::try_from(code).unwrap_or(2))),
        None => Err(Error::Exit(2)),
    }
}

/// Values of secrets are never shown.
fn mask(target: &Target, object: &mut Value) {
    if target.resource.is("", "secrets") {
        for (_, value) in object["data"].as_object_mut().into_iter().flatten() {
            *value = "***".into();
        }
    }
}

/// What the server would make of an object.
async fn would_be(cx: &Context, target: &Target, current: Option<&Value>) -> Result<Value> {
    let path = target.path();
    if cx.args.is("server-side") {
        let call = Call::new("PATCH", &path)
            .content_type(APPLY_PATCH)
            .body(&target.object)
            .query("dryRun", "All")
            .query("fieldManager", "kubectl");
        return cx.json(call.query("force", cx.args.is("force-conflicts").to_string())).await;
    }
    // The annotation with what was applied is no difference that anybody looks for.
    let wanted = &target.object;
    let Some(current) = current else {
        let list = target.resource.path(&target.namespace, "");
        return cx
            .json(
                Call::new("POST", &list)
                    .body(wanted)
                    .query("dryRun", "All")
                    .query("fieldManager", "kubectl-client-side-apply"),
            )
            .await;
    };
    let last = current["metadata"]["annotations"][LAST_APPLIED].as_str();
    let original = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let resource = &target.resource;
    let (patch, content_type) = match api::find(&resource.group, &resource.version, &resource.plural) {
        Some(kind) => {
            (threeway::strategic(&original, wanted, current, &api::merge::BuiltinStrategy::of(kind)), STRATEGIC_PATCH)
        }
        None => (threeway::merge(&original, wanted, current), MERGE_PATCH),
    };
    let call = Call::new("PATCH", &path).content_type(content_type).body(&patch).query("dryRun", "All");
    cx.json(call.query("fieldManager", "kubectl-client-side-apply")).await
}
