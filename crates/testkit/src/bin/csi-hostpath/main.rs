//! A storage driver for tests: its volumes are folders, or files behind loop devices, of the node that it runs on. It speaks CSI to
//! the kubelet, and does beside that what drivers' sidecars do (provisioner, attacher, resizer, snapshotter).
//!
//! Every call of the kubelet is written to `calls` in its data folder, so that tests see what was asked.

#![allow(clippy::disallowed_methods, reason = "volumes hold what the tests write to them")]

mod node;
mod sidecars;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use csi::v1::node_server::NodeServer;
use kube::Client;
use plugins::registration::registration_server::{Registration, RegistrationServer};
use plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use sidecars::Sidecars;

type Answer<T> = Result<Response<T>, Status>;

struct Driver {
    name: String,
    node: String,
    /// Where the kubelet finds the socket.
    endpoint: String,
    data: PathBuf,
    /// Volumes that the node may have.
    most: i64,
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

impl Driver {
    fn note(&self, call: &str, about: impl std::fmt::Display) {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.data.join("calls"));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{call} {about}");
        }
    }

    fn volume(&self, handle: &str) -> PathBuf {
        self.data.join("volumes").join(handle)
    }

    fn snapshot(&self, handle: &str) -> PathBuf {
        self.data.join("snapshots").join(handle)
    }

    /// The loop device of a volume's file, made if there is none.
    fn device(&self, handle: &str) -> Result<String, Status> {
        let file = self.volume(handle).join("image").display().to_string();
        let list = || -> Result<Option<String>, Status> {
            // losetup shows but the beginning of long names.
            let all = std::fs::read_dir("/sys/block").map_err(failed)?.flatten();
            let backed = |block: &std::fs::DirEntry| {
                let by = std::fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
                by.trim_end() == file
            };
            let mut found = all.into_iter().filter(backed);
            Ok(found.next().map(|block| format!("/dev/{}", block.file_name().to_string_lossy())))
        };
        if let Some(device) = list()? {
            return Ok(device);
        }
        let output = Command::new("busybox").args(["losetup", "-f", &file]).output().map_err(failed)?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr)));
        }
        list()?.ok_or_else(|| failed("the loop device isn't there"))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: plugins::CSI_PLUGIN.into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        self.note("registered", format!("{} {}", status.plugin_registered, status.error));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("can't listen at {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} isn't set"));
    let kubelet = PathBuf::from(variable("KUBELET_DIR")?);
    let name = variable("DRIVER")?;
    let own = kubelet.join("plugins").join(&name);
    std::fs::create_dir_all(own.join("volumes"))?;
    let endpoint = own.join("csi.sock");
    let driver = Arc::new(Driver {
        node: variable("NODE_NAME")?,
        endpoint: endpoint.display().to_string(),
        data: own,
        most: variable("MOST").ok().and_then(|n| n.parse().ok()).unwrap_or(0),
        name: name.clone(),
    });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sidecars = Sidecars { driver: driver.clone(), client: Client::try_default().await? };
    tokio::spawn(async move { sidecars.run().await });
    let services = tonic::transport::Server::builder()
        .add_service(NodeServer::from_arc(driver.clone()))
        .serve_with_incoming(listen(&endpoint)?);
    let registration = tonic::transport::Server::builder()
        .add_service(RegistrationServer::from_arc(driver))
        .serve_with_incoming(listen(&kubelet.join("plugins_registry").join(format!("{name}-reg.sock")))?);
    tokio::try_join!(services, registration)?;
    Ok(())
}
