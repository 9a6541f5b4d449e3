//! Pods that try to be in the way: of their shim, of their own end, and of the machine's files.

use std::process::Command;

use testkit::Cluster;

mod suite;

/// `deaf` never reads what is typed; `loud` writes without end; `stopper` stops every other process that it sees, so also those that come
/// in by a probe or an exec; `itself` wants to run what it was before.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'busybox:1.28', stdin: true, command: [sleep, '36000']}
---
apiVersion: v1
kind: Pod
metadata: {name: loud}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'busybox:1.28', resources: {limits: {cpu: 200m}}, command: [sh, -c, 'trap \"exit 0\" TERM; while :; do echo 0123456789012345678901234567890123456789; done']}
---
apiVersion: v1
kind: Pod
metadata: {name: stopper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, 'while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || kill -STOP $p; done; done 2>/dev/null']
    resources: {limits: {cpu: 200m}}
    readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: itself}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - {name: c, image: 'busybox:1.28', command: [/proc/self/exe]}
---
apiVersion: v1
kind: Pod
metadata: {name: mistaken}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'busybox:1.28', command: [sleep, '36000'], securityContext: {capabilities: {drop: [everything]}}}
";

/// The cgroups of a pod that are there.
fn cgroups(uid: &str) -> anyhow::Result<String> {
    let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("pod{uid}")]).output()?;
    Ok(String::from_utf8(found.stdout)?)
}

#[test]
fn pods_cannot_keep_their_shim_from_its_work() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(PODS)?;
    cluster.wait_pod("deaf")?;
    cluster.wait_pod("loud")?;
    cluster.eventually("the stopper runs", || {
        Ok(cluster.get("pod", "stopper")?["status"]["containerStatuses"][0]["state"]["running"].is_object())
    })?;

    // Somebody types more than anybody reads, somebody else wants to hear and doesn't listen.
    let line = |words: &[&str]| cluster.kubectl_line(words).join(" ");
    let typing = format!("(head -c 3000000 /dev/zero; sleep 60) | {}", line(&["attach", "-i", "deaf"]));
    let _typing = cluster.server.beside(&["sh", "-c", typing.as_str()].map(String::from))?;
    let listening = format!("{} | sleep 60", line(&["attach", "loud"]));
    let _listening = cluster.server.beside(&["sh", "-c", listening.as_str()].map(String::from))?;
    // Further processes come in where everything is stopped.
    let _entering: Vec<_> =
        (0..5).map(|_| cluster.kubectl_beside(&["exec", "stopper", "--", "true"])).collect::<anyhow::Result<_>>()?;

    for round in 0..20 {
        for pod in ["deaf", "loud"] {
            assert_eq!(cluster.ok(&["exec", pod, "--", "echo", "here"])?, "here\n", "round {round}");
        }
    }
    cluster.eventually("the loud one goes on", || {
        let lines = |tail: &str| cluster.ok(&["logs", "loud", "--timestamps", tail]);
        let before = lines("--tail=1")?;
        Ok(lines("--tail=1")? != before)
    })?;

    // Neither sees anything of the machine's own program, and who drops what there isn't is told so.
    cluster.eventually("the program isn't run", || {
        let status = cluster.get("pod", "itself")?["status"].to_string();
        anyhow::ensure!(status.contains("permission denied"), "{status}");
        Ok(true)
    })?;
    cluster.eventually("an unknown capability is told of", || {
        let status = cluster.get("pod", "mistaken")?["status"].to_string();
        anyhow::ensure!(status.contains("CreateContainerConfigError") && status.contains("everything"), "{status}");
        Ok(true)
    })?;

    // All of them end when they are told to, and nothing of them stays, also when nobody waits for that.
    let uid = |name: &str| -> anyhow::Result<String> {
        Ok(cluster.get("pod", name)?["metadata"]["uid"].as_str().unwrap_or_default().to_string())
    };
    // A container that can't be made is tried again and again, and no try leaves a mount.
    let mistaken = uid("mistaken")?;
    let about = "involvedObject.name=mistaken,reason=Failed";
    cluster.eventually("it was tried three times", || {
        let told = cluster.ok(&["get", "events", "--field-selector", about, "-o", "jsonpath={.items[*].count}"])?;
        Ok(told.split_whitespace().filter_map(|count| count.parse::<u32>().ok()).sum::<u32>() >= 3)
    })?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let roots = mounts.lines().filter(|line| line.contains(&mistaken) && line.contains(" overlay ")).count();
    assert!(roots <= 1, "{roots} tries have left their root file systems");
    let uids = ["deaf", "loud", "stopper"].map(uid).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for uid in &uids {
        assert_ne!(cgroups(uid)?, "");
    }
    cluster.ok(&["delete", "pod", "deaf", "loud", "itself", "mistaken"])?;
    cluster.ok(&["delete", "pod", "stopper", "--force", "--grace-period=0"])?;
    for uid in &uids {
        cluster.eventually("nothing runs on unseen", || Ok(cgroups(uid)?.is_empty()))?;
    }
    Ok(())
}
