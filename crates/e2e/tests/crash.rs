//! What survives when the server is killed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::Cluster;
use testkit::cluster::is_ready;

use crate::fixtures;

const WEB: &str = include_str!("../../../examples/web.yaml");

#[test]
fn containers_outlive_the_server_and_are_taken_up_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_pod("web-1")?;
    let containers = |cluster: &Cluster| -> anyhow::Result<Vec<String>> {
        ["web-0", "web-1"]
            .iter()
            .map(|pod| {
                let status = cluster.get("pod", pod)?["status"]["containerStatuses"][0].clone();
                Ok(format!(
                    "{} {} {}",
                    status["containerID"], status["state"]["running"]["startedAt"], status["restartCount"]
                ))
            })
            .collect()
    };
    let before = containers(&cluster)?;
    for round in 0..3 {
        cluster.server.crash();
        cluster.server.spawn()?;
        cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
        cluster.eventually("exec works again", || Ok(cluster.kubectl(&["exec", "web-0", "--", "true"]).code == 0))?;
        assert_eq!(containers(&cluster)?, before, "after crash {round}");
    }
    // What was acknowledged just before a crash is there after it.
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: last}\ndata: {k: v}\n")?;
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    assert_eq!(cluster.get("configmap", "last")?["data"]["k"], "v");
    // Control goes on: a deleted pod comes back.
    cluster.ok(&["delete", "pod", "web-1"])?;
    cluster.wait_pod("web-1")
}

#[test]
fn uninstall_leaves_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_pod("web-0")?;
    let output = cluster.server.uninstall();
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(cluster.server.leftovers(), Vec::<String>::new());
    // Again, with nothing there: still fine.
    assert_eq!(cluster.server.uninstall().code, 0);
    Ok(())
}

/// Two instances on one machine: each is removed without the other's notice.
#[test]
fn uninstall_leaves_another_instance_of_the_machine_alone() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_pod("web-1")?;
    let second = cluster.server.folder().join("second");
    let [data, run, kubeconfig] = ["data", "run", "kubeconfig"].map(|name| second.join(name).display().to_string());
    let program = cluster.server.binary().display().to_string();
    let start = |cluster: &Cluster| {
        let address = cluster.server.address();
        let flags = [
            "server",
            "--data-dir",
            &data,
            "--run-dir",
            &run,
            "--write-kubeconfig",
            &kubeconfig,
            "--disable-agent",
            "--node-name",
            "second",
        ];
        let ports = ["--node-ip", &address, "--https-listen-port", "7443", "--cgroup-root", "timonel-second"];
        let words = [program.as_str()].into_iter().chain(flags).chain(ports).map(String::from).collect::<Vec<_>>();
        cluster.server.beside(&words)
    };
    let uninstall_second = |cluster: &Cluster| {
        let flags = ["--yes", "--data-dir", &data, "--run-dir", &run, "--cgroup-root", "timonel-second"];
        let output = cluster.server.timonel(&[&["uninstall"][..], &flags].concat());
        assert_eq!(output.code, 0, "{output:?}");
    };
    let answers = |cluster: &Cluster| {
        let words = [program.as_str(), "kubectl", "--kubeconfig", &kubeconfig, "get", "namespaces"].map(String::from);
        cluster.server.run(&words, "").code == 0
    };
    let mut other = start(&cluster)?;
    cluster.eventually("the second instance answers", || Ok(answers(&cluster)))?;
    let before = (cluster.server.inventory(), cluster.server.processes());

    // The second goes, the first stays as it is.
    uninstall_second(&cluster);
    cluster.eventually("its process has ended", || Ok(other.code().is_some()))?;
    assert!(!std::path::Path::new(&data).exists() && !std::path::Path::new(&run).exists());
    assert_eq!((cluster.server.inventory(), cluster.server.processes()), before);
    cluster.ok(&["exec", "web-1", "--", "true"])?;

    // The first goes, the second stays.
    let other = start(&cluster)?;
    cluster.eventually("the second instance answers", || Ok(answers(&cluster)))?;
    let output = cluster.server.uninstall();
    assert_eq!(output.code, 0, "{output:?}");
    assert!(answers(&cluster), "the second instance is gone with the first");
    drop(other);
    uninstall_second(&cluster);
    assert_eq!(cluster.server.leftovers(), Vec::<String>::new());
    Ok(())
}

/// Kills the server at moments drawn by chance while a client writes; `SEED=n` repeats a run.
#[test]
fn nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start()?;
    let line = cluster.kubectl_line(&["create", "configmap"]).join(" ");
    let names = |round: u32| {
        format!("i=0; while :; do i=$((i+1)); {line} n-{round}-$i >/dev/null 2>&1 && echo n-{round}-$i; done")
    };
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let writer = cluster.server.beside(&["bash".into(), "-c".into(), names(round)])?;
        cluster.eventually("something is written", || Ok(!writer.lines().is_empty()))?;
        std::thread::sleep(std::time::Duration::from_millis(chance.random_range(0..400)));
        cluster.server.crash();
        acknowledged.extend(writer.lines());
        drop(writer);
        cluster.server.spawn()?;
        cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    }
    let present = cluster.ok(&["get", "configmaps", "-o", "name"])?;
    for name in &acknowledged {
        let line = format!("configmap/{name}");
        assert!(present.lines().any(|l| l == line), "SEED={seed}: {name} was acknowledged and is lost");
    }
    Ok(())
}

const MIXED: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      initContainers:
      - {name: first, image: 'busybox:1.28', command: ['true']}
      - {name: beside, image: 'busybox:1.28', command: [sleep, '36000'], restartPolicy: Always}
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '36000'], volumeMounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, emptyDir: {medium: Memory}}]
";

/// Kills the daemon, shims, containers, or all at once, at moments drawn by chance; `SEED=n` repeats a run, and `KILLS=n` says how
/// often (10 unless told otherwise; releases are tried with 200).
#[test]
fn killed_processes_come_back_and_leave_nothing() -> anyhow::Result<()> {
    // What is killed again and again waits for long else.
    kill_by_chance(Cluster::start_with(&["--restart-backoff", "1s,2s"])?)
}

/// The same with another's runtime, which is killed, too.
#[test]
fn killed_processes_under_containerd_come_back_and_leave_nothing() -> anyhow::Result<()> {
    kill_by_chance(Cluster::start_prepared(&["--restart-backoff", "1s,2s"], |node| node.use_containerd())?)
}

fn kill_by_chance(mut cluster: Cluster) -> anyhow::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(rand::random::<u64>);
    let kills = number("KILLS").unwrap_or(10);
    println!("SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    cluster.apply(MIXED)?;
    cluster.apply(&fixtures::stateful_set("{app: db}", ""))?;
    let well = |cluster: &Cluster| -> anyhow::Result<bool> {
        let pods: Vec<serde_json::Value> =
            ["app=web", "app=db"].iter().map(|s| cluster.list("pods", s)).collect::<anyhow::Result<Vec<_>>>()?.concat();
        let ready = |p: &&serde_json::Value| p["metadata"]["deletionTimestamp"].is_null() && is_ready(p);
        Ok(pods.len() == 5 && pods.iter().filter(ready).count() == 5)
    };
    cluster.eventually("all pods are ready", || well(&cluster))?;
    let whole = cluster.server.inventory();
    for round in 0..kills {
        let daemon = cluster.server.pid();
        let pick = |from: Vec<u32>, chance: &mut StdRng| from.get(chance.random_range(0..from.len().max(1))).copied();
        let kinds = if cluster.server.containerd.is_some() { 5 } else { 4 };
        let (what, victims) = match chance.random_range(0..kinds) {
            0 => ("the daemon", Vec::new()),
            1 => ("a shim", pick(cluster.server.shims(), &mut chance).into_iter().collect()),
            2 => ("a process in a container", pick(cluster.server.contained(), &mut chance).into_iter().collect()),
            3 => ("all", [cluster.server.shims(), cluster.server.contained()].concat()),
            _ => ("containerd", Vec::new()),
        };
        for victim in &victims {
            let _ = std::process::Command::new("kill").args(["-9", &victim.to_string()]).status();
        }
        if let Some(containerd) = cluster.server.containerd.as_mut().filter(|_| what == "containerd" || what == "all") {
            containerd.crash();
            std::thread::sleep(std::time::Duration::from_millis(chance.random_range(0..500)));
            containerd.spawn()?;
        }
        if what == "the daemon" || what == "all" {
            cluster.server.crash();
            std::thread::sleep(std::time::Duration::from_millis(chance.random_range(0..500)));
            cluster.server.spawn()?;
        }
        let mut last = String::new();
        let told = format!(
            "SEED={seed}: after round {round}, when {what} was killed ({victims:?}, daemon {daemon:?}), all is as before"
        );
        let came = cluster.eventually(&told, || {
            let now = cluster.server.inventory();
            last = format!("{now:?} rather than {whole:?}");
            Ok(well(&cluster)? && now == whole)
        });
        came.map_err(|error| anyhow::anyhow!("{error}; there is {last}"))?;
        // Pods may be caught in the midst of anything, too.
        std::thread::sleep(std::time::Duration::from_millis(chance.random_range(0..300)));
    }
    let output = cluster.server.uninstall();
    assert_eq!(output.code, 0, "{output:?}");
    if let Some(containerd) = cluster.server.containerd.take() {
        let left = containerd.ctr(&["containers", "ls", "-q"])?;
        assert_eq!((left.as_str(), containerd.shims().len()), ("", 0), "SEED={seed}");
    }
    assert_eq!(cluster.server.leftovers(), Vec::<String>::new(), "SEED={seed}");
    Ok(())
}

/// A power cut: what is on the disk is all that is left.
#[test]
fn a_reboot_brings_every_pod_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(MIXED)?;
    cluster.apply(&fixtures::stateful_set("{app: db}", ""))?;
    cluster.apply(LASTING)?;
    let ready = |cluster: &Cluster| -> anyhow::Result<usize> {
        let list: serde_json::Value = serde_json::from_str(&cluster.ok(&["get", "pods", "-o", "json"])?)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().filter(|p| is_ready(p)).count())
    };
    cluster.eventually("all pods are ready", || Ok(ready(&cluster)? == 6))?;
    let said = "echo kept > /disk/said; echo gone > /memory/said";
    cluster.ok(&["exec", "lasting", "--", "sh", "-c", said])?;
    cluster.ok(&["exec", "db-0", "--", "sh", "-c", "echo kept > /data/said"])?;
    let whole = cluster.server.inventory();
    let uids = |cluster: &Cluster| cluster.ok(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = uids(&cluster)?;
    cluster.server.reboot()?;
    assert!(cluster.server.inventory().values().all(|count| *count == 0), "{:?}", cluster.server.inventory());
    let start = std::time::Instant::now();
    cluster.server.spawn()?;
    cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    let restarts = || -> anyhow::Result<i64> {
        let status = cluster.get("pod", "lasting")?["status"]["containerStatuses"][0].clone();
        Ok(status["restartCount"].as_i64().unwrap_or(0))
    };
    cluster.eventually("what ran before runs again", || Ok(restarts()? > 0))?;
    let mut last = String::new();
    let came = cluster.eventually("all pods are ready again", || {
        let (count, now) = (ready(&cluster)?, cluster.server.inventory());
        last = format!("{count} of 6, {now:?} rather than {whole:?}");
        Ok(count == 6 && now == whole)
    });
    came.map_err(|error| anyhow::anyhow!("{error}; there is {last}"))?;
    println!("every pod is back {:.1} s after the start", start.elapsed().as_secs_f64());
    assert_eq!(uids(&cluster)?, before, "they are the same pods");
    let read = |pod: &str, path: &str| cluster.kubectl(&["exec", pod, "--", "cat", path]).stdout;
    assert_eq!((read("lasting", "/disk/said").as_str(), read("db-0", "/data/said").as_str()), ("kept\n", "kept\n"));
    assert_eq!(read("lasting", "/memory/said"), "", "what was in memory is gone");
    Ok(())
}

const LASTING: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: lasting}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: 'busybox:1.28'
    command: [sleep, '36000']
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]
";
