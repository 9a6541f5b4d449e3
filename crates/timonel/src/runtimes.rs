//! Who runs this node's containers: shims of our own, or a runtime that `--container-runtime-endpoint` names. And the images that lie
//! ready for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use kubelet::{Cri, Runtime};
use runtime::image::{BuiltIn, Registries};
use runtime::{ImageStore, files};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::NodeArgs;

/// What our own shims are called in [`RECORD`].
const OWN: &str = "timonel";
/// The file, in the agent's folder, that says who runs the pods: they aren't his who comes after.
const RECORD: &str = "container-runtime";

/// The image that is always here, so that the first pod needs no registry.
pub const HELLO: BuiltIn = BuiltIn {
    name: "timonel.local/hello:1",
    program: "hello",
    bytes: include_bytes!(env!("HELLO")),
    // As `crates/hello/src/tools/mod.rs` has them.
    links: &[
        "[", "cat", "echo", "env", "false", "get", "grep", "head", "help", "hostname", "id", "kill", "ls", "mkdir",
        "nslookup", "ps", "pwd", "rm", "sh", "sleep", "stat", "sync", "test", "touch", "true", "wc",
    ],
};

pub struct Chosen {
    pub runtime: Runtime,
    /// Ends when the images that lie ready are loaded.
    pub archives: JoinHandle<()>,
}

/// # Errors
/// When the runtime can't be used, or pods run that are another's.
pub async fn choose(args: &NodeArgs, agent_dir: &Path) -> anyhow::Result<Chosen> {
    let wanted = args.container_runtime_endpoint.as_deref().unwrap_or(OWN);
    let record = agent_dir.join(RECORD);
    let before = bounded::text(&record, bounded::MAX_OWN_FILE_BYTES).unwrap_or_else(|_| OWN.into());
    let has_pods = std::fs::read_dir(args.run_dir.join("pods")).is_ok_and(|mut pods| pods.next().is_some());
    if before != wanted && has_pods {
        bail!(
            "pods of this node are run by {before}, which --container-runtime-endpoint can't change to {wanted} beneath them: end them first, by `kubectl drain` and deletion of its DaemonSets' pods, or by `timonel uninstall --keep-data`"
        );
    }
    bounded::durable::replace(&record, wanted.as_bytes())
        .with_context(|| format!("can't write {}", record.display()))?;
    let archives = agent_dir.join("images");
    if let Some(endpoint) = &args.container_runtime_endpoint {
        let both = Cri::connect(endpoint, agent_dir).await?;
        if std::fs::read_dir(&archives).is_ok_and(|mut files| files.next().is_some()) {
            tracing::warn!(
                folder = %archives.display(),
                "image archives are not loaded into another's runtime; containerd takes them by `ctr --namespace k8s.io images import FILE`"
            );
        }
        tracing::info!(
            image = HELLO.name,
            "the built-in image isn't put into another's runtime, as the CRI can't; containerd takes it by `timonel image built-in | ctr --namespace k8s.io images import -`"
        );
        return Ok(Chosen {
            runtime: Runtime::Cri(Box::new(both)),
            archives: tasks::spawn("image-archives", async {}),
        });
    }
    let registries = Registries::read(&args.private_registry).map_err(anyhow::Error::msg)?;
    let images = ImageStore::open(&agent_dir.join("image-store"), registries)?;
    let present = images.clone();
    let archives = tasks::spawn("image-archives", async move {
        add_built_in(present.clone()).await;
        load_archives(present, archives).await;
    });
    Ok(Chosen { runtime: Runtime::Own(images), archives })
}

/// Removes the pods that another's runtime runs for the agent with this folder, and what told it of our network.
///
/// # Errors
/// When it can't be reached, or doesn't remove them.
pub async fn remove_pods(agent_dir: &Path) -> anyhow::Result<()> {
    let Ok(endpoint) = bounded::text(agent_dir.join(RECORD), bounded::MAX_OWN_FILE_BYTES) else { return Ok(()) };
    if endpoint == OWN {
        return Ok(());
    }
    let (cri, _) = Cri::connect(&endpoint, agent_dir).await?;
    cri.remove_all().await?;
    cri.leave();
    Ok(())
}

/// Before the first pod is started.
async fn add_built_in(images: Arc<ImageStore>) {
    let added = tokio::task::spawn_blocking(move || images.add_built_in(&HELLO).map_err(|error| error.to_string()));
    if let Err(error) = added.await.unwrap_or_else(|error| Err(error.to_string())) {
        tracing::warn!(
            error,
            image = HELLO.name,
            "failed to add the built-in image; it is tried again at the next start"
        );
    }
}

/// Loads what lies in the folder for image archives, and what appears there.
async fn load_archives(images: Arc<ImageStore>, folder: PathBuf) {
    if std::fs::create_dir_all(&folder).is_err() {
        return;
    }
    // Held as long as this process lives: who brings an archive sees by it that somebody loads it.
    let loading = loading(&folder).inspect_err(
        |error| tracing::debug!(%error, "failed to watch image archives; `image import` can't wait for them"),
    );
    let changes = files::watch(&folder, files::Kind::Files);
    let mut loaded = Loaded::new();
    load_new(&images, &folder, &mut loaded).await;
    let state = Arc::new(tokio::sync::Mutex::new((changes, loaded, loading.ok())));
    tasks::until_done("image-archives", move || load_later(images.clone(), folder.clone(), state.clone()));
}

type Archives = (mpsc::Receiver<()>, Loaded, Option<nix::fcntl::Flock<std::fs::File>>);

/// Loads what appears in the folder, for as long as that is noticed.
async fn load_later(images: Arc<ImageStore>, folder: PathBuf, state: Arc<tokio::sync::Mutex<Archives>>) {
    let mut state = state.lock().await;
    let (changes, loaded, _loading) = &mut *state;
    while changes.recv().await.is_some() {
        load_new(&images, &folder, loaded).await;
    }
}

/// What became of an archive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Which archive of that name it was: when the file was changed last, in nanoseconds since 1970.
    modified: String,
    /// The names of its images, or why there are none.
    pub images: Result<Vec<String>, String>,
}

type Loaded = std::collections::BTreeMap<String, Outcome>;

/// Beside the folder of archives.
const LOADED: &str = "images.json";
const LOADING: &str = "images.lock";

fn loading(folder: &Path) -> std::io::Result<nix::fcntl::Flock<std::fs::File>> {
    let file =
        std::fs::File::options().create(true).truncate(false).write(true).open(folder.with_file_name(LOADING))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Whether an agent loads what comes into the folder.
pub fn is_loading(folder: &Path) -> bool {
    loading(folder).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn modified(meta: &std::fs::Metadata) -> Option<String> {
    let since = meta.modified().ok()?.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_nanos().to_string())
}

/// What the agent made of an archive in the folder, once it has.
///
/// # Errors
/// When the archive isn't there any more.
pub fn outcome(folder: &Path, name: &str) -> std::io::Result<Option<Outcome>> {
    let present = modified(&std::fs::metadata(folder.join(name))?);
    let text = bounded::bytes(folder.with_file_name(LOADED), bounded::MAX_OWN_FILE_BYTES).unwrap_or_default();
    let loaded: Loaded = serde_json::from_slice(&text).unwrap_or_default();
    Ok(loaded.get(name).filter(|outcome| present.as_ref() == Some(&outcome.modified)).cloned())
}

async fn load_new(images: &Arc<ImageStore>, folder: &Path, loaded: &mut Loaded) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Some(modified) = entry.metadata().ok().filter(|meta| meta.is_file()).and_then(|meta| modified(&meta))
        else {
            continue;
        };
        if loaded.get(&name).is_some_and(|outcome| outcome.modified == modified) {
            continue;
        }
        let images = match images.load(&path).await {
            Ok(list) => {
                let names: Vec<String> = list.into_iter().flat_map(|i| i.names).collect();
                tracing::info!(archive = %path.display(), images = names.join(", "), "imported images");
                Ok(names)
            }
            Err(error) => {
                tracing::warn!(%error, "failed to import an image archive");
                Err(error.to_string())
            }
        };
        loaded.insert(name, Outcome { modified, images });
        let written = serde_json::to_vec(loaded).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|text| bounded::durable::replace(&folder.with_file_name(LOADED), &text)) {
            tracing::warn!(%error, "failed to write the result of an image import");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HELLO;

    #[test]
    fn built_in_program_is_small_and_static() {
        // The larger part of it is the C library's; compressed it is 0.6 MB.
        assert!(HELLO.bytes.len() <= 1536 << 10, "{} bytes", HELLO.bytes.len());
        assert!(HELLO.bytes.starts_with(b"\x7fELF"));
        // Program headers of the type PT_INTERP name a dynamic loader, which the image hasn't (elf(5)).
        let number = |at: usize| usize::from(u16::from_le_bytes([HELLO.bytes[at], HELLO.bytes[at + 1]]));
        let (begin, size, count) = (number(32), number(54), number(56));
        let kinds: Vec<usize> = (0..count).map(|header| number(begin + header * size)).collect();
        assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    }

    #[test]
    fn each_tool_of_the_program_has_a_link() {
        let source = include_str!("../../hello/src/tools/mod.rs");
        let list = source.split("NAMES").nth(1).and_then(|rest| rest.split("];").next()).unwrap_or_default();
        let tools: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(tools, HELLO.links);
    }
}
