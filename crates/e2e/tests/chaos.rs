//! What goes wrong, by numbers: processes are killed, disks are full, peers vanish, clocks jump, at moments drawn by chance, while writers, volumes
//! and services are at work. Nothing that was acknowledged may be lost, nothing may be left over, and all pods come back.
//!
//! `SEED` repeats a run; `CHAOS_KILLS`, `CHAOS_DISKS`, `CHAOS_PEERS` and `CHAOS_CLOCKS` say how much of each there is. The figures of a long run are in
//! `docs/reliability.md`.

mod events;
mod faults;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::Cluster;
use testkit::cluster::is_ready;
use testkit::inventory::Inventory;
use testkit::node::{Beside, Node};

use crate::fixtures;
use faults::{FAKETIME, own_clock, small_disk};

/// All pods of it, and how many there are. They are spread so that each node has the same of them at all times.
const PODS: usize = 8;
const WORKLOAD: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, chaos: 'yes'}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - {name: web, image: 'nginx:1.27', readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.43.0.80, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each, chaos: 'yes'}}
    spec:
      terminationGracePeriodSeconds: 0
      initContainers:
      - {name: first, image: 'busybox:1.28', command: ['true']}
      - {name: beside, image: 'busybox:1.28', command: [sleep, '36000'], restartPolicy: Always}
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '36000'], volumeMounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, emptyDir: {medium: Memory}}]
";

/// Flags of every node: what is killed again and again waits for long else, and a full disk would be reason to send pods away.
const FLAGS: [&str; 4] = ["--restart-backoff", "1s,2s", "--eviction-hard", "memory.available<1Mi"];
/// A pod that is away for longer is late.
const LATE: Duration = Duration::from_secs(30);

/// What happened, and what is to be seen at the end.
struct Chaos {
    cluster: Cluster,
    chance: StdRng,
    seed: u64,
    /// The file that the clock is set by.
    clock: PathBuf,
    whole: Inventory,
    /// Numbers that the volume's file has, as it was acknowledged.
    written: Vec<u32>,
    kills: u64,
    longest: Duration,
    late: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

impl Chaos {
    fn start(seed: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install libfaketime");
        let clocks = tempfile::Builder::new().prefix("timonel-clock").tempdir()?.keep();
        let clock = clocks.join("clock");
        std::fs::write(&clock, "+0\n")?;
        let prepare = |node: &mut Node| {
            own_clock(node, &clock);
            small_disk(node)
        };
        let mut cluster = Cluster::start_prepared(&FLAGS, prepare)?;
        cluster.join_prepared(&[&FLAGS[..], &["--server-timeout", "6s"]].concat(), prepare)?;
        cluster.apply(WORKLOAD)?;
        // On both nodes, as each must have the same at all times.
        cluster.apply(&fixtures::stateful_set("{app: db, chaos: 'yes'}", &fixtures::spread("db")))?;
        let mut chaos = Chaos {
            cluster,
            chance: StdRng::seed_from_u64(seed),
            seed,
            clock,
            whole: Inventory::new(),
            written: Vec::new(),
            kills: 0,
            longest: Duration::ZERO,
            late: Vec::new(),
        };
        chaos.cluster.eventually("all pods are ready", || chaos.is_well())?;
        chaos.whole = chaos.inventory();
        Ok(chaos)
    }

    fn nodes(&self) -> [&Node; 2] {
        [&self.cluster.server, &self.cluster.agents[0]]
    }

    fn node(&mut self, agent: bool) -> &mut Node {
        if agent { &mut self.cluster.agents[0] } else { &mut self.cluster.server }
    }

    /// What both nodes have together.
    fn inventory(&self) -> Inventory {
        let mut sum = Inventory::new();
        for node in self.nodes() {
            for (what, count) in node.inventory() {
                *sum.entry(what).or_default() += count;
            }
            let routes = node.run(&["ip", "-4", "route"].map(String::from), "").stdout;
            *sum.entry("routes").or_default() += routes.lines().count();
        }
        sum
    }

    /// All pods and nodes are ready, and the service answers on both nodes.
    fn is_well(&self) -> anyhow::Result<bool> {
        let pods = self.cluster.list("pods", "chaos=yes")?;
        let ready = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null() && is_ready(pod);
        anyhow::ensure!(pods.len() == PODS && pods.iter().filter(ready).count() == PODS, "pods: {}", brief(&pods));
        let nodes = self.cluster.list("nodes", "")?;
        anyhow::ensure!(nodes.iter().filter(|node| is_ready(node)).count() == 2, "nodes aren't ready");
        let ask = ["curl", "-sf", "-o", "/dev/null", "-m", "2", "http://10.43.0.80/"].map(String::from);
        anyhow::ensure!(self.nodes().iter().all(|node| node.run(&ask, "").code == 0), "the service doesn't answer");
        Ok(true)
    }

    /// Waits until all is as before what happened last.
    fn settle(&mut self, what: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let seed = self.seed;
        let told = format!("SEED={seed}: after {what}, all is as before");
        self.cluster.eventually(&told, || {
            self.is_well()?;
            let now = self.inventory();
            anyhow::ensure!(now == self.whole, "{now:?} rather than {:?}", self.whole);
            Ok(true)
        })?;
        let took = start.elapsed();
        self.longest = self.longest.max(took);
        if took > LATE {
            self.late.push(format!("{took:?} after {what}"));
        }
        self.write_to_volume();
        Ok(())
    }

    /// Writes a line to a volume. It counts if it was acknowledged.
    fn write_to_volume(&mut self) {
        let next = self.written.last().map_or(0, |last| last + 1);
        let command = format!("echo {next} >> /data/log && sync");
        if self.cluster.kubectl(&["exec", "db-0", "--", "sh", "-c", &command]).code == 0 {
            self.written.push(next);
        }
    }

    fn pause(&mut self, most: u64) {
        let wait = self.chance.random_range(0..most);
        std::thread::sleep(Duration::from_millis(wait));
    }

    fn pick(&mut self, from: &[u32]) -> Option<u32> {
        if from.is_empty() { None } else { from.get(self.chance.random_range(0..from.len())).copied() }
    }

    /// Draws what happens next until so much of each has happened.
    fn go_on(&mut self, kills: u64, disks: u64, peers: u64, clocks: u64) -> anyhow::Result<()> {
        let (mut disks_left, mut peers_left, mut clocks_left) = (disks, peers, clocks);
        loop {
            let kills_left = kills.saturating_sub(self.kills);
            // Kills come some at a time.
            let left = [kills_left.div_ceil(3), disks_left, peers_left, clocks_left];
            let all: u64 = left.iter().sum();
            if all == 0 {
                break;
            }
            let drawn = self.chance.random_range(0..all);
            let [of_kills, of_disks, of_peers, _] = left;
            if drawn < of_kills {
                self.kill_some(kills_left.min(5))?;
            } else if drawn < of_kills + of_disks {
                self.fill_disk()?;
                disks_left -= 1;
            } else if drawn < of_kills + of_disks + of_peers {
                self.lose_peer()?;
                peers_left -= 1;
            } else {
                self.jump()?;
                clocks_left -= 1;
            }
            println!("left: {left:?}; the longest way back so far {:?}", self.longest);
        }
        println!("{} kills, {disks} full disks, {peers} vanished peers, {clocks} jumps of the clock", self.kills);
        Ok(())
    }

    /// Compares with what was acknowledged, and takes all away.
    fn end(mut self, writers: Vec<Beside>) -> anyhow::Result<()> {
        std::fs::write(&self.clock, "+0\n")?;
        self.settle("the end")?;
        let seed = self.seed;
        let present = self.cluster.ok(&["get", "configmaps", "-o", "name"])?;
        let present: std::collections::BTreeSet<&str> = present.lines().collect();
        let acknowledged: Vec<String> = writers.iter().flat_map(Beside::lines).collect();
        let lost: Vec<&String> =
            acknowledged.iter().filter(|name| !present.contains(format!("configmap/{name}").as_str())).collect();
        assert!(lost.is_empty(), "SEED={seed}: of {} acknowledged writes these are lost: {lost:?}", acknowledged.len());
        let log = self.cluster.ok(&["exec", "db-0", "--", "cat", "/data/log"])?;
        let kept: Vec<&str> = log.lines().collect();
        let lost: Vec<&u32> = self.written.iter().filter(|n| !kept.contains(&n.to_string().as_str())).collect();
        assert!(lost.is_empty(), "SEED={seed}: a volume has lost {lost:?}");
        println!(
            "SEED={seed}: {} acknowledged writes and {} lines of a volume are there; {} kills; the longest way back {:?}; late: {:?}",
            acknowledged.len(),
            self.written.len(),
            self.kills,
            self.longest,
            self.late
        );
        drop(writers);
        for agent in [true, false] {
            let output = self.node(agent).uninstall();
            assert_eq!(output.code, 0, "SEED={seed}: {output:?}");
        }
        // What the clients had under way ends with the server.
        self.cluster.eventually(&format!("SEED={seed}: nothing is left over"), || {
            let left: Vec<String> = self.nodes().iter().flat_map(|node| node.leftovers()).collect();
            anyhow::ensure!(left.is_empty(), "{left:?}");
            Ok(true)
        })
    }
}

fn brief(pods: &[serde_json::Value]) -> String {
    let state = |pod: &serde_json::Value| {
        let (meta, status) = (&pod["metadata"], &pod["status"]);
        let waiting = &status["containerStatuses"][0]["state"]["waiting"]["reason"];
        let node = &pod["spec"]["nodeName"];
        format!(
            "{} on {node}: {} {waiting} ready={} deleted={}",
            meta["name"],
            status["phase"],
            is_ready(pod),
            meta["deletionTimestamp"]
        )
    };
    pods.iter().map(state).collect::<Vec<_>>().join("; ")
}

/// Clients that write all the time, and one that comes into a container again and again.
fn writers(cluster: &Cluster) -> anyhow::Result<Vec<Beside>> {
    let create = cluster.kubectl_line(&["--request-timeout=5s", "create", "configmap"]).join(" ");
    let exec = cluster.kubectl_line(&["exec", "db-1", "--", "true"]).join(" ");
    let write = format!("i=0; while :; do i=$((i+1)); {create} n-$i >/dev/null 2>&1 && echo n-$i; sleep 0.3; done");
    let visit = format!("while :; do {exec} >/dev/null 2>&1; sleep 0.2; done");
    [write, visit].iter().map(|script| cluster.server.beside(&["bash".into(), "-c".into(), script.clone()])).collect()
}

fn run(kills: u64, disks: u64, peers: u64, clocks: u64) {
    let seed = number("SEED").unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let mut chaos = Chaos::start(seed).unwrap();
    let writers = writers(&chaos.cluster).unwrap();
    // A panic lets the cluster tell its logs.
    chaos.go_on(kills, disks, peers, clocks).unwrap();
    chaos.end(writers).unwrap();
}
/// The short form of [`long`].
#[test]
fn a_cluster_outlives_kills_full_disks_vanished_peers_and_jumps_of_its_clock() {
    run(
        number("CHAOS_KILLS").unwrap_or(6),
        number("CHAOS_DISKS").unwrap_or(2),
        number("CHAOS_PEERS").unwrap_or(1),
        number("CHAOS_CLOCKS").unwrap_or(1),
    )
}

/// Takes hours: `cargo test --test e2e -- --ignored chaos::long --nocapture`.
#[test]
#[ignore = "it takes hours"]
fn long() {
    run(
        number("CHAOS_KILLS").unwrap_or(1000),
        number("CHAOS_DISKS").unwrap_or(100),
        number("CHAOS_PEERS").unwrap_or(50),
        number("CHAOS_CLOCKS").unwrap_or(20),
    )
}
