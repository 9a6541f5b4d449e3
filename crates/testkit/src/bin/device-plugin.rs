//! A device plugin for tests: its devices are names. It registers with the kubelet, and again whenever the kubelet's socket is made anew.
//!
//! `device-plugin FOLDER RESOURCE DATA ID,…`: FOLDER is the kubelet's for device plugins. In DATA the file `unhealthy` lists devices
//! that are, and every call is written to `calls`. A container gets the variable `TOY`, the folder DATA at `/toy`, the device
//! `/dev/toy`, and the CDI device `test.timonel.local/toy=ID` of each.

#![allow(clippy::disallowed_methods, reason = "the files are the test's")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use plugins::deviceplugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use plugins::deviceplugin::registration_client::RegistrationClient;
use plugins::deviceplugin::*;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{IntervalStream, UnixListenerStream};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// How often files are looked at: a plugin for tests may.
const ROUND: Duration = Duration::from_millis(100);

struct Toys {
    ids: Vec<String>,
    data: PathBuf,
}

impl Toys {
    fn note(&self, call: &str, about: &[String]) {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.data.join("calls"));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{call} {}", about.join(" "));
        }
    }

    fn list(&self) -> ListAndWatchResponse {
        let unhealthy = std::fs::read_to_string(self.data.join("unhealthy")).unwrap_or_default();
        let health = |id: &str| if unhealthy.lines().any(|line| line == id) { "Unhealthy" } else { HEALTHY };
        let device = |id: &String| Device { id: id.clone(), health: health(id).into(), topology: None };
        ListAndWatchResponse { devices: self.ids.iter().map(device).collect() }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Toys {
    type ListAndWatchStream = BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Answer<DevicePluginOptions> {
        Ok(Response::new(DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true }))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Answer<Self::ListAndWatchStream> {
        let (ids, data) = (self.ids.clone(), self.data.clone());
        let mut last = None;
        let lists = IntervalStream::new(tokio::time::interval(ROUND)).filter_map(move |_| {
            let list = Toys { ids: ids.clone(), data: data.clone() }.list();
            let news = (last.as_ref() != Some(&list)).then(|| Ok(list.clone()));
            last = Some(list);
            async { news }
        });
        Ok(Response::new(lists.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Answer<PreferredAllocationResponse> {
        // The last ones first.
        let wish = |mut request: ContainerPreferredAllocationRequest| {
            request.available_device_i_ds.sort();
            request.available_device_i_ds.reverse();
            request.available_device_i_ds.truncate(usize::try_from(request.allocation_size).unwrap_or(0));
            ContainerPreferredAllocationResponse { device_i_ds: request.available_device_i_ds }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(wish).collect();
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Answer<AllocateResponse> {
        let give = |request: ContainerAllocateRequest| {
            self.note("allocate", &request.devices_ids);
            let cdi = |id: &String| CdiDevice { name: format!("test.timonel.local/toy={id}") };
            let (data, device) = (self.data.display().to_string(), "/dev/null".to_string());
            ContainerAllocateResponse {
                envs: [("TOY".to_string(), request.devices_ids.join(","))].into(),
                mounts: vec![Mount { container_path: "/toy".into(), host_path: data, read_only: true }],
                devices: vec![DeviceSpec {
                    container_path: "/dev/toy".into(),
                    host_path: device,
                    permissions: "rw".into(),
                }],
                cdi_devices: request.devices_ids.iter().map(cdi).collect(),
                annotations: Default::default(),
            }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(give).collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Answer<PreStartContainerResponse> {
        self.note("start", &request.into_inner().devices_ids);
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.ino())
}

/// Registers with the kubelet whose socket this is.
async fn register(folder: &Path, resource: &str) -> anyhow::Result<()> {
    let mut kubelet = RegistrationClient::new(plugins::connect(&folder.join("kubelet.sock")));
    let (version, endpoint) = (VERSION.to_string(), "toy.sock".to_string());
    let request = RegisterRequest { version, endpoint, resource_name: resource.into(), options: None };
    kubelet.register(request).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, resource, data, ids] = arguments.as_slice() else {
        anyhow::bail!("FOLDER RESOURCE DATA ID,… are missing")
    };
    let folder = PathBuf::from(folder);
    let toys = Arc::new(Toys { ids: ids.split(',').map(String::from).collect(), data: data.into() });
    let (own, kubelet) = (folder.join("toy.sock"), folder.join("kubelet.sock"));
    loop {
        let _ = std::fs::remove_file(&own);
        let listener = UnixListener::bind(&own).with_context(|| format!("can't listen at {}", own.display()))?;
        let (registered, mut wait) = (inode(&kubelet), tokio::time::interval(ROUND));
        let served = tonic::transport::Server::builder()
            .add_service(DevicePluginServer::from_arc(toys.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let served = tokio::spawn(served);
        if let Err(error) = register(&folder, resource).await {
            eprintln!("device-plugin: not registered: {error:#}");
        }
        // A new kubelet removes the sockets of all plugins.
        while inode(&kubelet) == registered && own.exists() {
            wait.tick().await;
        }
        served.abort();
        while !kubelet.exists() {
            wait.tick().await;
        }
    }
}
