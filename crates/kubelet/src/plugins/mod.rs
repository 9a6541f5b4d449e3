//! Plugins of the node (Kubernetes' plugin registration, upstream's `pkg/kubelet/pluginmanager`): each has a socket in the folder
//! `plugins_registry` of `--kubelet-dir`, and says there of which type it is and where it listens.

mod serve;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::plugins::registration::registration_client::RegistrationClient;
use ::plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use apimachinery::{Backoff, ExponentialBackoff};
use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use runtime::files;
use tokio::time::Instant;

use crate::config::Config;

pub use serve::serve;

/// Back-off of the registration of a plugin.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name of a plugin, in bytes: those of drivers and of resources are shorter.
const MAX_NAME_BYTES: usize = 317;
/// The most sockets that are looked at.
const MAX_SOCKETS: usize = 1024;

/// Why a plugin isn't registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The socket is silent.
    #[error("it doesn't answer")]
    Timeout,
    /// The registration service of the socket refuses.
    #[error("{0}")]
    Plugin(String),
    /// Its name is missing or too long: how long it is.
    #[error("its name has {0} bytes; it must have 1 to {MAX_NAME_BYTES}")]
    Name(usize),
    /// Nobody here knows its type.
    #[error("plugins of type {0:?} aren't served by this version of timonel")]
    UnknownType(String),
    /// The handler of its type refuses it: why.
    #[error("{0}")]
    Refused(String),
}

/// Serves plugins of a type.
#[async_trait]
pub trait PluginHandler: Send + Sync {
    /// The type, as plugins name it.
    fn plugin_type(&self) -> &'static str;

    /// Takes a plugin in, whose own service listens on `endpoint`.
    ///
    /// # Errors
    /// Why it can't be served; the plugin is told, and asked again later.
    async fn register(self: Arc<Self>, info: &PluginInfo, endpoint: &Path) -> Result<(), RegistrationError>;

    /// The plugin of this name has left.
    async fn deregister(&self, name: &str);
}

/// A socket that was seen. One that was made anew under the same name is another plugin.
struct Socket {
    inode: u64,
    /// Type and name of its plugin, once that has said it.
    plugin: Option<PluginId>,
    /// Its plugin is being asked.
    is_asked: bool,
    again: Instant,
    backoff: Backoff,
}

/// Type and name of a plugin.
type PluginId = (String, String);

/// A socket with its inode, and what came of asking its plugin.
type Asked = (PathBuf, u64, Result<PluginId, RegistrationError>);

fn sockets(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let socket = |entry: std::fs::DirEntry| {
        let meta = std::fs::metadata(entry.path()).ok()?;
        meta.file_type().is_socket().then(|| (entry.path(), meta.ino()))
    };
    entries.filter_map(socket).take(MAX_SOCKETS).collect()
}

/// Tells the handlers of plugins that come and go, until the process ends. Plugins are asked at the same time: one that doesn't answer keeps
/// no other waiting.
pub async fn run(config: Arc<Config>, handlers: Vec<Arc<dyn PluginHandler>>) {
    let folder = config.registry_dir();
    if let Err(error) = prepare(&config) {
        let folder = config.kubelet_dir.display();
        tracing::warn!(%error, %folder, "failed to watch for plugins; this node serves none");
        return;
    }
    let mut news = files::watch(&folder, files::Kind::Sockets);
    let mut known = Known { handlers, sockets: BTreeMap::new() };
    let mut asked: FuturesUnordered<BoxFuture<'static, Asked>> = FuturesUnordered::new();
    loop {
        let present = sockets(&folder);
        known.remove_gone(&present).await;
        asked.extend(known.due(present));
        let next = known.sockets.values().filter(|s| s.plugin.is_none() && !s.is_asked).map(|s| s.again).min();
        tokio::select! {
            more = news.recv() => if more.is_none() { return },
            Some(answer) = asked.next() => known.take(answer).await,
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// The sockets that were seen, and who serves their plugins.
struct Known {
    handlers: Vec<Arc<dyn PluginHandler>>,
    sockets: BTreeMap<PathBuf, Socket>,
}

impl Known {
    /// Tells the handlers of plugins whose sockets are gone.
    async fn remove_gone(&mut self, present: &BTreeMap<PathBuf, u64>) {
        let is_gone = |(path, socket): &(&PathBuf, &Socket)| present.get(*path) != Some(&socket.inode);
        let gone: Vec<PathBuf> = self.sockets.iter().filter(is_gone).map(|(path, _)| path.clone()).collect();
        let left: Vec<PluginId> = gone.iter().filter_map(|path| self.sockets.remove(path)?.plugin).collect();
        for plugin in left {
            self.deregister(&plugin).await;
        }
    }

    /// Tells the handler of a plugin that it has left, unless its new socket is there already.
    async fn deregister(&self, plugin: &PluginId) {
        if !self.sockets.values().any(|other| other.plugin.as_ref() == Some(plugin))
            && let Some(handler) = self.handlers.iter().find(|handler| handler.plugin_type() == plugin.0)
        {
            handler.deregister(&plugin.1).await;
        }
    }

    /// Asks the plugins whose turn it is.
    fn due(&mut self, present: BTreeMap<PathBuf, u64>) -> Vec<BoxFuture<'static, Asked>> {
        let mut due = Vec::new();
        for (path, inode) in present {
            let new = || Socket {
                inode,
                plugin: None,
                is_asked: false,
                again: Instant::now(),
                backoff: Backoff::new(BACKOFF),
            };
            let socket = self.sockets.entry(path.clone()).or_insert_with(new);
            if socket.plugin.is_some() || socket.is_asked || socket.again > Instant::now() {
                continue;
            }
            socket.is_asked = true;
            let handlers = self.handlers.clone();
            let ask = async move {
                let registered = tokio::time::timeout(CALL_TIMEOUT, register(&handlers, &path)).await;
                (path, inode, registered.unwrap_or(Err(RegistrationError::Timeout)))
            };
            due.push(ask.boxed());
        }
        due
    }

    /// What came of asking a plugin.
    async fn take(&mut self, (path, inode, registered): Asked) {
        let socket = self.sockets.get_mut(&path).filter(|socket| socket.inode == inode);
        match (socket, registered) {
            (Some(socket), Ok(plugin)) => (socket.plugin, socket.is_asked) = (Some(plugin), false),
            (Some(socket), Err(error)) => {
                tracing::warn!(socket = %path.display(), %error, "failed to register a kubelet plugin; retrying");
                socket.is_asked = false;
                socket.again = Instant::now() + socket.backoff.failed();
            }
            // Its socket was removed meanwhile.
            (None, Ok(plugin)) => self.deregister(&plugin).await,
            (None, Err(_)) => {}
        }
    }
}

/// The folders that plugins expect, so mounted that what is mounted in a driver's container is seen outside.
fn prepare(config: &Config) -> std::io::Result<()> {
    for folder in [config.registry_dir(), config.plugins_dir(), config.kubelet_dir.join("pods")] {
        std::fs::create_dir_all(folder)?;
    }
    // Pods' mounts are hidden from other users.
    std::fs::set_permissions(&config.kubelet_dir, std::fs::Permissions::from_mode(0o750))?;
    runtime::rootfs::share(&config.kubelet_dir)
}

/// Asks the plugin of a socket for its type and name, and has it served.
async fn register(handlers: &[Arc<dyn PluginHandler>], socket: &Path) -> Result<(String, String), RegistrationError> {
    let said = |status: tonic::Status| RegistrationError::Plugin(status.message().into());
    let mut registration = RegistrationClient::new(::plugins::connect(socket));
    let info = registration.get_info(InfoRequest {}).await.map_err(said)?.into_inner();
    if info.name.is_empty() || info.name.len() > MAX_NAME_BYTES {
        return Err(RegistrationError::Name(info.name.len()));
    }
    let endpoint = if info.endpoint.is_empty() { socket.into() } else { PathBuf::from(&info.endpoint) };
    let registered = match handlers.iter().find(|handler| handler.plugin_type() == info.r#type) {
        Some(handler) => handler.clone().register(&info, &endpoint).await,
        None => Err(RegistrationError::UnknownType(info.r#type.clone())),
    };
    let status = RegistrationStatus {
        plugin_registered: registered.is_ok(),
        error: registered.as_ref().err().map(ToString::to_string).unwrap_or_default(),
    };
    registration.notify_registration_status(status).await.map_err(said)?;
    registered.map(|()| (info.r#type, info.name))
}
