//! How device plugins make themselves known: they call the kubelet on its socket `kubelet.sock` in the folder `device-plugins` of
//! `--kubelet-dir`, or are found in the folder of all plugins ([`crate::plugins`]).

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::plugins::deviceplugin::device_plugin_client::DevicePluginClient;
use ::plugins::deviceplugin::registration_server::{Registration, RegistrationServer};
use ::plugins::deviceplugin::{Empty, RegisterRequest, VERSION};
use ::plugins::registration::PluginInfo;
use async_trait::async_trait;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{DeviceManager, Plugin, checkpoint, options};
use crate::plugins::{PluginHandler, RegistrationError, serve};
use crate::spec::resources::is_extended;

/// The socket of the kubelet's, by upstream's name, for which plugins watch: when it is made anew, they register again.
const SOCKET: &str = "kubelet.sock";
/// How long a plugin may take to answer when it registers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two lists of a plugin.
const UPDATE_PERIOD: Duration = Duration::from_millis(100);
/// The wait after the socket can't be served.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why a plugin isn't taken in, in upstream's words where those are parsed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("requested API version {0:?} is not supported by kubelet. Supported version is [\"{VERSION}\"]")]
    Version(String),
    #[error("the ResourceName {0:?} is invalid")]
    ResourceName(String),
    #[error("the endpoint {0:?} is no name of a socket in the folder of the kubelet's")]
    Endpoint(String),
    #[error("this node has {} resources of device plugins already, and takes no more", super::inventory::MAX_RESOURCES)]
    TooMany,
    #[error("failed to get device plugin options: {0}")]
    Options(String),
}

/// Serves the socket of registration, until the process ends. Sockets that an earlier life left are removed.
pub async fn run(devices: Arc<DeviceManager>) {
    let folder = devices.folder.clone();
    loop {
        remove_sockets(&folder);
        let service = RegistrationServer::new(Service(devices.clone()));
        let error = serve(&folder.join(SOCKET), service).await;
        tracing::warn!(%error, folder = %folder.display(), "failed to serve the registration of device plugins; retrying");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Plugins wait for the kubelet's socket to be made anew, and make theirs anew as well.
fn remove_sockets(folder: &Path) {
    use std::os::unix::fs::FileTypeExt as _;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name() != checkpoint::FILE && entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

struct Service(Arc<DeviceManager>);

#[async_trait]
impl Registration for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let RegisterRequest { version, endpoint, resource_name, .. } = request.into_inner();
        let registered = match (plain_name(&endpoint), version == VERSION) {
            (_, false) => Err(Refusal::Version(version)),
            (None, true) => Err(Refusal::Endpoint(endpoint)),
            (Some(name), true) => connect(&self.0, &resource_name, self.0.folder.join(name)).await,
        };
        match registered {
            Ok(()) => Ok(Response::new(Empty {})),
            Err(refusal) => {
                tracing::warn!(resource = resource_name, error = %refusal, "a device plugin was refused");
                Err(Status::unknown(refusal.to_string()))
            }
        }
    }
}

/// A name of a file, and nothing else.
fn plain_name(endpoint: &str) -> Option<&str> {
    let mut parts = Path::new(endpoint).components();
    let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    (is_plain && endpoint != SOCKET).then_some(endpoint)
}

/// Device plugins that are found by their sockets.
#[async_trait]
impl PluginHandler for DeviceManager {
    fn plugin_type(&self) -> &'static str {
        ::plugins::DEVICE_PLUGIN
    }

    async fn register(self: Arc<Self>, info: &PluginInfo, endpoint: &Path) -> Result<(), RegistrationError> {
        let refused = |refusal: Refusal| RegistrationError::Refused(refusal.to_string());
        if !info.supported_versions.iter().any(|version| version == VERSION) {
            return Err(refused(Refusal::Version(info.supported_versions.join(", "))));
        }
        connect(&self, &info.name, endpoint.into()).await.map_err(refused)
    }

    async fn deregister(&self, _name: &str) {
        // Its stream of devices ends, which is what counts.
    }
}

/// Asks a plugin what it wants, and follows what it tells of its devices as long as it is there.
async fn connect(devices: &Arc<DeviceManager>, resource: &str, socket: PathBuf) -> Result<(), Refusal> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if !is_extended(resource) {
        return Err(Refusal::ResourceName(resource.into()));
    }
    if !devices.inventory.lock().has_room_for(resource) {
        return Err(Refusal::TooMany);
    }
    let mut client = DevicePluginClient::new(::plugins::connect(&socket));
    let answer = tokio::time::timeout(CONNECT_TIMEOUT, options(&mut client)).await;
    let options = match answer {
        Ok(Ok(options)) => options,
        Ok(Err(error)) => return Err(Refusal::Options(error.to_string())),
        Err(_) => return Err(Refusal::Options(format!("no answer within {CONNECT_TIMEOUT:?}"))),
    };
    let plugin = Plugin { id: NEXT.fetch_add(1, Ordering::Relaxed), client, options };
    // Of two plugins of one resource the newer one counts, as in an update of it.
    devices.plugins.lock().insert(resource.into(), plugin.clone());
    devices.inventory.lock().connected(resource);
    tracing::info!(resource, socket = %socket.display(), "device plugin registered");
    let (devices, resource) = (devices.clone(), resource.to_string());
    tasks::spawn("device-plugin", async move {
        let why = follow(&devices, &resource, plugin.id, plugin.client).await;
        devices.disconnected(&resource, plugin.id);
        tracing::info!(resource, why, "device plugin unregistered");
    });
    Ok(())
}

/// Takes in what a plugin tells of its devices, until it leaves: why.
async fn follow(
    devices: &DeviceManager,
    resource: &str,
    id: u64,
    mut client: DevicePluginClient<tonic::transport::Channel>,
) -> String {
    let mut lists = match client.list_and_watch(Empty {}).await {
        Ok(lists) => lists.into_inner(),
        Err(status) => return status.message().into(),
    };
    loop {
        match lists.message().await {
            Ok(Some(_)) if !devices.is_newest(resource, id) => return "another plugin offers its resource".into(),
            Ok(Some(list)) => {
                let pods = devices.inventory.lock().update(resource, list.devices);
                devices.save();
                devices.changed.send_replace(());
                devices.tell_health(pods);
                // A plugin that never stops telling waits for its turn: every list is written to disk and to the Node.
                tokio::time::sleep(UPDATE_PERIOD).await;
            }
            Ok(None) => return "it has ended its list of devices".into(),
            Err(status) => return status.message().into(),
        }
    }
}

impl DeviceManager {
    fn is_newest(&self, resource: &str, id: u64) -> bool {
        self.plugins.lock().get(resource).is_some_and(|plugin| plugin.id == id)
    }

    fn disconnected(&self, resource: &str, id: u64) {
        {
            let mut plugins = self.plugins.lock();
            if plugins.get(resource).is_none_or(|plugin| plugin.id != id) {
                return;
            }
            plugins.remove(resource);
        }
        let pods = self.inventory.lock().disconnected(resource, Instant::now());
        self.changed.send_replace(());
        self.tell_health(pods);
    }
}
