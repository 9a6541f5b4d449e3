//! StatefulSets.

use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, image, is_ready, name, names};

const DB: &str = "/apis/apps/v1/namespaces/default/statefulsets/db";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn db(replicas: i32, more: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: db}}, spec: {{replicas: {replicas}, serviceName: db, {more} \
         selector: {{matchLabels: {{app: db}}}}, template: {{metadata: {{labels: {{app: db}}, annotations: {{{annotations}}}}}, \
         spec: {{containers: [{{name: c, image: one}}]}}}}}}}}"
    )
}

const CLAIM: &str = "volumeClaimTemplates: [{metadata: {name: data}, spec: {storageClassName: none, accessModes: [ReadWriteOnce], \
                     resources: {requests: {storage: 1Gi}}}}],";

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap()
}

/// What `kubectl rollout status` waits for.
fn is_rolled_out(s: &Value) -> bool {
    let wanted = s["spec"]["replicas"].as_i64().unwrap();
    s["status"]["observedGeneration"] == s["metadata"]["generation"]
        && s["status"]["availableReplicas"] == wanted
        && s["status"]["updatedReplicas"] == wanted
        && s["status"]["currentRevision"] == s["status"]["updateRevision"]
}

#[tokio::test(start_paused = true)]
async fn pods_come_and_go_in_order() {
    let cluster = Cluster::start(1).await;
    cluster.create(&db(3, "", "fake/ready: '5', fake/lingers: '4'")).await;
    cluster.until(DB, is_rolled_out).await;
    let pods = cluster.pods("db").await;
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    let born: Vec<&str> = pods.iter().map(|p| p["metadata"]["creationTimestamp"].as_str().unwrap()).collect();
    assert!(born[0] < born[1] && born[1] < born[2], "{born:?}");
    let pod = &pods[1];
    assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "db-1");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&"db-1".into(), &"db".into()));
    let told = cluster.events("db").await;
    let made: Vec<&String> = told.iter().filter(|t| t.starts_with("StatefulSet/db Normal SuccessfulCreate:")).collect();
    assert_eq!(made[0], "StatefulSet/db Normal SuccessfulCreate: create Pod db-0 in StatefulSet db successful");
    // Down again, one after the other from the end.
    cluster.patch(DB, json!({"spec": {"replicas": 1}})).await;
    let mut seen = Vec::new();
    cluster
        .until_list(PODS, |pods| {
            let now: Vec<String> = pods.iter().map(|p| name(p).to_string()).collect();
            let leaving = pods.iter().filter(|p| !p["metadata"]["deletionTimestamp"].is_null()).count();
            assert!(leaving <= 1, "{now:?}");
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            pods.len() == 1
        })
        .await;
    let all = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
    assert_eq!(seen, [all(&["db-0", "db-1", "db-2"]), all(&["db-0", "db-1"]), all(&["db-0"])]);
}

#[tokio::test(start_paused = true)]
async fn parallel_sets_start_anywhere_and_at_once() {
    let cluster = Cluster::start(1).await;
    cluster.create(&db(3, "podManagementPolicy: Parallel, ordinals: {start: 5},", "fake/ready: never")).await;
    let pods = cluster.until_list(PODS, |pods| pods.len() == 3).await;
    assert_eq!(names(&pods), ["db-5", "db-6", "db-7"]);
    cluster.patch(DB, json!({"spec": {"ordinals": {"start": 6}}})).await;
    cluster.until_list(PODS, |pods| names(pods) == ["db-6", "db-7", "db-8"]).await;
}

#[tokio::test(start_paused = true)]
async fn update_stops_at_the_partition_and_goes_back() {
    let cluster = Cluster::start(1).await;
    cluster.create(&db(4, "updateStrategy: {rollingUpdate: {partition: 2}},", "")).await;
    cluster.until(DB, is_rolled_out).await;
    let first = cluster.get(DB).await["status"]["updateRevision"].clone();
    cluster.patch(DB, image("two")).await;
    let half = cluster.until(DB, |s| s["status"]["updatedReplicas"] == 2 && s["status"]["readyReplicas"] == 4).await;
    assert_eq!((&half["status"]["currentRevision"], &half["status"]["currentReplicas"]), (&first, &2.into()));
    let images = |pods: &[Value]| pods.iter().map(|p| image_of(p).to_string()).collect::<Vec<_>>();
    assert_eq!(images(&cluster.pods("db").await), ["one", "one", "two", "two"]);
    // A pod below the partition that goes comes back as it was.
    cluster.delete(&format!("{PODS}/db-0"), json!({})).await;
    cluster
        .until(&format!("{PODS}/db-0"), |p| {
            p["metadata"]["deletionTimestamp"].is_null() && p["status"]["phase"] == "Running"
        })
        .await;
    assert_eq!(images(&cluster.pods("db").await), ["one", "one", "two", "two"]);
    cluster.patch(DB, json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})).await;
    cluster.until(DB, is_rolled_out).await;
    assert_eq!(images(&cluster.pods("db").await), ["two"; 4]);
    // Back: the old revision is taken again, as the newest.
    cluster.patch(DB, image("one")).await;
    let back = cluster.until(DB, |s| is_rolled_out(s) && s["status"]["updateRevision"] == first).await;
    let revisions = cluster.list("/apis/apps/v1/namespaces/default/controllerrevisions").await;
    assert_eq!(revisions.len(), 2);
    let newest = revisions.iter().max_by_key(|r| r["revision"].as_i64()).unwrap();
    assert_eq!(newest["metadata"]["name"], back["status"]["updateRevision"]);
}

#[tokio::test(start_paused = true)]
async fn on_delete_waits_for_people() {
    let cluster = Cluster::start(1).await;
    cluster.create(&db(2, "updateStrategy: {type: OnDelete},", "")).await;
    cluster.until(DB, |s| s["status"]["availableReplicas"] == 2).await;
    cluster.patch(DB, image("two")).await;
    cluster.until(DB, |s| s["status"]["observedGeneration"] == s["metadata"]["generation"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(cluster.pods("db").await.iter().all(|p| image_of(p) == "one"));
    cluster.delete(&format!("{PODS}/db-1"), json!({})).await;
    cluster.until(&format!("{PODS}/db-1"), |p| !p.is_null() && image_of(p) == "two").await;
    assert_eq!(image_of(&cluster.get(&format!("{PODS}/db-0")).await), "one");
    // Nothing was rolled out, so the revision in force is still the one that was.
    cluster.delete(&format!("{PODS}/db-0"), json!({})).await;
    let done =
        cluster.until(DB, |s| s["status"]["updatedReplicas"] == 2 && s["status"]["availableReplicas"] == 2).await;
    assert_ne!(done["status"]["currentRevision"], done["status"]["updateRevision"]);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_made_anew_takes_over_its_history() {
    let cluster = Cluster::start(1).await;
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    cluster.create(&db(1, "", "")).await;
    cluster.until(DB, is_rolled_out).await;
    cluster.patch(DB, image("two")).await;
    cluster.until(DB, is_rolled_out).await;
    cluster.delete(DB, json!({"propagationPolicy": "Orphan"})).await;
    cluster.until(DB, Value::is_null).await;
    let owner = |r: &Value| r["metadata"]["ownerReferences"][0]["uid"].clone();
    cluster.until_list(revisions, |all| all.len() == 2 && all.iter().all(|r| owner(r).is_null())).await;
    cluster.create(&db(1, "", "").replace("image: one", "image: two")).await;
    let anew = cluster.until(DB, is_rolled_out).await;
    let all = cluster.until_list(revisions, |all| all.iter().all(|r| owner(r) == anew["metadata"]["uid"])).await;
    let numbers: Vec<(Value, Value)> =
        all.iter().map(|r| (r["metadata"]["name"].clone(), r["revision"].clone())).collect();
    assert!(
        numbers.len() == 2 && numbers.contains(&(anew["status"]["updateRevision"].clone(), 2.into())),
        "{numbers:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn max_unavailable_updates_several_at_once() {
    let cluster = Cluster::start(1).await;
    let more = "podManagementPolicy: Parallel, updateStrategy: {rollingUpdate: {maxUnavailable: 2}},";
    cluster.create(&db(6, more, "fake/ready: '5', fake/lingers: '5'")).await;
    cluster.until(DB, is_rolled_out).await;
    cluster.patch(DB, image("two")).await;
    let mut fewest = i64::MAX;
    cluster
        .until(DB, |s| {
            fewest = fewest.min(s["status"]["availableReplicas"].as_i64().unwrap_or(0));
            is_rolled_out(s)
        })
        .await;
    assert_eq!(fewest, 4);
}

#[tokio::test(start_paused = true)]
async fn failed_pods_are_made_anew_and_a_stuck_update_is_mended_by_the_next() {
    let cluster = Cluster::start(1).await;
    cluster.create(&db(2, "", "")).await;
    cluster.until(DB, is_rolled_out).await;
    let before = cluster.get(&format!("{PODS}/db-0")).await["metadata"]["uid"].clone();
    cluster.patch(&format!("{PODS}/db-0/status"), json!({"status": {"phase": "Failed", "reason": "Evicted"}})).await;
    cluster
        .until(&format!("{PODS}/db-0"), |p| {
            !p.is_null() && p["metadata"]["uid"] != before && p["status"]["phase"] == "Running"
        })
        .await;
    cluster.until(DB, is_rolled_out).await;
    // An update whose pods never get ready ...
    cluster.patch(DB, json!({"spec": {"template": {"metadata": {"annotations": {"fake/ready": "never"}}}}})).await;
    let stuck = |s: &Value| s["status"]["updatedReplicas"] == 1 && s["status"]["readyReplicas"] == 1;
    cluster.until(DB, stuck).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(stuck(&cluster.get(DB).await), "the other pod stays");
    // ... waits for people as long as they run: they may be at work on their data. (Its pod is of the bad version and isn't ready.)
    cluster.patch(DB, json!({"spec": {"template": {"metadata": {"annotations": null}}}})).await;
    let waits = |s: &Value| {
        s["status"]["observedGeneration"] == s["metadata"]["generation"] && s["status"]["readyReplicas"] == 1
    };
    cluster.until(DB, waits).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(waits(&cluster.get(DB).await), "it is waited for");
    // What can't run is replaced, without anybody deleting it.
    let crashing = json!({"name": "c", "image": "one", "imageID": "", "ready": false, "restartCount": 3,
                          "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    cluster.patch(&format!("{PODS}/db-1/status"), json!({"status": {"containerStatuses": [crashing]}})).await;
    cluster.until(DB, is_rolled_out).await;
}

#[tokio::test(start_paused = true)]
async fn claims_stay_unless_the_policy_says_otherwise() {
    let cluster = Cluster::start(1).await;
    let claims = || async { cluster.list(CLAIMS).await.iter().map(|c| name(c).to_string()).collect::<Vec<_>>() };
    cluster.create(&db(3, &format!("{CLAIM} podManagementPolicy: Parallel,"), "")).await;
    let pods = cluster.until_list(PODS, |p| p.len() == 3).await;
    assert_eq!(claims().await, ["data-db-0", "data-db-1", "data-db-2"]);
    assert_eq!(
        pods[2]["spec"]["volumes"][0],
        json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2"}})
    );
    cluster.patch(DB, json!({"spec": {"replicas": 2}})).await;
    cluster.until_list(PODS, |p| p.len() == 2).await;
    assert_eq!(claims().await.len(), 3);
    // Whoever came back finds its own.
    let uid = cluster.get(&format!("{CLAIMS}/data-db-2")).await["metadata"]["uid"].clone();
    cluster.patch(DB, json!({"spec": {"replicas": 3}})).await;
    cluster.until_list(PODS, |p| p.len() == 3).await;
    assert_eq!(cluster.get(&format!("{CLAIMS}/data-db-2")).await["metadata"]["uid"], uid);
    let policy =
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"}}});
    cluster.patch(DB, policy).await;
    cluster
        .until(&format!("{CLAIMS}/data-db-0"), |c| c["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet")
        .await;
    cluster.patch(DB, json!({"spec": {"replicas": 1}})).await;
    cluster.until_list(CLAIMS, |c| names(c) == ["data-db-0"]).await;
    cluster.delete(DB, json!({})).await;
    cluster.until_list(CLAIMS, <[Value]>::is_empty).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_somebody_deletes_is_made_anew() {
    let cluster = Cluster::start(1).await;
    cluster
        .patch("/api/v1/nodes/fake-0", json!({"metadata": {"annotations": {"timonel.io/storage-path": "/s"}}}))
        .await;
    let claim = CLAIM.replace("storageClassName: none", "storageClassName: local-path");
    cluster.create(&db(1, &claim, "fake/lingers: '5'")).await;
    let (pod, claim) = (format!("{PODS}/db-0"), format!("{CLAIMS}/data-db-0"));
    cluster.until(&pod, is_ready).await;
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let (old_pod, old_claim) = (uid(&cluster.get(&pod).await), uid(&cluster.get(&claim).await));
    cluster.delete(&claim, json!({})).await;
    cluster.delete(&pod, json!({})).await;
    let is_new = |pod: &Value| is_ready(pod) && pod["metadata"]["uid"] != old_pod;
    cluster.until(&pod, is_new).await;
    let new = cluster.get(&claim).await;
    assert!(uid(&new) != old_claim && new["metadata"]["deletionTimestamp"].is_null(), "{new}");
    // Of a pod that has no node yet, too.
    cluster.patch("/api/v1/nodes/fake-0", json!({"spec": {"unschedulable": true}})).await;
    cluster.delete(&pod, json!({})).await;
    cluster.until(&pod, |p| condition(p, "PodScheduled").0 == "False").await;
    cluster.delete(&claim, json!({})).await;
    cluster.until(&claim, |c| !c.is_null() && uid(c) != uid(&new)).await;
    cluster.patch("/api/v1/nodes/fake-0", json!({"spec": {"unschedulable": null}})).await;
    cluster.until(&pod, is_ready).await;
}
