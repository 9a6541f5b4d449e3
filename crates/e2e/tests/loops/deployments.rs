//! ReplicaSets, ReplicationControllers and Deployments.

use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, image, name, names};

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A Deployment `web`, with `more` in its spec and `annotations` on its pods.
fn web(replicas: i32, more: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: {replicas}, {more} selector: {{matchLabels: {{app: web}}}}, \
         template: {{metadata: {{labels: {{app: web}}, annotations: {{{annotations}}}}}, spec: {{containers: [{{name: c, image: one}}]}}}}}}}}"
    )
}

fn image_of(object: &Value) -> &str {
    let spec =
        if object["spec"]["template"].is_object() { &object["spec"]["template"]["spec"] } else { &object["spec"] };
    spec["containers"][0]["image"].as_str().unwrap()
}

/// A Deployment's rollout as `kubectl rollout status` sees it.
fn is_rolled_out(d: &Value) -> bool {
    let (wanted, status) = (d["spec"]["replicas"].as_i64().unwrap(), &d["status"]);
    status["observedGeneration"] == d["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|k| status[*k].as_i64().unwrap_or(0) == wanted)
}

#[tokio::test(start_paused = true)]
async fn deployment_comes_up_and_tells_so() {
    let cluster = Cluster::start(2).await;
    cluster.create(&web(3, "", "")).await;
    let web = cluster.until(WEB, is_rolled_out).await;
    let available = condition(&web, "Available");
    assert_eq!(available.0, "True");
    assert_eq!(
        (available.1.as_str(), available.2.as_str()),
        ("MinimumReplicasAvailable", "Deployment has minimum availability.")
    );
    let progressing = condition(&web, "Progressing");
    assert_eq!((progressing.0.as_str(), progressing.1.as_str()), ("True", "NewReplicaSetAvailable"));
    let sets = cluster.list(SETS).await;
    let set = name(&sets[0]).to_string();
    // It was made with its size: whoever sees it first knows how many pods it will have.
    assert_eq!((&sets[0]["metadata"]["generation"], &sets[0]["spec"]["replicas"]), (&json!(1), &json!(3)));
    assert_eq!(progressing.2, format!("ReplicaSet \"{set}\" has successfully progressed."));
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let told = cluster.events("web").await;
    assert!(
        told.contains(&format!("Deployment/web Normal ScalingReplicaSet: Scaled up replica set {set} from 0 to 3")),
        "{told:#?}"
    );
    assert_eq!(
        told.iter()
            .filter(|t| t.starts_with(&format!("ReplicaSet/{set} Normal SuccessfulCreate: Created pod: {set}-")))
            .count(),
        3
    );
}

#[tokio::test(start_paused = true)]
async fn update_keeps_within_its_bounds() {
    let cluster = Cluster::start(2).await;
    let strategy = "strategy: {rollingUpdate: {maxSurge: 2, maxUnavailable: 1}},";
    cluster.create(&web(6, strategy, "fake/ready: '5', fake/lingers: '3'")).await;
    cluster.until(WEB, is_rolled_out).await;
    cluster.patch(WEB, image("two")).await;
    let (mut most, mut fewest) = (0, usize::MAX);
    cluster
        .until(WEB, |d| {
            let count = |key: &str| usize::try_from(d["status"][key].as_i64().unwrap_or(0)).unwrap();
            (most, fewest) = (most.max(count("replicas")), fewest.min(count("availableReplicas")));
            is_rolled_out(d)
        })
        .await;
    assert!(most <= 8 && fewest >= 5, "{most} at the most, {fewest} at the least");
    assert!(cluster.pods("web").await.iter().all(|p| image_of(p) == "two"));
    let sets = cluster.list(SETS).await;
    assert_eq!(sets.iter().map(|s| s["spec"]["replicas"].as_i64().unwrap()).sum::<i64>(), 6);
    assert_eq!(sets.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn recreate_never_mixes() {
    let cluster = Cluster::start(2).await;
    cluster.create(&web(3, "strategy: {type: Recreate},", "fake/lingers: '20'")).await;
    cluster.until(WEB, is_rolled_out).await;
    cluster.patch(WEB, image("two")).await;
    // Also those on their way out count: the new ones come when the last old one is gone.
    cluster
        .until_list(PODS, |pods| {
            let (old, new): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|p| image_of(p) == "one");
            assert!(old.is_empty() || new.is_empty(), "{} old and {} new", old.len(), new.len());
            new.len() == 3
        })
        .await;
    cluster.until(WEB, is_rolled_out).await;
}

#[tokio::test(start_paused = true)]
async fn undo_goes_back_to_the_old_set_and_history_is_bound() {
    let cluster = Cluster::start(1).await;
    cluster.create(&web(1, "revisionHistoryLimit: 2,", "")).await;
    for image_name in ["two", "three", "four", "five"] {
        cluster.until(WEB, is_rolled_out).await;
        cluster.patch(WEB, image(image_name)).await;
    }
    cluster.until(WEB, is_rolled_out).await;
    let sets = cluster.until_list(SETS, |sets| sets.len() == 3).await;
    let revision =
        |s: &Value| s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap().to_string();
    let mut revisions: Vec<String> = sets.iter().map(revision).collect();
    revisions.sort();
    assert_eq!(revisions, ["3", "4", "5"]);
    // Going back takes the set that is there, with a new revision.
    cluster.patch(WEB, image("three")).await;
    let back = cluster.until(WEB, |d| d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "6").await;
    assert_eq!(image_of(&back), "three");
    cluster.until(WEB, is_rolled_out).await;
    let sets = cluster.list(SETS).await;
    let three = sets.iter().find(|s| image_of(s) == "three").unwrap();
    assert_eq!(revision(three), "6");
    assert_eq!(three["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "3");
    assert_eq!(three["spec"]["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn paused_deployment_scales_but_doesnt_roll_out() {
    let cluster = Cluster::start(1).await;
    cluster.create(&web(2, "", "")).await;
    cluster.until(WEB, is_rolled_out).await;
    cluster.patch(WEB, json!({"spec": {"paused": true}})).await;
    let paused = cluster.until(WEB, |d| condition(d, "Progressing").1 == "DeploymentPaused").await;
    assert_eq!(
        condition(&paused, "Progressing"),
        ("Unknown".into(), "DeploymentPaused".into(), "Deployment is paused".into())
    );
    cluster.patch(WEB, image("two")).await;
    cluster.patch(WEB, json!({"spec": {"replicas": 4}})).await;
    cluster.until(WEB, |d| d["status"]["availableReplicas"] == 4).await;
    assert_eq!(cluster.list(SETS).await.len(), 1);
    cluster.patch(WEB, json!({"spec": {"paused": false}})).await;
    cluster.until(WEB, is_rolled_out).await;
    assert!(cluster.pods("web").await.iter().all(|p| image_of(p) == "two"));
}

#[tokio::test(start_paused = true)]
async fn stuck_rollout_is_told_after_its_deadline() {
    let cluster = Cluster::start(1).await;
    cluster.create(&web(2, "progressDeadlineSeconds: 60,", "")).await;
    cluster.until(WEB, is_rolled_out).await;
    let stuck = json!({"spec": {"template": {"metadata": {"annotations": {"fake/ready": "never"}}}}});
    cluster.patch(WEB, stuck).await;
    let late = cluster.until(WEB, |d| condition(d, "Progressing").0 == "False").await;
    let (_, reason, message) = condition(&late, "Progressing");
    assert_eq!(reason, "ProgressDeadlineExceeded");
    assert!(
        message.starts_with("ReplicaSet \"web-") && message.ends_with("\" has timed out progressing."),
        "{message}"
    );
    assert_eq!(late["status"]["availableReplicas"], 2, "the old ones stay");
    // A pause doesn't hide it.
    cluster.patch(WEB, json!({"spec": {"paused": true}})).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(condition(&cluster.get(WEB).await, "Progressing").1, "ProgressDeadlineExceeded");
    cluster.patch(WEB, json!({"spec": {"paused": false}})).await;
    // Going back ends it.
    cluster.patch(WEB, json!({"spec": {"template": {"metadata": {"annotations": null}}}})).await;
    let back = cluster.until(WEB, |d| condition(d, "Progressing").0 == "True" && is_rolled_out(d)).await;
    assert_eq!(condition(&back, "Progressing").1, "NewReplicaSetAvailable");
}

#[tokio::test(start_paused = true)]
async fn rollover_and_proportional_scaling() {
    let cluster = Cluster::start(4).await;
    let strategy = "strategy: {rollingUpdate: {maxSurge: 3, maxUnavailable: 2}},";
    cluster.create(&web(10, strategy, "")).await;
    cluster.until(WEB, is_rolled_out).await;
    let never = json!({"spec": {"template": {"metadata": {"annotations": {"fake/ready": "never"}}}}});
    cluster.patch(WEB, never).await;
    let size = |sets: &[Value], which: &str| {
        let of = |s: &&Value| s["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == which;
        sets.iter().find(of).map_or(0, |s| s["spec"]["replicas"].as_i64().unwrap())
    };
    cluster.until_list(SETS, |s| size(s, "1") == 8 && size(s, "2") == 5).await;
    // Upstream's documented example: 15 replicas, shared by what each has.
    cluster.patch(WEB, json!({"spec": {"replicas": 15}})).await;
    cluster.until_list(SETS, |s| size(s, "1") == 11 && size(s, "2") == 7).await;
    // In the midst of it, another one: both former ones go down.
    let good = json!({"spec": {"template": {"metadata": {"annotations": null, "labels": {"app": "web", "v": "3"}}}}});
    cluster.patch(WEB, good).await;
    cluster.until(WEB, is_rolled_out).await;
    cluster.until_list(SETS, |s| size(s, "1") == 0 && size(s, "2") == 0 && size(s, "3") == 15).await;
}

#[tokio::test(start_paused = true)]
async fn set_takes_in_and_lets_go_and_replaces() {
    let cluster = Cluster::start(1).await;
    cluster
        .create("{apiVersion: v1, kind: Pod, metadata: {name: stray, labels: {app: set}}, spec: {containers: [{name: c, image: one}]}}")
        .await;
    cluster.until(&format!("{PODS}/stray"), |p| p["status"]["phase"] == "Running").await;
    cluster
        .create(
            "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: set}, spec: {replicas: 3, selector: {matchLabels: {app: set}}, \
             template: {metadata: {labels: {app: set}}, spec: {containers: [{name: c, image: one}]}}}}",
        )
        .await;
    let path = format!("{SETS}/set");
    cluster.until(&path, |s| s["status"]["availableReplicas"] == 3).await;
    assert_eq!(cluster.get(&format!("{PODS}/stray")).await["metadata"]["ownerReferences"][0]["name"], "set");
    cluster.patch(&format!("{PODS}/stray"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster.until(&format!("{PODS}/stray"), |p| p["metadata"]["ownerReferences"].is_null()).await;
    cluster.until(&path, |s| s["status"]["availableReplicas"] == 3).await;
    // The cheapest goes first.
    let pods = cluster.pods("set").await;
    let cheap = names(&pods)[1].to_string();
    let cost = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
    cluster.patch(&format!("{PODS}/{cheap}"), cost).await;
    cluster.patch(&path, json!({"spec": {"replicas": 2}})).await;
    cluster.until(&format!("{PODS}/{cheap}"), Value::is_null).await;
    cluster.until(&path, |s| s["status"]["replicas"] == 2).await;
    let told = cluster.events("set").await;
    assert!(told.contains(&format!("ReplicaSet/set Normal SuccessfulDelete: Deleted pod: {cheap}")), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn set_says_why_it_has_too_few() {
    let cluster = Cluster::start(1).await;
    cluster.create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: few}, spec: {hard: {pods: '1'}}}").await;
    cluster
        .create(
            "{apiVersion: v1, kind: ReplicationController, metadata: {name: set}, spec: {replicas: 2, selector: {app: set}, \
             template: {metadata: {labels: {app: set}}, spec: {containers: [{name: c, image: one}]}}}}",
        )
        .await;
    let path = "/api/v1/namespaces/default/replicationcontrollers/set";
    let short = cluster
        .until(path, |s| condition(s, "ReplicaFailure").0 == "True" && s["status"]["availableReplicas"] == 1)
        .await;
    let (_, reason, message) = condition(&short, "ReplicaFailure");
    assert_eq!(reason, "FailedCreate");
    assert!(
        message.contains("is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1"),
        "{message}"
    );
    let told = cluster.events("set").await;
    assert!(
        told.iter()
            .any(|t| t.starts_with("ReplicationController/set Warning FailedCreate: Error creating: pods \"set-")),
        "{told:#?}"
    );
    cluster.patch("/api/v1/namespaces/default/resourcequotas/few", json!({"spec": {"hard": {"pods": "5"}}})).await;
    let whole = cluster.until(path, |s| s["status"]["availableReplicas"] == 2).await;
    assert_eq!(condition(&whole, "ReplicaFailure").0, "");
}

#[tokio::test(start_paused = true)]
async fn min_ready_seconds_delay_availability() {
    let cluster = Cluster::start(1).await;
    cluster.create(&web(1, "minReadySeconds: 30,", "")).await;
    let ready = cluster.until(WEB, |d| d["status"]["readyReplicas"] == 1).await;
    assert_eq!(ready["status"]["availableReplicas"].as_i64().unwrap_or(0), 0);
    cluster.until(WEB, is_rolled_out).await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_whose_pods_are_forbidden_says_so_and_tries_few() {
    let cluster = Cluster::start(1).await;
    cluster.create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {pods: '0'}}}").await;
    cluster.create(&web(30, "", "")).await;
    let stuck = cluster.until(WEB, |d| condition(d, "ReplicaFailure").0 == "True").await;
    let (status, reason, message) = condition(&stuck, "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetCreated"));
    assert!(message.starts_with("Created new replica set \"web-"), "{message}");
    assert_eq!(stuck["status"]["unavailableReplicas"], 30);
    let told = cluster.events("web-").await;
    let refused = told.iter().filter(|t| t.contains(" Warning FailedCreate: Error creating: ")).count();
    assert!((1..8).contains(&refused), "each try makes one pod until that works: {told:#?}");
    // Sets are bounded, too.
    cluster.create("{apiVersion: v1, kind: ResourceQuota, metadata: {name: sets}, spec: {hard: {count/replicasets.apps: '1'}}}").await;
    cluster.until("/api/v1/namespaces/default/resourcequotas/sets", |q| q["status"]["used"].is_object()).await;
    cluster.patch(WEB, image("two")).await;
    let stuck = cluster.until(WEB, |d| condition(d, "Progressing").0 == "False").await;
    let (_, reason, message) = condition(&stuck, "Progressing");
    assert_eq!(reason, "ReplicaSetCreateError");
    assert!(
        message.starts_with("Failed to create new replica set \"web-") && message.contains("exceeded quota: sets"),
        "{message}"
    );
    let told = cluster.events("web").await;
    assert!(
        told.iter()
            .any(|t| t
                .starts_with("Deployment/web Warning ReplicaSetCreateError: Failed to create new replica set \"web-")),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_may_be_down_as_a_whole_is_available_without_pods() {
    let cluster = Cluster::start(1).await;
    // Both bounds round to nothing: then one pod may be down.
    let more = "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 25%}},";
    cluster.create(&web(1, more, "fake/ready: never")).await;
    let found = cluster.until(WEB, |d| d["status"]["updatedReplicas"] == 1).await;
    assert_eq!(condition(&found, "Available").1, "MinimumReplicasAvailable", "{found}");
}
