//! What much of the same does: lines of logs, processes in containers.

use anyhow::Context as _;
use testkit::Cluster;

const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: 'busybox:1.28', command: [seq, '1', '12000000']}
";

const SLEEPER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: 'busybox:1.28'
    command: [sleep, '36000']
    readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
";

/// Bytes of memory that a process has for itself alone.
fn memory(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(line.trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}

/// A hundred megabytes of lines, as fast as the container can write them.
#[test]
fn logs_are_rotated_in_order_and_cost_no_memory() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(TALKER)?;
    cluster.eventually("the shim runs", || Ok(!cluster.server.shims().is_empty()))?;
    let shim = *cluster.server.shims().first().context("a shim")?;
    let mut most = 0;
    cluster.eventually("all is said", || {
        most = most.max(memory(shim).unwrap_or(0));
        Ok(cluster.get("pod", "talker")?["status"]["phase"] == "Succeeded")
    })?;
    assert!(most > 0 && most < 32 << 20, "the shim needed {most} bytes");
    let uid = cluster.get("pod", "talker")?["metadata"]["uid"].as_str().context("uid")?.to_string();
    let folder = cluster.server.folder().join("data/agent/pods").join(uid).join("logs/c");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|e| e.path()).collect();
    // 0.log is the newest, 0.log.4 the oldest.
    files.sort();
    files.reverse();
    let newest = files.pop().context("a log")?;
    files.push(newest);
    assert!((2..=5).contains(&files.len()), "{files:?}");
    let mut last: Option<u64> = None;
    for file in &files {
        anyhow::ensure!(std::fs::metadata(file)?.len() < 12 << 20, "{} is too large", file.display());
        for line in std::fs::read_to_string(file)?.lines() {
            let number = line.rsplit(' ').next().unwrap_or("").parse::<u64>().with_context(|| line.to_string())?;
            assert!(last.is_none_or(|last| number == last + 1), "{number} follows {last:?} in {}", file.display());
            last = Some(number);
        }
    }
    assert_eq!(last, Some(12_000_000));
    assert_eq!(cluster.ok(&["logs", "talker", "--tail=2"])?, "11999999\n12000000\n");
    Ok(())
}

/// What a follower hears of a container that says more than a file holds, in bursts: all, in order, each line once.
#[test]
fn followed_logs_are_complete_across_rotations() -> anyhow::Result<()> {
    follows_all(&Cluster::start()?, 12, 100_000, "0.2")
}

/// So many bursts of so many lines, with a pause of so many seconds after each.
pub fn follows_all(cluster: &Cluster, bursts: u32, lines: u32, pause: &str) -> anyhow::Result<()> {
    let burst = format!("seq $((i * {lines} - {})) $((i * {lines}))", lines - 1);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bursts}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {{name: c, image: 'busybox:1.28', command: [sh, -c, 'sleep 2; for i in $(seq {bursts}); do {burst}; sleep {pause}; done']}}\n"
    ))?;
    cluster.eventually("it runs", || Ok(cluster.get("pod", "bursts")?["status"]["phase"] == "Running"))?;
    let heard = cluster.kubectl(&["logs", "-f", "bursts"]);
    assert_eq!(heard.code, 0, "{}", heard.stderr);
    let mut expected = 1..=bursts * lines;
    for line in heard.stdout.lines() {
        assert_eq!(line.parse().ok(), expected.next(), "{line:?}");
    }
    assert_eq!(expected.next(), None, "the end wasn't heard");
    let uid = cluster.get("pod", "bursts")?["metadata"]["uid"].as_str().context("uid")?.to_string();
    let folder = cluster.server.folder().join("data/agent/pods").join(uid).join("logs/c");
    let files = std::fs::read_dir(&folder)?.count();
    assert!(files > 1, "nothing was put aside");
    Ok(())
}

#[test]
fn a_hundred_processes_at_once_leave_no_descriptor() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(SLEEPER)?;
    cluster.wait_pod("sleeper")?;
    let shim = *cluster.server.shims().first().context("a shim")?;
    let daemon = *cluster.server.parts().get("node").context("the node's part")?;
    let exec = cluster.kubectl_line(&["exec", "sleeper", "--", "echo", "here"]).join(" ");
    let crowd = |count: u32| {
        let script = format!("for i in $(seq {count}); do {exec} & done | sort | uniq -c; wait");
        cluster.server.run(&["bash".into(), "-c".into(), script], "")
    };
    // What is opened once and kept is open after this.
    let first = crowd(5);
    assert_eq!(first.stdout.trim(), "5 here", "{first:?}");
    let settled = |what: &str, pid: u32, limit: usize| {
        cluster.eventually(&format!("{what} has no more than {limit} descriptors"), || Ok(descriptors(pid) <= limit))
    };
    let (of_shim, of_daemon) = (descriptors(shim), descriptors(daemon));
    for _ in 0..2 {
        let crowd = crowd(100);
        assert_eq!(crowd.stdout.trim(), "100 here", "{crowd:?}");
    }
    // A probe may be under way at the moment of counting.
    settled("the shim", shim, of_shim + 4)?;
    settled("the daemon", daemon, of_daemon + 10)
}
