//! What storage drivers (CSI) and container runtimes (CRI) say by gRPC. The first byte picks the message.
#![no_main]

use csi::registration::PluginInfo;
use csi::v1::{NodeExpandVolumeResponse, NodeGetCapabilitiesResponse, NodeGetInfoResponse};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => drop(PluginInfo::decode(bytes)),
        1 => {
            if let Ok(info) = NodeGetInfoResponse::decode(bytes) {
                let driver = kubelet::readers::driver("d", &info);
                assert!(driver.allocatable.is_none_or(|a| a.count.is_some_and(|count| count > 0)));
            }
        }
        2 => drop(NodeGetCapabilitiesResponse::decode(bytes)),
        3 => drop(NodeExpandVolumeResponse::decode(bytes)),
        4 => {
            if let Ok(status) = cri::v1::ContainerStatusResponse::decode(bytes) {
                assert!(kubelet::readers::pid_in(&status.info).is_none_or(|pid| pid > 0));
            }
        }
        5 => {
            if let Ok(status) = cri::v1::PodSandboxStatusResponse::decode(bytes) {
                assert!(kubelet::readers::pid_in(&status.info).is_none_or(|pid| pid > 0));
            }
        }
        6 => drop(cri::v1::ListContainersResponse::decode(bytes)),
        _ => drop(cri::v1::StatusResponse::decode(bytes)),
    }
});
