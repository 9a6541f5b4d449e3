//! Claims and volumes.

use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, is_ready, name, names};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/default/pods";
const VOLUMES: &str = "/api/v1/persistentvolumes";

fn claim(name: &str, class: &str, size: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{{class} accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: {size}}}}}}}}}"
    )
}

fn volume(name: &str, size: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: {size}}}, accessModes: [ReadWriteOnce], \
         storageClassName: manual, {more} hostPath: {{path: /x}}}}}}"
    )
}

fn pod(name: &str, claim: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: one}}], volumes: \
         [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]}}}}"
    )
}

#[tokio::test(start_paused = true)]
async fn claim_takes_the_smallest_that_does_and_leaves_it_released() {
    let cluster = Cluster::start(1).await;
    cluster.create(&volume("large", "9Gi", "")).await;
    cluster.create(&volume("small", "1Gi", "")).await;
    cluster.create(&volume("right", "2Gi", "")).await;
    cluster.until_list(VOLUMES, |v| v.iter().all(|v| v["status"]["phase"] == "Available")).await;
    cluster.create(&claim("c", "storageClassName: manual,", "2Gi")).await;
    let path = format!("{CLAIMS}/c");
    let bound = cluster.until(&path, |c| c["status"]["phase"] == "Bound").await;
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&"right".into(), &"2Gi".into())
    );
    let right = format!("{VOLUMES}/right");
    assert_eq!(cluster.until(&right, |v| v["status"]["phase"] == "Bound").await["spec"]["claimRef"]["name"], "c");
    // While a pod uses it, it stays.
    cluster.create(&pod("p", "c")).await;
    cluster.until(&format!("{PODS}/p"), is_ready).await;
    cluster.delete(&path, json!({})).await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert!(cluster.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    cluster.delete(&right, json!({})).await;
    cluster.delete(&format!("{PODS}/p"), json!({})).await;
    cluster.until(&path, Value::is_null).await;
    cluster.until(&right, Value::is_null).await;
    cluster.create(&claim("d", "storageClassName: manual,", "1Gi")).await;
    cluster.until(&format!("{CLAIMS}/d"), |c| c["spec"]["volumeName"] == "small").await;
    cluster.delete(&format!("{CLAIMS}/d"), json!({})).await;
    let released = cluster.until(&format!("{VOLUMES}/small"), |v| v["status"]["phase"] == "Released").await;
    assert_eq!(released["spec"]["claimRef"]["name"], "d", "it may hold something");
    // Nobody can delete what nobody made.
    cluster.patch(&format!("{VOLUMES}/large"), json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})).await;
    cluster.create(&claim("e", "storageClassName: manual,", "9Gi")).await;
    cluster.until(&format!("{CLAIMS}/e"), |c| c["status"]["phase"] == "Bound").await;
    cluster.delete(&format!("{CLAIMS}/e"), json!({})).await;
    let failed = cluster.until(&format!("{VOLUMES}/large"), |v| v["status"]["phase"] == "Failed").await;
    let why = "error getting deleter volume plugin for volume \"large\": no deletable volume plugin matched";
    assert_eq!(failed["status"]["message"], why);
    let told = cluster.events("large").await;
    assert!(told.contains(&format!("PersistentVolume/large Warning VolumeFailedDelete: {why}")), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn volume_is_made_where_the_first_pod_goes_and_may_grow() {
    let cluster = Cluster::start(2).await;
    for node in ["fake-0", "fake-1"] {
        cluster
            .patch(
                &format!("/api/v1/nodes/{node}"),
                json!({"metadata": {"annotations": {"timonel.io/storage-path": "/s"}}}),
            )
            .await;
    }
    cluster.create(&claim("c", "", "1Gi")).await;
    let path = format!("{CLAIMS}/c");
    let waiting = cluster.until(&path, |c| c["spec"]["storageClassName"] == "local-path").await;
    assert_eq!(waiting["status"]["phase"], "Pending");
    cluster.create(&pod("p", "c")).await;
    let p = cluster.until(&format!("{PODS}/p"), is_ready).await;
    let bound = cluster.get(&path).await;
    assert_eq!(bound["status"]["phase"], "Bound");
    let made = cluster.get(&format!("{VOLUMES}/{}", bound["spec"]["volumeName"].as_str().unwrap())).await;
    let terms = &made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(terms["values"][0], p["spec"]["nodeName"]);
    // Its pod comes back to it.
    cluster.delete(&format!("{PODS}/p"), json!({})).await;
    cluster.until(&format!("{PODS}/p"), Value::is_null).await;
    cluster.create(&pod("q", "c")).await;
    assert_eq!(cluster.until(&format!("{PODS}/q"), is_ready).await["spec"]["nodeName"], p["spec"]["nodeName"]);
    cluster.patch(&path, json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})).await;
    cluster.until(&path, |c| c["status"]["capacity"]["storage"] == "3Gi").await;
    assert_eq!(cluster.get(&format!("{VOLUMES}/{}", name(&made))).await["spec"]["capacity"]["storage"], "3Gi");
    let told = cluster.events("c").await;
    for want in [
        "PersistentVolumeClaim/c Normal WaitForFirstConsumer: waiting for first consumer to be created before binding"
            .to_string(),
        format!(
            "PersistentVolumeClaim/c Normal ProvisioningSucceeded: Successfully provisioned volume {}",
            name(&made)
        ),
        "PersistentVolumeClaim/c Normal FileSystemResizeSuccessful: MountVolume.NodeExpandVolume succeeded for volume"
            .to_string(),
    ] {
        assert!(told.contains(&want), "{want}: {told:#?}");
    }
}

/// Volumes of the nodes' own disks that somebody made by hand: a claim that waits for its pod gets one of the node where the pod can be.
#[tokio::test(start_paused = true)]
async fn volumes_made_by_hand_are_found_where_the_pod_can_be() {
    let cluster = Cluster::start(2).await;
    for node in ["fake-0", "fake-1"] {
        cluster.patch(&format!("/api/v1/nodes/{node}"), json!({"metadata": {"labels": {"disk": node}}})).await;
    }
    cluster
        .create(
            "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: manual}, provisioner: kubernetes.io/no-provisioner, \
             volumeBindingMode: WaitForFirstConsumer}",
        )
        .await;
    // The smaller one is on the other node.
    for (name, size, node) in [("small", "1Gi", "fake-0"), ("large", "9Gi", "fake-1")] {
        let place = format!(
            "nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: disk, operator: In, values: [{node}]}}]}}]}}}},"
        );
        cluster.create(&volume(name, size, &place)).await;
    }
    let there = |pod: String| pod.replace("spec: {containers", "spec: {nodeSelector: {disk: fake-1}, containers");
    for name in ["c", "d"] {
        cluster.create(&claim(name, "storageClassName: manual,", "1Gi")).await;
    }
    cluster.create(&there(pod("p", "c"))).await;
    assert_eq!(cluster.until(&format!("{PODS}/p"), is_ready).await["spec"]["nodeName"], "fake-1");
    assert_eq!(cluster.get(&format!("{CLAIMS}/c")).await["spec"]["volumeName"], "large");
    cluster.create(&there(pod("q", "d"))).await;
    let q = cluster.until(&format!("{PODS}/q"), |q| condition(q, "PodScheduled").0 == "False").await;
    let why = condition(&q, "PodScheduled").2;
    assert!(why.contains("1 node(s) didn't find available persistent volumes to bind"), "{why}");
    assert_eq!(cluster.get(&format!("{CLAIMS}/d")).await["spec"]["volumeName"], Value::Null);
}

/// Who waits for his volume has his place already: others are spread with regard to him.
#[tokio::test(start_paused = true)]
async fn pods_whose_volumes_are_made_at_the_same_time_are_spread() {
    let cluster = Cluster::start(4).await;
    for node in 0..4 {
        let path = format!("/api/v1/nodes/fake-{node}");
        cluster.patch(&path, json!({"metadata": {"annotations": {"timonel.io/storage-path": "/s"}}})).await;
    }
    cluster
        .create(
            "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 4, podManagementPolicy: Parallel, serviceName: db, \
             selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {topologySpreadConstraints: [{maxSkew: 1, \
             topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: db}}}], containers: [{name: c, \
             image: i, volumeMounts: [{name: data, mountPath: /data}]}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: \
             [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}]}}",
        )
        .await;
    let set = "/apis/apps/v1/namespaces/default/statefulsets/db";
    cluster.until(set, |set| set["status"]["readyReplicas"] == 4).await;
    let nodes: std::collections::BTreeSet<String> =
        cluster.pods("db").await.iter().map(|pod| pod["spec"]["nodeName"].to_string()).collect();
    assert_eq!(nodes.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn claims_say_why_they_wait() {
    let cluster = Cluster::start(1).await;
    cluster
        .create(
            "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: far}, provisioner: example.com/far}",
        )
        .await;
    cluster.create(&claim("none", "storageClassName: '',", "1Gi")).await;
    cluster.create(&claim("missing", "storageClassName: nosuch,", "1Gi")).await;
    cluster.create(&claim("far", "storageClassName: far,", "1Gi")).await;
    cluster.create(&pod("p", "none")).await;
    let p = cluster.until(&format!("{PODS}/p"), |p| condition(p, "PodScheduled").0 == "False").await;
    assert_eq!(
        condition(&p, "PodScheduled").2,
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let told = cluster.events("").await;
    for want in [
        "PersistentVolumeClaim/none Normal FailedBinding: no persistent volumes available for this claim and no storage class is set",
        "PersistentVolumeClaim/missing Warning ProvisioningFailed: storageclass.storage.k8s.io \"nosuch\" not found",
        "PersistentVolumeClaim/far Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner \
         'example.com/far' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is \
         running and correctly registered.",
    ] {
        assert!(told.contains(&want.to_string()), "{want}: {told:#?}");
    }
    let far = cluster.get(&format!("{CLAIMS}/far")).await;
    assert_eq!(far["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"], "example.com/far");
    // What can't grow is refused.
    cluster.create(&volume("v", "1Gi", "claimRef: {namespace: default, name: far},").replace("manual", "far")).await;
    cluster.until(&format!("{CLAIMS}/far"), |c| c["status"]["phase"] == "Bound").await;
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    for (claim, want) in [
        ("far", "only dynamically provisioned pvc can be resized"),
        (
            "missing",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ),
    ] {
        let refused = cluster.try_patch(&format!("{CLAIMS}/{claim}"), &more).await.unwrap_err();
        assert!(refused.to_string().contains(want), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn volumes_of_drivers_are_attached_where_they_are_needed() {
    let cluster = Cluster::start(2).await;
    for (volume, driver) in [("a", "needs.example.com"), ("b", "doesnt.example.com")] {
        cluster
            .create(&format!(
                "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {volume}}}, spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], \
                 storageClassName: m{volume}, csi: {{driver: {driver}, volumeHandle: h-{volume}}}}}}}"
            ))
            .await;
        cluster.create(&claim(&format!("c{volume}"), &format!("storageClassName: m{volume},"), "1Gi")).await;
    }
    cluster.create("{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: doesnt.example.com}, spec: {attachRequired: false}}").await;
    cluster.create(&pod("pa", "ca")).await;
    cluster.create(&pod("pb", "cb")).await;
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    let found = cluster.until_list(attachments, |a| a.len() == 1).await;
    let pa = cluster.until(&format!("{PODS}/pa"), is_ready).await;
    cluster.until(&format!("{PODS}/pb"), is_ready).await;
    let spec = &found[0]["spec"];
    assert_eq!((&spec["attacher"], &spec["nodeName"]), (&"needs.example.com".into(), &pa["spec"]["nodeName"]));
    assert_eq!(spec["source"]["persistentVolumeName"], "a");
    assert_eq!(names(&cluster.list(attachments).await).len(), 1);

    // The node has it mounted still when the pod is gone: it isn't taken from it, nor given to another.
    let node = format!("/api/v1/nodes/{}", pa["spec"]["nodeName"].as_str().unwrap_or(""));
    let in_use = json!({"status": {"volumesInUse": ["kubernetes.io/csi/needs.example.com^h-a"]}});
    cluster.patch(&format!("{node}/status"), in_use).await;
    cluster.delete(&format!("{PODS}/pa"), json!({})).await;
    let other = if node.ends_with('0') { "fake-1" } else { "fake-0" };
    let there = pod("elsewhere", "ca").replace("spec: {", &format!("spec: {{nodeName: {other}, "));
    cluster.create(&there).await;
    while !cluster.events("elsewhere").await.iter().any(|e| e.contains("Multi-Attach error for volume")) {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(cluster.list(attachments).await[0]["spec"]["nodeName"], pa["spec"]["nodeName"]);
    cluster.patch(&format!("{node}/status"), json!({"status": {"volumesInUse": []}})).await;
    cluster.until_list(attachments, |a| a.len() == 1 && a[0]["spec"]["nodeName"] == other).await;
    cluster.delete(&format!("{PODS}/elsewhere"), json!({})).await;
    cluster.until_list(attachments, <[Value]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn claims_for_one_pod_and_for_a_pods_life() {
    let cluster = Cluster::start(2).await;
    cluster.create(&volume("v", "1Gi", "").replace("ReadWriteOnce", "ReadWriteOncePod")).await;
    cluster.create(&claim("c", "storageClassName: manual,", "1Gi").replace("ReadWriteOnce", "ReadWriteOncePod")).await;
    cluster.until(&format!("{CLAIMS}/c"), |c| c["status"]["phase"] == "Bound").await;
    cluster.create(&pod("p", "c")).await;
    cluster.until(&format!("{PODS}/p"), is_ready).await;
    cluster.create(&pod("q", "c")).await;
    let held = cluster.until(&format!("{PODS}/q"), |p| condition(p, "PodScheduled").0 == "False").await;
    let message = condition(&held, "PodScheduled").2;
    assert!(
        message
            .contains("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"),
        "{message}"
    );
    cluster.delete(&format!("{PODS}/p"), json!({})).await;
    cluster.until(&format!("{PODS}/q"), is_ready).await;
    cluster
        .create(
            "{apiVersion: v1, kind: Pod, metadata: {name: own}, spec: {containers: [{name: c, image: one}], volumes: [{name: scratch, ephemeral: \
             {volumeClaimTemplate: {spec: {storageClassName: manual, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]}}",
        )
        .await;
    let made = cluster.until(&format!("{CLAIMS}/own-scratch"), |c| !c.is_null()).await;
    assert_eq!(
        (&made["metadata"]["ownerReferences"][0]["kind"], &made["metadata"]["ownerReferences"][0]["name"]),
        (&"Pod".into(), &"own".into())
    );
    cluster.delete(&format!("{PODS}/own"), json!({})).await;
    cluster.until(&format!("{CLAIMS}/own-scratch"), Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_gets_no_more_volumes_on_a_node_than_it_can_take() {
    let cluster = Cluster::start(1).await;
    let driver = "{name: d.example.com, nodeID: 'n', topologyKeys: [], allocatable: {count: 2}}";
    cluster
        .create(&format!("{{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {{name: fake-0}}, spec: {{drivers: [{driver}]}}}}"))
        .await;
    for name in ["a", "b", "c"] {
        cluster
            .create(&format!(
                "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], \
                 storageClassName: manual, claimRef: {{namespace: default, name: {name}}}, csi: {{driver: d.example.com, volumeHandle: {name}}}}}}}"
            ))
            .await;
        cluster.create(&claim(name, "storageClassName: manual,", "1Gi")).await;
        cluster.until(&format!("{CLAIMS}/{name}"), |c| c["status"]["phase"] == "Bound").await;
    }
    // One of them for two pods is one volume.
    for (name, claim) in [("p", "a"), ("q", "a"), ("r", "b")] {
        cluster.create(&pod(name, claim)).await;
        cluster.until(&format!("{PODS}/{name}"), |p| p["spec"]["nodeName"] == "fake-0").await;
    }
    cluster.create(&pod("s", "c")).await;
    let s = format!("{PODS}/s");
    let held = cluster.until(&s, |p| condition(p, "PodScheduled").0 == "False").await;
    let told = condition(&held, "PodScheduled").2;
    assert!(told.contains("1 node(s) exceed max volume count"), "{told}");
    cluster.create(&pod("t", "b")).await;
    cluster.until(&format!("{PODS}/t"), |p| p["spec"]["nodeName"] == "fake-0").await;
    for name in ["p", "q"] {
        cluster.delete(&format!("{PODS}/{name}"), json!({})).await;
    }
    cluster.until(&s, |p| p["spec"]["nodeName"] == "fake-0").await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_told_why_the_volume_that_it_names_will_not_do() {
    let cluster = Cluster::start(1).await;
    cluster
        .create(
            "{apiVersion: v1, kind: PersistentVolume, metadata: {name: small}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], \
             storageClassName: manual, hostPath: {path: /x}}}",
        )
        .await;
    for (name, more, size, why) in [
        ("large", "storageClassName: manual, volumeName: small,", "2Gi", "requested PV is too small"),
        ("other", "storageClassName: another, volumeName: small,", "1Gi", "storageClassName does not match"),
        ("block", "storageClassName: manual, volumeMode: Block, volumeName: small,", "1Gi", "incompatible volumeMode"),
    ] {
        cluster.create(&claim(name, more, size)).await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let told = cluster.events(name).await;
        let want = format!(
            "PersistentVolumeClaim/{name} Warning VolumeMismatch: Cannot bind to requested volume \"small\": {why}"
        );
        assert!(told.contains(&want), "{told:#?}");
        assert_eq!(cluster.get(&format!("{CLAIMS}/{name}")).await["status"]["phase"], "Pending");
    }
    cluster.create(&claim("fits", "storageClassName: manual, volumeName: small,", "1Gi")).await;
    cluster.until(&format!("{CLAIMS}/fits"), |c| c["status"]["phase"] == "Bound").await;
    cluster.create(&claim("late", "storageClassName: manual, volumeName: small,", "1Gi")).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let told = cluster.events("late").await;
    let want = "PersistentVolumeClaim/late Warning FailedBinding: volume \"small\" already bound to a different claim.";
    assert!(told.contains(&want.to_string()), "{told:#?}");
    // Its volume goes away under it.
    let volume = "/api/v1/persistentvolumes/small";
    cluster.patch(volume, json!({"metadata": {"finalizers": null}})).await;
    cluster.delete(volume, json!({})).await;
    cluster.until(&format!("{CLAIMS}/fits"), |c| c["status"]["phase"] == "Lost").await;
    let told = cluster.events("fits").await;
    let want = "PersistentVolumeClaim/fits Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    assert!(told.contains(&want.to_string()), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_a_quota_forbids_comes_once_there_is_room() {
    let cluster = Cluster::start(1).await;
    cluster.create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {persistentvolumeclaims: '0'}}}").await;
    cluster
        .create(
            "{apiVersion: v1, kind: Pod, metadata: {name: own}, spec: {containers: [{name: c, image: one}], volumes: [{name: scratch, ephemeral: \
             {volumeClaimTemplate: {spec: {storageClassName: local-path, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]}}",
        )
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let told = cluster.events("own").await;
    let begins = "Pod/own Warning FailedBinding: ephemeral volume scratch: create PVC own-scratch: persistentvolumeclaims \"own-scratch\" is forbidden: exceeded quota";
    assert!(told.iter().any(|t| t.starts_with(begins)), "{told:#?}");
    cluster
        .patch(
            "/api/v1/namespaces/default/resourcequotas/none",
            json!({"spec": {"hard": {"persistentvolumeclaims": "1"}}}),
        )
        .await;
    cluster.until(&format!("{CLAIMS}/own-scratch"), |c| !c.is_null()).await;
}
