//! The node service: stages, publishes and expands volumes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use csi::v1::node_server::Node;
use csi::v1::node_service_capability::rpc::Type as Ability;
use csi::v1::node_service_capability::{Rpc, Type};
use csi::v1::volume_capability::AccessType;
use csi::v1::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::{Request, Response, Status};

use crate::{Answer, Driver, failed};

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
    let is_mounted = std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| mounts.lines().any(|l| l.split(' ').nth(4) == target.to_str()));
    if is_mounted {
        return Ok(());
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

fn unbind(target: &Path) -> Result<(), Status> {
    match umount2(target, MntFlags::empty()) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    matches!(capability.and_then(|c| c.access_type.as_ref()), Some(AccessType::Block(_)))
}

/// What is worth a line of a request.
fn about(values: &std::collections::HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = values.iter().collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.note(
            "stage",
            format!("{} {} {}", request.volume_id, about(&request.publish_context), about(&request.secrets)),
        );
        if is_block(request.volume_capability.as_ref()) {
            self.device(&request.volume_id)?;
        } else {
            bind(&self.volume(&request.volume_id), Path::new(&request.staging_target_path), false)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id);
        unbind(Path::new(&request.staging_target_path))?;
        if self.volume(&request.volume_id).join("image").exists() {
            let device = self.device(&request.volume_id)?;
            Command::new("busybox").args(["losetup", "-d", &device]).status().map_err(failed)?;
        }
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let context: std::collections::HashMap<String, String> = request.volume_context.clone();
        self.note("publish", format!("{} {}", request.volume_id, about(&context)));
        let target = Path::new(&request.target_path);
        if is_block(request.volume_capability.as_ref()) {
            std::fs::File::create(target).map_err(failed)?;
            bind(Path::new(&self.device(&request.volume_id)?), target, request.readonly)?;
            return Ok(Response::new(NodePublishVolumeResponse {}));
        }
        std::fs::create_dir_all(target).map_err(failed)?;
        let volume = self.volume(&request.volume_id);
        if context.get("csi.storage.k8s.io/ephemeral").map(String::as_str) == Some("true") {
            std::fs::create_dir_all(&volume).map_err(failed)?;
            let greeting = context.get("greeting").cloned().unwrap_or_default();
            std::fs::write(volume.join("greeting"), greeting).map_err(failed)?;
            bind(&volume, target, request.readonly)?;
        } else {
            bind(Path::new(&request.staging_target_path), target, request.readonly)?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id);
        unbind(Path::new(&request.target_path))?;
        if request.volume_id.starts_with("csi-") {
            let _ = std::fs::remove_dir_all(self.volume(&request.volume_id));
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        self.note("expand", format!("{} {bytes}", request.volume_id));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let can = [Ability::StageUnstageVolume, Ability::ExpandVolume];
        let capability = |a: Ability| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: a.into() })) };
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: can.map(capability).into() }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let segments = [("topology.hostpath.csi/node".to_string(), self.node.clone())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: format!("id-of-{}", self.node),
            max_volumes_per_node: self.most,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}
