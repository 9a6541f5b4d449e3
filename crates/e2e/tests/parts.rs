//! The processes of a role: what ends one of them, and what the others do meanwhile.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testkit::Cluster;
use testkit::Node;

const SLEEPER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: 'busybox:1.28', command: [sleep, '3600']}
";

/// The process of a part, once it is another than `before`.
fn other(cluster: &Cluster, part: &str, before: u32) -> anyhow::Result<u32> {
    let now = || cluster.server.parts().get(part).copied().filter(|pid| *pid != before);
    cluster.eventually(&format!("the {part} is started again"), || Ok(now().is_some()))?;
    now().ok_or_else(|| anyhow::anyhow!("the {part} ended once more"))
}

fn end(pid: u32, signal: &str) -> anyhow::Result<()> {
    let status = std::process::Command::new("kill").args([signal, &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "process {pid} isn't there");
    Ok(())
}

fn wait_exec(cluster: &Cluster) -> anyhow::Result<()> {
    let exec = || Ok(cluster.kubectl(&["exec", "sleeper", "--", "echo", "here"]).stdout.trim() == "here");
    cluster.eventually("the node answers", exec)
}

const CLUSTER_DNS: &str = "10.43.0.10:53";

/// What became of questions that were asked one after another.
#[derive(Debug, Default)]
struct Asked {
    answered: usize,
    failed: Vec<String>,
    longest: Duration,
}

/// A question for the address of `kubernetes.default.svc.cluster.local` (RFC 1035, 4.1).
fn question(id: u16) -> Vec<u8> {
    let mut packet = [id.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
    for label in ["kubernetes", "default", "svc", "cluster", "local", ""] {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.extend([0, 1, 0, 1]);
    packet
}

/// Asks the cluster's DNS every few milliseconds until told to end, as a client with the usual patience of five seconds does.
fn ask_on(node: &Node, is_over: &AtomicBool) -> anyhow::Result<Asked> {
    node.inside(|| -> anyhow::Result<Asked> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(CLUSTER_DNS)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut asked = Asked::default();
        for id in (0..u16::MAX).cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let start = Instant::now();
            let mut answer = [0; 512];
            let outcome = socket.send(&question(id)).and_then(|_| socket.recv(&mut answer));
            asked.longest = asked.longest.max(start.elapsed());
            match outcome {
                // One answer, and no error (RFC 1035, 4.1.1).
                Ok(12..) if answer[..2] == id.to_be_bytes() && answer[3] & 15 == 0 && answer[7] == 1 => {
                    asked.answered += 1
                }
                outcome => asked.failed.push(format!("{outcome:?} after {:?}", start.elapsed())),
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(asked)
    })?
}

/// Whoever asks for names while the node's part is killed and started again waits for his answer, and gets it.
#[test]
fn names_outlive_the_nodes_part() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let is_over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_on(&cluster.server, &is_over));
        let kills = || -> anyhow::Result<()> {
            for signal in ["-KILL", "-ABRT", "-KILL"] {
                let node = cluster.server.parts()["node"];
                end(node, signal)?;
                // By TCP, too: the connection is taken when the part is back.
                let connected = cluster.server.inside(|| TcpStream::connect(CLUSTER_DNS))?;
                anyhow::ensure!(connected.is_ok(), "{connected:?}");
                other(&cluster, "node", node)?;
                let ready = || Ok(cluster.kubectl(&["get", "--raw", "/api/v1/nodes/server-1/proxy/healthz"]).code == 0);
                cluster.eventually("the node's part serves again", ready)?;
            }
            Ok(())
        };
        let killed = kills();
        is_over.store(true, Ordering::Relaxed);
        let asked = asking.join().map_err(|_| anyhow::anyhow!("asking panicked"))?;
        killed.and(asked)
    })?;
    println!("{} answers, the longest wait {:?}", asked.answered, asked.longest);
    assert!(asked.failed.is_empty(), "{:?}", asked.failed);
    assert!(asked.answered > 0);
    Ok(())
}

#[test]
fn a_part_that_exits_is_restarted_and_containers_stay() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(SLEEPER)?;
    cluster.wait_pod("sleeper")?;
    let contained = cluster.server.contained();
    let parts = cluster.server.parts();
    let (control_plane, node) = (parts["control-plane"], parts["node"]);

    // The node's part crashes: the API goes on without a gap, and so do containers.
    end(node, "-ABRT")?;
    cluster.ok(&["get", "pod", "sleeper"])?;
    let node = other(&cluster, "node", node)?;
    wait_exec(&cluster)?;
    assert_eq!(cluster.server.parts()["control-plane"], control_plane);
    let metrics = cluster.ok(&["get", "--raw", "/api/v1/nodes/server-1/proxy/metrics"])?;
    assert!(metrics.contains("timonel_part_restarts{part=\"node\"} 1"), "{metrics}");

    // The control plane is killed: the node's part goes on, and finds the new one.
    end(control_plane, "-KILL")?;
    other(&cluster, "control-plane", control_plane)?;
    cluster.apply(&SLEEPER.replace("sleeper", "later"))?;
    cluster.wait_pod("later")?;
    assert_eq!(cluster.server.parts()["node"], node);
    assert_eq!(cluster.server.contained().iter().filter(|pid| contained.contains(pid)).count(), contained.len());
    let metrics = cluster.ok(&["get", "--raw", "/metrics"])?;
    assert!(metrics.contains("timonel_part_restarts{part=\"control-plane\"} 1"), "{metrics}");

    // Parts end with their parent.
    let parts = cluster.server.parts();
    cluster.server.crash();
    for (name, pid) in parts {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the {name} lives on");
    }
    cluster.server.spawn()?;
    wait_exec(&cluster)
}

/// The API heard that a container had ended, and not that it was started again: that was told to a control plane that stood still, by a process that
/// crashed then.
#[test]
fn a_container_that_was_started_just_before_a_crash_is_ready() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--restart-backoff", "10s,10s"])?;
    cluster.apply(SLEEPER)?;
    cluster.wait_pod("sleeper")?;
    let kill = || cluster.server.contained().iter().for_each(|pid| drop(end(*pid, "-KILL")));
    let is_ready = || Ok::<_, anyhow::Error>(testkit::cluster::is_ready(&cluster.get("pod", "sleeper")?));
    // The first restart comes at once, the second one after the back-off.
    kill();
    cluster.eventually("the container is restarted", || {
        let count = cluster.get("pod", "sleeper")?["status"]["containerStatuses"][0]["restartCount"].clone();
        Ok(count == 1 && is_ready()?)
    })?;
    let before = cluster.server.contained();
    kill();
    cluster.eventually("the API knows that the container ended", || Ok(!is_ready()?))?;
    let parts = cluster.server.parts();
    end(parts["control-plane"], "-STOP")?;
    let is_new = || cluster.server.contained().iter().any(|pid| !before.contains(pid));
    let started = cluster.eventually("the container is started again", || Ok(is_new()));
    // It is written down then, too.
    let known = |text: String| text.contains("\"Running\"");
    let folder = cluster.server.folder().join("data/agent/pods");
    let saved = cluster.eventually("that is on the disk", || {
        let files = std::fs::read_dir(&folder)?.flatten().map(|pod| pod.path().join("state.json"));
        Ok(files.filter_map(|file| std::fs::read_to_string(file).ok()).any(known))
    });
    let ended = end(parts["node"], "-KILL");
    end(parts["control-plane"], "-CONT")?;
    started.and(saved).and(ended)?;
    cluster.wait_pod("sleeper")
}

#[test]
fn a_part_has_no_more_memory_than_its_limit() -> anyhow::Result<()> {
    let cluster = Cluster::start_with(&["--node-memory-max", "1Gi"])?;
    let limit = |part: &str| -> anyhow::Result<u64> {
        let pid = cluster.server.parts()[part];
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_unified =
                controllers.is_empty() && std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            match controllers.split(',').any(|c| c == "memory") {
                true => Some(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
                false => is_unified.then(|| format!("/sys/fs/cgroup{path}/memory.max")),
            }
        };
        let file = text.lines().find_map(path).ok_or_else(|| anyhow::anyhow!("no memory controller: {text}"))?;
        Ok(std::fs::read_to_string(file)?.trim().parse()?)
    };
    assert_eq!(limit("node")?, 1 << 30);
    assert!(limit("control-plane")? >= 512 << 20);
    Ok(())
}

/// Whether the record of what a part is handling has this key.
fn is_handled(cluster: &Cluster, part: &str, key: &str) -> bool {
    let mut bytes = vec![0; 1 << 20];
    let path = std::path::Path::new(&cluster.server.run_dir()).join(format!("{part}.handling"));
    let read = std::fs::File::open(path).and_then(|record| record.read_at(&mut bytes, 0)).unwrap_or(0);
    bytes[..read].split(|byte| *byte == 0).any(|text| text == key.as_bytes())
}

fn is_part_ready(cluster: &Cluster, part: &str) -> bool {
    let text = std::fs::read(std::path::Path::new(&cluster.server.run_dir()).join("parts.json")).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|parts| parts[part]["ready"] == true)
}

/// Lets a part crash while it handles an object: the signal is the one that ends a Rust program whose stack overflows.
fn crash_while_handled(cluster: &Cluster, part: &str, key: &str) -> anyhow::Result<()> {
    // What a process before this one was handling stands in the record until this one has begun its own.
    cluster.eventually(&format!("the {part} is ready"), || Ok(is_part_ready(cluster, part)))?;
    cluster.eventually(&format!("the {part} handles {key}"), || Ok(is_handled(cluster, part, key)))?;
    let process = cluster.server.parts()[part];
    end(process, "-ABRT")?;
    other(cluster, part, process)?;
    Ok(())
}

fn wait_told(cluster: &Cluster, kind: &str) -> anyhow::Result<()> {
    let about = format!("reason=Quarantined,involvedObject.kind={kind},involvedObject.name=poison");
    let told = || Ok(cluster.ok(&["get", "events", "--field-selector", &about])?.contains("Quarantined"));
    cluster.eventually(&format!("an event tells of the {kind}"), told)
}

/// The crash is real, the reason is made: a signal comes from outside at the moment when the object is being handled, so that the
/// program under test has no switch for it. What keeps the handling busy so long is a port where connections are taken and nobody answers.
#[test]
fn an_object_that_crashes_its_part_twice_is_quarantined() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let address = cluster.server.address();
    let _silent =
        cluster.server.inside(|| ["5999", "9443"].map(|port| TcpListener::bind(format!("{address}:{port}"))))?;
    cluster.apply(SLEEPER)?;
    cluster.wait_pod("sleeper")?;
    let checked = |cluster: &Cluster| {
        let data = cluster.server.folder().join("data").display().to_string();
        cluster.server.timonel(&["check", "--data-dir", &data]).stdout
    };

    // The node's part: a pod whose image comes from a registry that doesn't answer.
    cluster.apply(&SLEEPER.replace("sleeper", "poison").replace("busybox:1.28", &format!("{address}:5999/a:1")))?;
    let uid = cluster.get("pod", "poison")?["metadata"]["uid"].as_str().unwrap_or_default().to_string();
    for _ in 0..2 {
        crash_while_handled(&cluster, "node", &uid)?;
    }
    wait_exec(&cluster)?;
    wait_told(&cluster, "Pod")?;
    let metrics = cluster.ok(&["get", "--raw", "/api/v1/nodes/server-1/proxy/metrics"])?;
    assert!(metrics.contains("timonel_quarantined_objects 1"), "{metrics}");

    // The control plane: a ReplicaSet whose pods are shown to a webhook that doesn't answer.
    cluster.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: silent}}\nwebhooks:\n- name: \
         silent.test.io\n  clientConfig: {{url: 'https://{address}:9443/'}}\n  rules: [{{operations: [CREATE], apiGroups: [''], apiVersions: \
         [v1], resources: [pods]}}]\n  objectSelector: {{matchLabels: {{app: poison}}}}\n  failurePolicy: Fail\n  timeoutSeconds: 30\n  \
         sideEffects: None\n  admissionReviewVersions: [v1]\n"
    ))?;
    let set = "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: NAME}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: NAME}}\n  \
         template:\n    metadata: {labels: {app: NAME}}\n    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', \
         command: [sleep, '3600']}]}\n";
    cluster.apply(&set.replace("NAME", "poison"))?;
    for _ in 0..2 {
        crash_while_handled(&cluster, "control-plane", "replicaset default/poison")?;
    }
    cluster.eventually("the API answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    wait_told(&cluster, "ReplicaSet")?;
    assert!(cluster.ok(&["get", "--raw", "/metrics"])?.contains("timonel_quarantined_objects 1"));

    // Never again, also after an ordinary start; others aren't touched by it.
    cluster.server.stop()?;
    cluster.server.spawn()?;
    cluster.eventually("the API answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    cluster.apply(&set.replace("NAME", "other"))?;
    let runs = || Ok(cluster.list("pods", "app=other")?.iter().any(testkit::cluster::is_ready));
    cluster.eventually("another set has its pod", runs)?;
    let (of_node, of_server) = (uid.as_str(), "replicaset default/poison");
    assert!(!is_handled(&cluster, "node", of_node) && !is_handled(&cluster, "control-plane", of_server));
    let said = checked(&cluster);
    for key in [of_node, of_server] {
        assert!(said.contains(&format!("quarantined  {key}: ")), "{said}");
    }

    // They can be deleted, and are forgotten then.
    cluster.ok(&["delete", "pod/poison", "replicaset/poison", "--timeout=60s"])?;
    cluster.eventually("nothing is left of them", || Ok(!checked(&cluster).contains("quarantined")))
}
