//! What survives when the server is killed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::Cluster;

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
