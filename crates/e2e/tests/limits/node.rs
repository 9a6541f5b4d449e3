//! Limits of a node: pressure, what is reserved of it, and its shutdown.

use anyhow::Context as _;
use testkit::Cluster;

use super::pod;

const HARDY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hardy}
spec:
  terminationGracePeriodSeconds: 30
  tolerations: [{operator: Exists}]
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

#[test]
fn a_node_under_pressure_reports_it_and_evicts_pods() -> anyhow::Result<()> {
    // No machine has that much.
    let cluster = Cluster::start_with(&["--eviction-hard", "memory.available<100Pi"])?;
    cluster.eventually("the node tells of its shortage, and is tainted", || {
        let node = &cluster.list("nodes", "")?[0];
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let low = conditions.iter().any(|c| c["type"] == "MemoryPressure" && c["status"] == "True");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Ok(low && taints.iter().any(|t| t["key"] == "node.kubernetes.io/memory-pressure"))
    })?;
    cluster.apply(HARDY)?;
    cluster.eventually("the pod that comes all the same is evicted", || {
        let status = &cluster.get("pod", "hardy")?["status"];
        anyhow::ensure!(status["phase"] == "Failed" && status["reason"] == "Evicted", "{status}");
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let told = status["message"].as_str().is_some_and(|m| m.contains("low on resource: memory"));
        Ok(told && conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"))
    })?;
    let plain = cluster.get("pod", "plain")?;
    assert!(plain["spec"]["nodeName"].is_null(), "{plain}");
    let message = &plain["status"]["conditions"][0]["message"];
    assert!(message.as_str().is_some_and(|m| m.contains("memory-pressure")), "{message}");
    let refused = cluster.server.timonel(&["server", "--eviction-hard", "cpu<1"]);
    assert!(refused.code != 0 && refused.stderr.contains("memory.available<100Mi"), "{refused:?}");
    Ok(())
}

#[test]
fn reserved_resources_are_kept_from_pods() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&[
        "--kube-reserved=cpu=100m,memory=256Mi",
        "--system-reserved=cpu=100m,pid=1000",
        "--pod-max-pids=32",
        "--eviction-hard=",
    ])?;
    let nodes = cluster.list("nodes", "")?;
    let (capacity, allocatable) = (&nodes[0]["status"]["capacity"], &nodes[0]["status"]["allocatable"]);
    let number = |amount: &serde_json::Value, unit: &str| {
        amount.as_str().and_then(|text| text.strip_suffix(unit)?.parse::<u64>().ok()).context("a number")
    };
    assert_eq!(number(&allocatable["cpu"], "m")?, number(&capacity["cpu"], "")? * 1000 - 200);
    let memory = number(&capacity["memory"], "Ki")?;
    assert!(number(&allocatable["memory"], "Ki")? <= memory - (256 << 10));
    // All pods together are bound by that, and each in the number of its processes.
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let read = |controller: &str, group: &str, file: &str| -> anyhow::Result<u64> {
        let root = std::path::Path::new("/sys/fs/cgroup").join(if unified { "" } else { controller });
        let path = root.join(cluster.server.cgroup()).join(group).join(file);
        Ok(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().parse()?)
    };
    let file = if unified { "memory.max" } else { "memory.limit_in_bytes" };
    assert_eq!(read("memory", "", file)?, (memory - (256 << 10)) << 10);
    assert!(read("pids", "", "pids.max")? > 1000);
    cluster.apply(&pod("bomb", "{}").replace("image: x", "image: 'busybox:1.28', command: [sleep, '36000']"))?;
    cluster.wait_pod("bomb")?;
    let uid = cluster.get("pod", "bomb")?["metadata"]["uid"].as_str().context("uid")?.to_string();
    assert_eq!(read("pids", &format!("besteffort/pod{uid}"), "pids.max")?, 32);
    let many = "for i in $(seq 50); do sleep 60 & done; echo all";
    let refused = cluster.kubectl(&["exec", "bomb", "--", "sh", "-c", many]);
    assert!(!refused.stdout.contains("all") && refused.stderr.contains("fork"), "{refused:?}");

    for (flag, words) in [
        ("--kube-reserved=disk=1Gi", "\"disk=1Gi\" is no reservation"),
        ("--system-reserved=memory=100Ti", "100Ti of memory can't be reserved, as the machine has"),
    ] {
        let refused = cluster.server.timonel(&["server", flag]);
        assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
    }
    Ok(())
}

/// Tests of pods would wait in vain until their time is over.
#[test]
fn a_cluster_whose_disk_is_full_is_told_so_at_once() {
    let error = Cluster::start_with(&["--eviction-hard", "nodefs.available<100%"]).err().map(|error| error.to_string());
    assert!(error.as_ref().is_some_and(|error| error.contains("DiskPressure")), "{error:?}");
}

/// Pods that say in a folder of the machine when they end.
fn telling(folder: &std::path::Path) -> String {
    let pod = |name: &str, class: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 20\n  {class}\n  \
             volumes: [{{name: v, hostPath: {{path: {}}}}}]\n  containers:\n  - name: c\n    image: busybox:1.28\n    \
             command: [sh, -c, 'trap \"echo {name} ends >> /v/told; exit 0\" TERM; while :; do sleep 0.1; done']\n    \
             volumeMounts: [{{name: v, mountPath: /v}}]\n    \
             lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'echo {name} stops >> /v/told']}}}}}}\n---\n",
            folder.display()
        )
    };
    format!("{}{}", pod("plain", ""), pod("critical", "priorityClassName: system-node-critical"))
}

#[test]
fn pods_end_in_order_when_the_machine_goes_down() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_prepared(&[], |node| node.programs(&[("systemctl", "echo running")]))?;
    let folder = cluster.server.folder().join("told");
    std::fs::create_dir_all(&folder)?;
    cluster.apply(&telling(&folder))?;
    let names = ["plain", "critical"];
    names.iter().try_for_each(|name| cluster.wait_pod(name))?;
    let uids = || names.map(|name| cluster.get("pod", name).map(|pod| pod["metadata"]["uid"].clone()).ok());
    let before = uids();
    let told = || std::fs::read_to_string(folder.join("told")).unwrap_or_default();

    // Only this program ends: nobody notices.
    cluster.server.stop()?;
    assert_eq!(told(), "");
    cluster.server.programs(&[("systemctl", "echo stopping")])?;
    cluster.server.spawn()?;
    // Its hooks are run by the agent, which has to be there first.
    cluster.eventually("the agent is up again", || Ok(cluster.kubectl(&["exec", "plain", "--", "true"]).code == 0))?;
    cluster.server.stop()?;
    assert_eq!(told(), "plain stops\nplain ends\ncritical stops\ncritical ends\n");
    let events = std::fs::read_to_string(cluster.server.folder().join("log"))?;
    assert!(events.contains("graceful node shutdown: pods have terminated"), "{events}");

    cluster.server.programs(&[("systemctl", "echo running")])?;
    cluster.server.spawn()?;
    for name in names {
        cluster.eventually("the same pod runs again", || {
            let pod = cluster.get("pod", name)?;
            Ok(testkit::cluster::is_ready(&pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        })?;
    }
    let uids = names.map(|name| cluster.get("pod", name).map(|pod| pod["metadata"]["uid"].clone()).ok());
    assert_eq!(uids, before);
    cluster.eventually("the node is ready", || Ok(testkit::cluster::is_ready(&cluster.get("node", "server-1")?)))
}
