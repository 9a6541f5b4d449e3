//! `server/manifests/`: whatever YAML or JSON lies there is applied, and kept applied.
//!
//! Applied by server-side apply with a manager of its own, so that what others own is theirs; what a file no longer says
//! goes. Objects of a file that is removed stay: removing them is `kubectl delete`'s business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use apimachinery::bounded::Limits;
use apimachinery::yaml;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, ResourceExt as _};

use runtime::files;

const MANAGER: &str = "timonel-manifests";
/// How often everything is applied again, should somebody have changed it. Applying what is there writes nothing.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// How soon a file is tried again that could not be applied, as when it uses a kind that another file defines.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Applies what is in `folder` until the process ends.
pub async fn run(client: Client, folder: PathBuf) {
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "failed to read the folder of manifests");
        return;
    }
    let mut changed = files::watch(&folder, files::Kind::Files);
    // By file: when it was changed last, and what was told of it, so that nothing is told twice.
    let mut told: BTreeMap<PathBuf, (SystemTime, String)> = BTreeMap::new();
    loop {
        let mut wait = RESYNC_PERIOD;
        for (path, at) in manifests(&folder) {
            let outcome = match apply_file(&client, &path).await {
                Ok(objects) => format!("applied: {objects}"),
                Err(error) => {
                    wait = RETRY_AFTER;
                    format!("{error:#}")
                }
            };
            let news = (at, outcome);
            if told.get(&path) != Some(&news) {
                if news.1.starts_with("applied") {
                    tracing::info!(manifest = %path.display(), "{}", news.1);
                } else {
                    tracing::warn!(manifest = %path.display(), error = news.1, "failed to apply a manifest; retrying");
                }
                told.insert(path, news);
            }
        }
        tokio::select! {
            // Where nothing can be watched, time alone brings the next look.
            Some(()) = changed.recv() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The files in the order of their names, each with when it was changed last.
fn manifests(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let changed = |path: &Path| std::fs::symlink_metadata(path).ok()?.modified().ok();
    files::manifests(folder).into_iter().filter_map(|path| changed(&path).map(|at| (path, at))).collect()
}

/// Applies the objects of a file in their order; stops at the first that fails.
async fn apply_file(client: &Client, path: &Path) -> anyhow::Result<String> {
    let mut names = Vec::new();
    for object in objects(&bounded::text(path, bounded::MAX_OWN_FILE_BYTES)?)? {
        names.push(apply(client, object).await?);
    }
    Ok(names.join(", "))
}

/// The objects of all documents, those of lists one by one.
fn objects(text: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut objects = Vec::new();
    for document in yaml::all(text.as_bytes(), Limits::FILE)? {
        if let Some(duplicate) = document.duplicates.first() {
            anyhow::bail!("yaml: {duplicate}");
        }
        match document.value["kind"].as_str() {
            Some("List") => objects.extend(document.value["items"].as_array().cloned().unwrap_or_default()),
            _ => objects.push(document.value),
        }
    }
    Ok(objects)
}

async fn apply(client: &Client, value: serde_json::Value) -> anyhow::Result<String> {
    let object: DynamicObject = serde_json::from_value(value).context("it needs apiVersion, kind and metadata.name")?;
    let types = object.types.clone().context("it needs apiVersion and kind")?;
    let title = format!("{}/{}", types.kind, object.name_any());
    let gvk = GroupVersionKind::try_from(&types)?;
    let (resource, capabilities) = pinned_kind(client, &gvk).await.with_context(|| format!("{title}: unknown kind"))?;
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
        let namespace = object.namespace().unwrap_or_else(|| "default".into());
        Api::namespaced_with(client.clone(), &namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    let parameters = PatchParams::apply(MANAGER).force().validation_strict();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await.with_context(|| title.clone())?;
    Ok(title)
}
