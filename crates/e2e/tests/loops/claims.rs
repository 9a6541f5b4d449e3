//! Claims of devices: made of templates, allocated by the scheduler, given back.

use serde_json::{Value, json};

use crate::cluster::{Cluster, is_ready, name};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";

/// Two GPUs of the node `fake-0`, a class for them, and a template of a claim for one.
pub const DEVICES: &str = "
{apiVersion: resource.k8s.io/v1, kind: DeviceClass, metadata: {name: gpus}, spec: {selectors: [{cel: {expression: \"device.driver == 'gpu.example.com'\"}}]}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {name: gpus}, spec: {driver: gpu.example.com, nodeName: fake-0, pool: {name: fake-0, generation: 1, resourceSliceCount: 1}, devices: [{name: gpu-0}, {name: gpu-1}]}}
---
{apiVersion: resource.k8s.io/v1, kind: ResourceClaimTemplate, metadata: {name: gpu}, spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpus}}]}}}}";

pub fn pod(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{resourceClaims: [{{name: gpu, resourceClaimTemplateName: gpu}}], \
         containers: [{{name: c, image: one, resources: {{claims: [{{name: gpu}}]}}}}]}}}}"
    )
}

/// The devices of all claims, each with the pod that has it.
pub fn given(claims: &[Value]) -> Vec<String> {
    let of = |claim: &Value| {
        let results = claim["status"]["allocation"]["devices"]["results"].as_array().cloned().unwrap_or_default();
        let user = claim["status"]["reservedFor"][0]["name"].as_str().unwrap_or("nobody").to_string();
        results.iter().map(|result| format!("{user} {}", result["device"].as_str().unwrap())).collect::<Vec<_>>()
    };
    let mut given: Vec<String> = claims.iter().flat_map(of).collect();
    given.sort();
    given
}

#[tokio::test(start_paused = true)]
async fn pods_get_devices_by_claims_and_give_them_back() {
    let cluster = Cluster::start(2).await;
    cluster.create(DEVICES).await;
    for name in ["a", "b", "c"] {
        cluster.create(&pod(name)).await;
    }
    let running = |pods: &[Value]| pods.iter().filter(|pod| is_ready(pod)).count();
    let pods = cluster.until_list(PODS, |pods| running(pods) == 2).await;
    assert!(pods.iter().filter(|pod| is_ready(pod)).all(|pod| pod["spec"]["nodeName"] == "fake-0"), "{pods:#?}");
    let claims = cluster.list(CLAIMS).await;
    let devices: Vec<String> = given(&claims).iter().map(|text| text.split(' ').nth(1).unwrap().to_string()).collect();
    assert_eq!((claims.len(), devices), (3, vec!["gpu-0".to_string(), "gpu-1".to_string()]));
    let waiting = pods.iter().find(|pod| !is_ready(pod)).map(|pod| name(pod).to_string()).unwrap();
    let told = cluster.events(&waiting).await.join("\n");
    assert!(told.contains("0/2 nodes are available: 2 cannot allocate all claims."), "{told}");
    let claim = &pods.iter().find(|pod| name(pod) == waiting).unwrap()["status"]["resourceClaimStatuses"][0];
    assert!(claim["resourceClaimName"].as_str().unwrap().starts_with(&format!("{waiting}-gpu-")), "{claim}");
    // The device of one that goes is the next one's, and its claim goes, too.
    let first = pods.iter().find(|pod| is_ready(pod)).map(|pod| name(pod).to_string()).unwrap();
    cluster.delete(&format!("{PODS}/{first}"), json!({})).await;
    cluster.until(&format!("{PODS}/{waiting}"), is_ready).await;
    cluster.until_list(CLAIMS, |claims| claims.len() == 2).await;
    // A device that an administrator taints is nobody's any more.
    let rule = "{apiVersion: resource.k8s.io/v1, kind: DeviceTaintRule, metadata: {name: broken}, spec: {deviceSelector: {driver: gpu.example.com}, \
                taint: {key: broken, effect: NoExecute}}}";
    cluster.create(rule).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
    cluster.until_list(CLAIMS, <[Value]>::is_empty).await;
    let told = cluster.events(&waiting).await.join("\n");
    assert!(told.contains("DeviceTaintManagerEviction: Marking for deletion"), "{told}");
    cluster.create(&pod("d")).await;
    cluster.until(&format!("{PODS}/d"), |pod| pod["status"]["conditions"][0]["reason"] == "Unschedulable").await;
    cluster.delete("/apis/resource.k8s.io/v1/devicetaintrules/broken", json!({})).await;
    cluster.until(&format!("{PODS}/d"), is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn claims_that_somebody_made_stay_and_are_shared() {
    let cluster = Cluster::start(1).await;
    cluster.create(DEVICES).await;
    cluster.create("{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: shared}, spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpus, count: 2}}]}}}").await;
    let pod = |name: &str| pod(name).replace("resourceClaimTemplateName: gpu", "resourceClaimName: shared");
    cluster.create(&pod("a")).await;
    cluster.create(&pod("b")).await;
    cluster.until_list(PODS, |pods| pods.len() == 2 && pods.iter().all(is_ready)).await;
    let path = format!("{CLAIMS}/shared");
    let claim = cluster.get(&path).await;
    assert_eq!(claim["status"]["reservedFor"].as_array().unwrap().len(), 2);
    assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    // It isn't gone before its last pod is.
    cluster.delete(&path, json!({})).await;
    cluster.delete(&format!("{PODS}/a"), json!({})).await;
    cluster.until(&path, |claim| claim["status"]["reservedFor"].as_array().is_some_and(|users| users.len() == 1)).await;
    cluster.delete(&format!("{PODS}/b"), json!({})).await;
    cluster.until(&path, Value::is_null).await;
}
