//! Pods of a node's own folder.

use serde_json::Value;
use testkit::Cluster;
use testkit::cluster::is_ready;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: own, labels: {app: own}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, 'echo said FIRST; exec sleep 3600']
";

fn container(pod: &Value) -> (String, i64) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["containerID"].as_str().unwrap_or("").into(), status["restartCount"].as_i64().unwrap_or(-1))
}

#[test]
fn a_node_has_pods_of_its_own() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_prepared(&[], |node| {
        let folder = node.folder().join("data/agent/pod-manifests");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join("own.yaml"), POD)?)
    })?;
    let file = cluster.server.folder().join("data/agent/pod-manifests/own.yaml");
    cluster.wait_pod("own-server-1")?;
    let pod = cluster.get("pod", "own-server-1")?;
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!((owner["kind"].as_str(), owner["name"].as_str()), (Some("Node"), Some("server-1")));
    assert_eq!(pod["spec"]["volumes"], Value::Null, "a static pod has no account: {pod}");
    assert_eq!(cluster.ok(&["logs", "own-server-1"])?, "said FIRST\n");
    assert_eq!(cluster.ok(&["exec", "own-server-1", "--", "echo", "hi"])?, "hi\n");

    // What stands for it may go, and the process with it that serves the API: the container doesn't notice.
    let before = container(&pod);
    cluster.ok(&["delete", "pod", "own-server-1", "--wait=false"])?;
    cluster.eventually("another mirror stands in its place", || {
        let found = cluster.list("pods", "app=own")?;
        let other = |now: &Value| now["metadata"]["uid"] != pod["metadata"]["uid"];
        Ok(found.iter().any(|now| other(now) && is_ready(now) && container(now) == before))
    })?;
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.eventually("it is the same after the process was killed", || {
        let found = cluster.list("pods", "app=own")?;
        let answers = || cluster.kubectl(&["exec", "own-server-1", "--", "true"]).code == 0;
        Ok(found.iter().any(|now| is_ready(now) && container(now) == before) && answers())
    })?;

    // A broken file changes nothing; the next good one does.
    std::fs::write(&file, POD.replace("busybox:1.28", "3"))?;
    let log = cluster.server.folder().join("log");
    cluster.eventually("the complaint names the field", || {
        let said = std::fs::read_to_string(&log)?;
        Ok(said.contains("ignored the manifest of a static pod")
            && said.contains("spec.containers.image of type string"))
    })?;
    assert_eq!(container(&cluster.get("pod", "own-server-1")?), before);
    std::fs::write(&file, POD.replace("FIRST", "SECOND"))?;
    cluster.eventually("the pod of the new file runs", || {
        let found = cluster.list("pods", "app=own")?;
        Ok(found.iter().any(|now| is_ready(now) && container(now).0 != before.0)
            && cluster.kubectl(&["logs", "own-server-1"]).stdout == "said SECOND\n")
    })?;
    assert_eq!(cluster.list("pods", "app=own")?.len(), 1);

    std::fs::remove_file(&file)?;
    cluster.eventually("without its file it is gone", || Ok(cluster.list("pods", "app=own")?.is_empty()))?;
    let left = std::fs::read_dir(cluster.server.folder().join("data/agent/pods"))?.count();
    assert_eq!(left, 0, "something is left of the pod");
    Ok(())
}
