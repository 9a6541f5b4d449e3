//! A driver of claims' devices for tests (dynamic resource allocation): its devices are gadgets. It offers them in a ResourceSlice, and
//! prepares claims for the kubelet by naming CDI devices `test.timonel.local/gadget=DEVICE`.
//!
//! `dra-driver KUBECONFIG KUBELET_FOLDER NODE DRIVER DATA ID,…`: every call is written to `calls` in DATA, where the file `mood` may say
//! that it refuses (`refuse`), never answers (`hang`), answers about another claim (`lie`), leaves claims out (`skip`), or names a CDI device
//! that isn't there (`absent`).

#![allow(clippy::disallowed_methods, reason = "the files are the test's")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use plugins::dra::dra_plugin_server::{DraPlugin, DraPluginServer};
use plugins::dra::*;
use plugins::registration::registration_server::{Registration, RegistrationServer};
use plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use serde_json::json;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

struct Driver {
    client: Client,
    name: String,
    endpoint: String,
    data: PathBuf,
}

impl Driver {
    fn note(&self, call: &str, about: &str) {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.data.join("calls"));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{call} {about}");
        }
    }

    fn mood(&self) -> String {
        std::fs::read_to_string(self.data.join("mood")).unwrap_or_default().trim().to_string()
    }

    /// The devices of a claim that are this driver's.
    async fn devices(&self, claim: &Claim) -> Result<Vec<Device>, Status> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let found = api.get(&claim.name).await.map_err(|error| Status::internal(error.to_string()))?;
        if found.metadata.uid.as_ref() != Some(&claim.uid) {
            return Err(Status::not_found("the claim was replaced"));
        }
        let allocation = found.status.and_then(|status| status.allocation).and_then(|allocation| allocation.devices);
        let results = allocation.and_then(|devices| devices.results).unwrap_or_default();
        let kind = if self.mood() == "absent" { "nothing" } else { "gadget" };
        let device = |result: k8s_openapi::api::resource::v1::DeviceRequestAllocationResult| Device {
            request_names: vec![result.request],
            pool_name: result.pool,
            cdi_device_ids: vec![format!("test.timonel.local/{kind}={}", result.device)],
            device_name: result.device,
            share_id: None,
        };
        Ok(results.into_iter().filter(|result| result.driver == self.name).map(device).collect())
    }
}

#[tonic::async_trait]
impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Answer<NodePrepareResourcesResponse> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.note("prepare", &claim.name);
            match self.mood().as_str() {
                "hang" => std::future::pending::<()>().await,
                "refuse" => {
                    let error = "the gadget is out of order".to_string();
                    claims.insert(claim.uid, NodePrepareResourceResponse { devices: Vec::new(), error });
                }
                "lie" => {
                    claims.insert("another".into(), NodePrepareResourceResponse::default());
                }
                "skip" => {}
                _ => {
                    let devices = self.devices(&claim).await?;
                    claims.insert(claim.uid, NodePrepareResourceResponse { devices, error: String::new() });
                }
            }
        }
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Answer<NodeUnprepareResourcesResponse> {
        let claims = request.into_inner().claims.into_iter();
        let claims = claims.map(|claim| {
            self.note("unprepare", &claim.name);
            (claim.uid, NodeUnprepareResourceResponse::default())
        });
        Ok(Response::new(NodeUnprepareResourcesResponse { claims: claims.collect() }))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: plugins::DRA_PLUGIN.into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![SERVICE.into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        self.note("registered", &format!("{} {}", status.plugin_registered, status.error));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("can't listen at {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

/// Offers the devices: the first letter of each is its kind, and their order their number.
async fn offer(client: &Client, driver: &str, node: &str, ids: &str) -> anyhow::Result<()> {
    let device = |(number, id): (usize, &str)| {
        json!({"name": id, "attributes": {"kind": {"string": &id[..1]}, "number": {"int": number}},
            "capacity": {"size": {"value": format!("{}Gi", number + 1)}}})
    };
    let devices: Vec<_> = ids.split(',').enumerate().map(device).collect();
    let name = format!("{node}-{driver}");
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
        "spec": {"driver": driver, "nodeName": node, "devices": devices,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    slices.patch(&name, &PatchParams::apply("dra-driver").force(), &Patch::Apply(slice)).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, kubelet, node, name, data, ids] = arguments.as_slice() else {
        anyhow::bail!("KUBECONFIG KUBELET_FOLDER NODE DRIVER DATA ID,… are missing")
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let kubelet = PathBuf::from(kubelet);
    let own = kubelet.join("plugins").join(name);
    std::fs::create_dir_all(&own)?;
    let endpoint = own.join("dra.sock");
    let driver = Arc::new(Driver {
        client: client.clone(),
        name: name.clone(),
        endpoint: endpoint.display().to_string(),
        data: data.into(),
    });
    let services = tonic::transport::Server::builder()
        .add_service(DraPluginServer::from_arc(driver.clone()))
        .serve_with_incoming(listen(&endpoint)?);
    let registration = tonic::transport::Server::builder()
        .add_service(RegistrationServer::from_arc(driver))
        .serve_with_incoming(listen(&kubelet.join("plugins_registry").join(format!("{name}-reg.sock")))?);
    offer(&client, name, node, ids).await?;
    tokio::try_join!(services, registration)?;
    Ok(())
}
