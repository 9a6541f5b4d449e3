//! How a runtime's pods come to our network: it calls a plugin, which is this program under another name
//! ([`network::plugin`]), and the plugin asks the agent here.
//!
//! An address is written down before the plugin gets it, so that no address is given twice after a crash.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use network::cni;
use network::plugin::{self, PluginRequest, PluginResponse};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Cri, PluginFolders};
use crate::config::Config;
use crate::container_runtime::NodeHandles;
use crate::container_runtime::network::PodNetworkError;
use crate::state::Sandbox;

/// A pod's place in the network.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    /// The sandbox that has it.
    sandbox: String,
    ips: Vec<IpAddr>,
}

fn leases(config: &Config) -> PathBuf {
    config.data_dir.join("network")
}

/// The addresses that were given before this process started.
pub fn restored(config: &Config) -> Vec<IpAddr> {
    let files = std::fs::read_dir(leases(config)).into_iter().flatten().flatten();
    files.filter_map(|file| read(&file.path())).flat_map(|lease| lease.ips).collect()
}

fn read(path: &Path) -> Option<Lease> {
    serde_json::from_slice(&bounded::bytes(path, bounded::MAX_OWN_FILE_BYTES).ok()?).ok()
}

/// Serves the plugin, and puts it and its configuration where the runtime looks for them.
///
/// # Errors
/// When that can't be done.
pub async fn serve(node: NodeHandles, cri: Cri) -> io::Result<()> {
    let socket = node.config.run_dir.join("cni.sock");
    let _ = std::fs::remove_file(&socket);
    // The folder is closed to all but root.
    let listener = UnixListener::bind(&socket)?;
    std::fs::create_dir_all(leases(&node.config))?;
    install(cri.plugins(), &socket)?;
    // Runtimes take the first by its file's name.
    let folder = &cri.plugins().configurations;
    if let Ok(first) = cni::Cni::new(folder.clone(), Vec::new()).configuration()
        && first.name != plugin::NETWORK_NAME
    {
        tracing::warn!(
            network = first.name,
            folder = %folder.display(),
            "the container runtime connects pods to another network, whose configuration comes before timonel's: remove it, or say --cni-conf-dir if that is meant"
        );
    }
    let listener = Arc::new(listener);
    tasks::supervise("network-plugin", move || accept(node.clone(), listener.clone()));
    Ok(())
}

/// How long it is waited after a call that can't be accepted, as without descriptors.
const ACCEPT_RETRY_PERIOD: Duration = Duration::from_millis(100);

async fn accept(node: NodeHandles, listener: Arc<UnixListener>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
            continue;
        };
        let node = node.clone();
        tasks::spawn("network-plugin-call", async move {
            if let Err(error) = answer(&node, stream).await {
                tracing::debug!(%error, "a call of the network plugin ended");
            }
        });
    }
}

fn install(folders: &PluginFolders, socket: &Path) -> io::Result<()> {
    let program = std::env::current_exe()?;
    let place = |error: io::Error, what: &Path| io::Error::other(format!("{}: {error}", what.display()));
    for folder in [&folders.programs, &folders.configurations] {
        std::fs::create_dir_all(folder).map_err(|e| place(e, folder))?;
    }
    for name in [plugin::PLUGIN_NAME, plugin::LOOPBACK_PLUGIN_NAME] {
        let (link, new) = (folders.programs.join(name), folders.programs.join(format!(".{name}.new")));
        // A file that isn't ours is left alone.
        if std::fs::symlink_metadata(&link).is_ok_and(|_| !is_ours(&link)) {
            continue;
        }
        let _ = std::fs::remove_file(&new);
        #[expect(clippy::disallowed_methods, reason = "it is a link, and made again at each start")]
        let linked = std::os::unix::fs::symlink(&program, &new).and_then(|()| std::fs::rename(&new, &link));
        linked.map_err(|e| place(e, &link))?;
    }
    let file = folders.configurations.join(plugin::CONFLIST_FILE);
    let text = plugin::conflist(socket);
    if bounded::text(&file, bounded::MAX_OWN_FILE_BYTES).is_ok_and(|present| present == text) {
        return Ok(());
    }
    bounded::durable::replace(&file, text.as_bytes()).map_err(|e| place(e, &file))
}

/// Takes the plugin and its configuration away.
pub fn uninstall(folders: &PluginFolders) {
    let _ = std::fs::remove_file(folders.configurations.join(plugin::CONFLIST_FILE));
    for link in [plugin::PLUGIN_NAME, plugin::LOOPBACK_PLUGIN_NAME].map(|name| folders.programs.join(name)) {
        if is_ours(&link) {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// Whether a plugin is this program, as it was installed or as an earlier one was.
fn is_ours(link: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|to| to.file_name().is_some_and(|name| name == "timonel"))
}

async fn answer(node: &NodeHandles, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let line = bounded::line_async(&mut stream, plugin::MAX_MESSAGE_BYTES).await?.unwrap_or_default();
    let request: PluginRequest = serde_json::from_str(&line)?;
    let answer = match request.command.as_str() {
        "ADD" => match add(node, &request).await {
            Ok(addresses) => PluginResponse { addresses, error: None },
            Err(error) => PluginResponse { addresses: Vec::new(), error: Some(error.to_string()) },
        },
        _ => {
            delete(node, &request).await;
            PluginResponse::default()
        }
    };
    stream.get_mut().write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await
}

/// The file of a pod's lease; none for what can't be a pod.
fn file(node: &NodeHandles, request: &PluginRequest) -> Option<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let uid = Some(&request.uid).filter(|uid| !uid.is_empty() && uid.chars().all(plain));
    uid.map(|uid| leases(&node.config).join(format!("{uid}.json")))
}

/// Why the plugin's `ADD` fails.
#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error("the runtime doesn't say which pod it is for (K8S_POD_UID)")]
    NoPod,
    #[error(transparent)]
    Network(#[from] PodNetworkError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

async fn add(node: &NodeHandles, request: &PluginRequest) -> Result<Vec<IpAddr>, AddError> {
    let file = file(node, request).ok_or(AddError::NoPod)?;
    release(node, &request.uid, &file, &request.namespace).await;
    let pod = cni::Pod { uid: request.uid.clone(), ..cni::Pod::default() };
    let (ips, _) = node.network.connect(&pod, &request.namespace).await?;
    let lease = Lease { sandbox: request.sandbox.clone(), ips: ips.clone() };
    bounded::durable::replace(&file, &serde_json::to_vec(&lease).unwrap_or_default())?;
    Ok(ips)
}

async fn delete(node: &NodeHandles, request: &PluginRequest) {
    let Some(file) = file(node, request) else { return };
    // Runtimes delete more than once, also when the pod has another sandbox by then.
    if read(&file).is_some_and(|lease| lease.sandbox == request.sandbox) {
        release(node, &request.uid, &file, &request.namespace).await;
    }
}

/// Frees what a pod that is gone had, if it has it still.
pub async fn forget(node: &NodeHandles, uid: &str) {
    let request = PluginRequest { uid: uid.into(), ..PluginRequest::default() };
    if let Some(file) = file(node, &request) {
        release(node, uid, &file, Path::new("")).await;
    }
}

async fn release(node: &NodeHandles, uid: &str, file: &Path, namespace: &Path) {
    let Some(lease) = read(file) else { return };
    let sandbox = Sandbox { ips: lease.ips, ..Sandbox::default() };
    node.network.disconnect(uid, namespace, Some(&sandbox)).await;
    let _ = std::fs::remove_file(file);
}
