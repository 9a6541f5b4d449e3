//! Manifests of static pods.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(pod) = kubelet::readers::static_pod(text, Path::new("/pods/a.yaml"), "node") else { return };
    // What the API doesn't know of it is decided here.
    assert!(pod.metadata.resource_version.is_none() && pod.metadata.uid.is_some_and(|uid| uid.len() == 32));
    let spec = pod.spec.unwrap_or_default();
    assert!(spec.node_name.as_deref() == Some("node") && !spec.containers.is_empty());
    assert!(pod.metadata.name.is_some_and(|name| name.ends_with("-node")));
});
