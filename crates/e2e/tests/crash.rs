//! What survives when the server is killed.

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
