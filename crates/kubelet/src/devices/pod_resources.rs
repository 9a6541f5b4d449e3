//! Tells programs of the node which devices containers have (pod resources API, KEP-606), on the socket `pod-resources/kubelet.sock` of
//! `--kubelet-dir`. Processors and memory aren't given to containers one by one by this kubelet, so those lists are empty, as they are with
//! upstream's default policies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::plugins::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use ::plugins::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, NumaNode,
    PodResources, TopologyInfo,
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tonic::{Request, Response, Status};

use super::DeviceManager;
use super::claims::ClaimManager;
use crate::plugins::serve;
use crate::spec::is_sidecar;

/// The wait after the socket can't be served.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The pods that run on this node.
pub type ActivePods = Arc<dyn Fn() -> Vec<Arc<Pod>> + Send + Sync>;

struct Lister {
    devices: Arc<DeviceManager>,
    claims: Arc<ClaimManager>,
    pods: ActivePods,
}

/// Serves the socket, until the process ends.
pub async fn run(socket: PathBuf, devices: Arc<DeviceManager>, claims: Arc<ClaimManager>, pods: ActivePods) {
    loop {
        let lister = Lister { devices: devices.clone(), claims: claims.clone(), pods: pods.clone() };
        let error = serve(&socket, PodResourcesListerServer::new(lister)).await;
        tracing::warn!(%error, socket = %socket.display(), "failed to serve the pod resources API; retrying");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// A device as the API tells it: once for each of its NUMA nodes.
fn entries(resource: &str, device: &str, nodes: &[i64]) -> Vec<ContainerDevices> {
    let entry =
        |topology| ContainerDevices { resource_name: resource.into(), device_ids: vec![device.into()], topology };
    if nodes.is_empty() {
        return vec![entry(None)];
    }
    nodes.iter().map(|id| entry(Some(TopologyInfo { nodes: vec![NumaNode { id: *id }] }))).collect()
}

impl Lister {
    fn resources(&self, pod: &Pod) -> PodResources {
        let uid = pod.uid().unwrap_or_default();
        let inventory = self.devices.inventory.lock();
        let spec = pod.spec.iter();
        let sidecars = spec.clone().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
        let containers = sidecars.chain(spec.flat_map(|s| &s.containers)).map(|container| {
            let allocated = inventory.of_container(&uid, &container.name).into_iter().flatten();
            let devices = allocated.flat_map(|(resource, allocation)| {
                allocation.devices.iter().flat_map(|(id, nodes)| entries(resource, id, nodes)).collect::<Vec<_>>()
            });
            ContainerResources {
                name: container.name.clone(),
                devices: devices.collect(),
                dynamic_resources: self.claims.dynamic_resources(pod, container),
                ..ContainerResources::default()
            }
        });
        let containers = containers.collect();
        PodResources { name: pod.name_any(), namespace: pod.namespace().unwrap_or_default(), containers }
    }
}

#[async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = (self.pods)().iter().map(|pod| self.resources(pod)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let inventory = self.devices.inventory.lock();
        let devices = inventory.allocatable().flat_map(|(resource, id, nodes)| entries(resource, id, nodes)).collect();
        Ok(Response::new(AllocatableResourcesResponse { devices, ..AllocatableResourcesResponse::default() }))
    }

    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let is_it =
            |pod: &&Arc<Pod>| pod.name_any() == pod_name && pod.namespace().unwrap_or_default() == pod_namespace;
        match (self.pods)().iter().find(is_it) {
            Some(pod) => Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.resources(pod)) })),
            None => Err(Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found"))),
        }
    }
}
