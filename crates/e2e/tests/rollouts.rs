//! Roll-outs of Deployments, and pods that come to a controller or leave it.

use serde_json::Value;
use testkit::Cluster;
use testkit::cluster::stock_kubectl;

const APP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app
  annotations: {kubernetes.io/change-cause: the first one}
spec:
  replicas: 3
  progressDeadlineSeconds: 3
  selector: {matchLabels: {app: app}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600'], env: [{name: VERSION, value: '1'}]}]
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old-style}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: old-style}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

fn progressing(deployment: &Value) -> (String, String) {
    let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|c| c["type"] == "Progressing").unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or("").to_string();
    (text("status"), text("reason"))
}

fn names(pods: &[Value]) -> Vec<String> {
    let mut names: Vec<String> =
        pods.iter().map(|p| p["metadata"]["name"].as_str().unwrap_or("").to_string()).collect();
    names.sort();
    names
}

#[test]
fn roll_outs_stall_are_paused_and_undone() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(APP)?;
    let state = |want: (&str, &str)| {
        cluster.eventually(&format!("the roll-out is {want:?}"), || {
            let deployment = cluster.get("deployment", "app")?;
            let (status, reason) = progressing(&deployment);
            anyhow::ensure!((status.as_str(), reason.as_str()) == want, "{}", deployment["status"]);
            Ok(true)
        })
    };
    state(("True", "NewReplicaSetAvailable"))?;
    let patch = |patch: &str| cluster.ok(&["patch", "deployment", "app", "-p", patch]);

    // A version that can't start: the old pods stay, and the deadline passes.
    patch(
        "{\"metadata\":{\"annotations\":{\"kubernetes.io/change-cause\":\"a broken one\"}},\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"nowhere.invalid/none:1\"}]}}}}",
    )?;
    state(("False", "ProgressDeadlineExceeded"))?;
    let deployment = cluster.get("deployment", "app")?;
    assert_eq!(deployment["status"]["availableReplicas"], 3, "none of the old ones may go");
    assert_eq!(deployment["status"]["updatedReplicas"], 1);
    if stock_kubectl().is_some() {
        let told = cluster.kubectl(&["rollout", "status", "deployment/app", "--timeout=5s"]);
        assert!(told.code != 0 && told.stderr.contains("exceeded its progress deadline"), "{told:?}");
        let history = cluster.ok(&["rollout", "history", "deployment/app"])?;
        assert!(history.contains("the first one") && history.contains("a broken one"), "{history}");
    }

    // More replicas in the middle of it: those that work get their part.
    cluster.ok(&["scale", "deployment", "app", "--replicas=6"])?;
    cluster.eventually("the old set grew in proportion", || {
        let sets = cluster.list("replicasets", "app=app")?;
        let sizes: Vec<i64> = sets.iter().filter_map(|s| s["spec"]["replicas"].as_i64()).collect();
        anyhow::ensure!(sizes.iter().sum::<i64>() == 7 && sizes.iter().max() >= Some(&5), "{sizes:?}");
        Ok(true)
    })?;

    // Back to what worked; it becomes the newest revision.
    let template =
        "{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"busybox:1.28\"}]}}}}";
    if stock_kubectl().is_some() {
        cluster.ok(&["rollout", "undo", "deployment/app"])?;
    } else {
        patch(template)?;
    }
    state(("True", "NewReplicaSetAvailable"))?;
    let deployment = cluster.get("deployment", "app")?;
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(deployment["status"]["updatedReplicas"], 6, "{}", deployment["status"]);

    // Paused: changes wait, scaling doesn't.
    patch(
        "{\"spec\":{\"paused\":true,\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"env\":[{\"name\":\"VERSION\",\"value\":\"2\"}]}]}}}}",
    )?;
    state(("Unknown", "DeploymentPaused"))?;
    cluster.ok(&["scale", "deployment", "app", "--replicas=2"])?;
    cluster.eventually("it is scaled though it is paused", || {
        Ok(cluster.get("deployment", "app")?["status"]["replicas"] == 2)
    })?;
    assert_eq!(cluster.list("replicasets", "app=app")?.len(), 2, "no set of the new template yet");
    patch("{\"spec\":{\"paused\":false}}")?;
    cluster.eventually("the change rolls out", || {
        let deployment = cluster.get("deployment", "app")?;
        Ok(deployment["status"]["updatedReplicas"] == 2 && deployment["status"]["replicas"] == 2)
    })?;
    state(("True", "NewReplicaSetAvailable"))
}

#[test]
fn pods_come_and_go_by_their_labels() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(APP)?;
    let pods = |selector: &str, count: usize| {
        cluster
            .eventually(&format!("{count} pods of {selector}"), || Ok(cluster.list("pods", selector)?.len() == count))
    };
    for (selector, count) in [("app=app", 3), ("app=old-style", 2)] {
        pods(selector, count)?;
        // One that is taken out for a look is replaced, and stays as nobody's.
        let name = names(&cluster.list("pods", selector)?)[0].clone();
        cluster.ok(&["label", "pod", &name, "app=aside", "--overwrite"])?;
        pods(selector, count)?;
        cluster
            .eventually("it is nobody's", || Ok(cluster.get("pod", &name)?["metadata"]["ownerReferences"].is_null()))?;
        // Put back, it is one too many.
        let label = selector.split('=').next_back().unwrap_or("");
        cluster.ok(&["label", "pod", &name, &format!("app={label}"), "--overwrite"])?;
        cluster.eventually("it was taken in, and one went", || {
            let all = cluster.list("pods", selector)?;
            let owned = all.iter().all(|p| !p["metadata"]["ownerReferences"].is_null());
            Ok(all.len() == count && owned)
        })?;
    }
    assert_eq!(cluster.get("rc", "old-style")?["status"]["readyReplicas"], 2);

    // Orphaned by their Deployment, sets and pods go on, and a new one takes them over.
    let before = names(&cluster.list("pods", "app=app")?);
    cluster.ok(&["delete", "deployment", "app", "--cascade=orphan"])?;
    cluster.eventually("the set is nobody's", || {
        Ok(cluster.list("replicasets", "app=app")?[0]["metadata"]["ownerReferences"].is_null())
    })?;
    cluster.apply(APP)?;
    cluster.eventually("the set is taken over", || {
        let sets = cluster.list("replicasets", "app=app")?;
        Ok(sets.len() == 1 && sets[0]["metadata"]["ownerReferences"][0]["kind"] == "Deployment")
    })?;
    assert_eq!(names(&cluster.list("pods", "app=app")?), before, "no pod was touched");
    Ok(())
}
