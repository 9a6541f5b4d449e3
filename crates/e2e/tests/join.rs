//! A second machine.

use anyhow::Context as _;
use testkit::Cluster;
use testkit::cluster::is_ready;

const SPREAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread}
spec:
  replicas: 4
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: 'nginx:1.27', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: spread}
spec:
  selector: {app: spread}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

#[test]
fn pods_spread_over_two_nodes_and_reach_each_other() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let wrong = |token: &str| {
        let folder = cluster.server.folder().join("wrong");
        let data = folder.display().to_string();
        cluster.server.timonel(&[
            "agent",
            "--server",
            &cluster.url(),
            "--token",
            token,
            "--data-dir",
            &data,
            "--run-dir",
            &data,
            "--node-name",
            "x",
            "--node-ip",
            "192.0.2.9",
        ])
    };
    let token = std::fs::read_to_string(cluster.server.folder().join("data/server/node-token"))?;
    let refused = wrong(&format!("{}x", token.trim()));
    assert!(refused.code != 0 && refused.stderr.contains("its secret is wrong"), "{refused:?}");
    let stranger = format!("K10{}::server:x", "a".repeat(64));
    let refused = wrong(&stranger);
    assert!(refused.code != 0 && refused.stderr.contains("isn't the one that the token is of"), "{refused:?}");

    cluster.join()?;
    cluster.apply(SPREAD)?;
    cluster.eventually("all replicas are available", || {
        Ok(cluster.get("deployment", "spread")?["status"]["availableReplicas"] == 4)
    })?;
    let pods = cluster.list("pods", "app=spread")?;
    let on = |node: &str| pods.iter().filter(|p| p["spec"]["nodeName"] == node).cloned().collect::<Vec<_>>();
    let (here, there) = (on("server-1"), on("agent-2"));
    assert_eq!((here.len(), there.len()), (2, 2));
    cluster.eventually("each node has its client", || {
        Ok(cluster.get("daemonset", "client")?["status"]["numberAvailable"] == 2)
    })?;
    let clients = cluster.list("pods", "app=client")?;
    let client = |node: &str| {
        let found = clients.iter().find(|p| p["spec"]["nodeName"] == node);
        found.and_then(|p| p["metadata"]["name"].as_str()).unwrap_or("").to_string()
    };
    let (from, back) = (client("server-1"), client("agent-2"));
    let (from, back) = (from.as_str(), back.as_str());
    let fetch = |pod: &str, host: &str| {
        cluster.ok(&[
            "exec",
            pod,
            "--",
            "sh",
            "-c",
            &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} 80"),
        ])
    };
    assert!(fetch(from, there[0]["status"]["podIP"].as_str().unwrap_or(""))?.contains("200 OK"));
    assert!(fetch(back, here[0]["status"]["podIP"].as_str().unwrap_or(""))?.contains("200 OK"));
    // The nodes hear of a service's pods one by one, each a moment after the pods are ready.
    cluster.eventually("both nodes know the service", || {
        Ok(fetch(from, "spread")?.contains("200 OK") && fetch(back, "spread")?.contains("200 OK"))
    })?;
    for _ in 0..8 {
        assert!(fetch(from, "spread")?.contains("200 OK"));
        assert!(fetch(back, "spread")?.contains("200 OK"));
    }
    assert!(cluster.ok(&["logs", there[0]["metadata"]["name"].as_str().unwrap_or("")])?.contains("GET / HTTP/1.0"));
    Ok(())
}

#[test]
fn pods_reach_each_other_through_routers() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join_by_router()?;
    cluster.apply(SPREAD)?;
    cluster.eventually("all replicas are available", || {
        Ok(cluster.get("deployment", "spread")?["status"]["availableReplicas"] == 4)
    })?;
    cluster.eventually("each node has its client", || {
        Ok(cluster.get("daemonset", "client")?["status"]["numberAvailable"] == 2)
    })?;
    let address = |pod: &serde_json::Value| pod["status"]["podIP"].as_str().unwrap_or("").to_string();
    let pods = cluster.list("pods", "app=spread")?;
    for client in cluster.list("pods", "app=client")? {
        let name = client["metadata"]["name"].as_str().unwrap_or("").to_string();
        let node = &client["spec"]["nodeName"];
        let far = pods.iter().find(|p| p["spec"]["nodeName"] != *node).map(address).unwrap_or_default();
        let ask = |host: &str| format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} 80");
        let fetch = |host: &str| cluster.kubectl(&["exec", &name, "--", "sh", "-c", &ask(host)]).stdout;
        cluster.eventually(&format!("the pod of {node} reaches the other node's"), || {
            Ok(fetch(&far).contains("200 OK"))
        })?;
        cluster.eventually("and the service", || Ok(fetch("spread").contains("200 OK")))?;
    }
    // Packets of full size fit through.
    let client = &cluster.list("pods", "app=client")?[0];
    let name = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or("").to_string();
    let far = pods.iter().find(|p| p["spec"]["nodeName"] != client["spec"]["nodeName"]).context("a pod elsewhere")?;
    let fill = "head -c 1000000 /dev/zero > /usr/share/nginx/html/big";
    cluster.ok(&["exec", &name(far), "--", "sh", "-c", fill])?;
    // The request's end stays open, else nginx takes the client for gone.
    let fetch = format!("(printf 'GET /big HTTP/1.0\\r\\n\\r\\n'; sleep 3) | nc -w 5 {} 80 | wc -c", address(far));
    let size = cluster.ok(&["exec", &name(client), "--", "sh", "-c", &fetch])?;
    assert!(size.trim().parse::<u64>()? > 1_000_000, "{size}");
    Ok(())
}

#[test]
fn a_node_is_ready_again_as_soon_as_it_renews_its_lease() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join()?;
    cluster.apply(SPREAD)?;
    cluster.eventually("all replicas are available", || {
        Ok(cluster.get("deployment", "spread")?["status"]["availableReplicas"] == 4)
    })?;
    let processes = cluster.agents.first().context("the agent")?.processes();
    let signal = |name: &str| {
        std::process::Command::new("kill").arg(name).args(processes.iter().map(ToString::to_string)).status()
    };
    let started =
        |pods: &[serde_json::Value]| pods.iter().map(|p| p["status"]["startTime"].to_string()).collect::<Vec<_>>();
    let before = started(&cluster.list("pods", "app=spread")?);
    let ready = || -> anyhow::Result<String> {
        let node = cluster.get("node", "agent-2")?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == "Ready");
        Ok(found.map(|c| c["status"].as_str().unwrap_or("").to_string()).unwrap_or_default())
    };
    signal("-STOP")?;
    // Forty seconds are allowed to it; then its pods get no more traffic.
    cluster.eventually("the node is unknown", || Ok(ready()? == "Unknown"))?;
    cluster.eventually("its pods are unready", || {
        Ok(cluster.get("deployment", "spread")?["status"]["availableReplicas"] == 2)
    })?;
    signal("-CONT")?;
    cluster.eventually("the node is ready again", || Ok(ready()? == "True"))?;
    cluster.eventually("and so are its pods", || {
        Ok(cluster.get("deployment", "spread")?["status"]["availableReplicas"] == 4)
    })?;
    cluster.eventually("it has no taints", || Ok(cluster.get("node", "agent-2")?["spec"]["taints"].is_null()))?;
    assert_eq!(started(&cluster.list("pods", "app=spread")?), before, "nothing was restarted");
    Ok(())
}

fn lasting(name: &str, node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '36000']}}]
"
    )
}

/// Drops what the machine's present connections to the API carry, in both directions: nobody is told that the other end is gone.
fn cut(machine: &testkit::Node) -> anyhow::Result<()> {
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    let sockets = machine.run(&words("ss -Htn dport = :6443"), "").stdout;
    let local = sockets.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit(':').next());
    let ports = local.collect::<Vec<_>>().join(", ");
    anyhow::ensure!(!ports.is_empty(), "the agent has no connection: {sockets}");
    let rules = format!(
        "table inet cut {{
  chain out {{ type filter hook output priority 0; tcp sport {{ {ports} }} tcp dport 6443 drop; }}
  chain in {{ type filter hook input priority 0; tcp dport {{ {ports} }} tcp sport 6443 drop; }}
}}"
    );
    let done = machine.run(&words("nft -f -"), &rules);
    anyhow::ensure!(done.code == 0, "{done:?}");
    Ok(())
}

#[test]
fn agents_outlive_connections_servers_and_their_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join_with(&["--server-timeout", "4s"])?;
    // A connection whose other end is silent is given up, and what it should have told is heard otherwise.
    cut(&cluster.agents[0])?;
    cluster.apply(&lasting("after-the-cut", "agent-2"))?;
    cluster.wait_pod("after-the-cut")?;
    anyhow::ensure!(is_ready(&cluster.get("node", "agent-2")?), "its lease is renewed, too");

    // Its name is its own.
    let token = std::fs::read_to_string(cluster.server.folder().join("data/server/node-token"))?;
    let stranger = cluster.bystander()?;
    let data = stranger.folder().join("stranger").display().to_string();
    let (url, address) = (cluster.url(), stranger.address());
    for name in ["agent-2", "server-1"] {
        let refused = stranger.timonel(&[
            "agent",
            "--server",
            url.as_str(),
            "--token",
            token.trim(),
            "--data-dir",
            data.as_str(),
            "--run-dir",
            data.as_str(),
            "--node-name",
            name,
            "--node-ip",
            address.as_str(),
        ]);
        anyhow::ensure!(refused.code != 0 && refused.stderr.contains("another machine has this name"), "{refused:?}");
    }

    // A Node that somebody deletes is back at once, and well.
    let uid = cluster.get("node", "agent-2")?["metadata"]["uid"].clone();
    cluster.ok(&["delete", "node", "agent-2"])?;
    cluster
        .eventually("the node is registered again", || Ok(cluster.get("node", "agent-2")?["metadata"]["uid"] != uid))?;
    cluster.wait_ready("agent-2")?;

    // Without a server, an agent that starts goes on with the pods that it had.
    cluster.kubectl(&["delete", "pod", "after-the-cut", "--ignore-not-found"]);
    cluster.apply(&lasting("lasting", "agent-2"))?;
    cluster.wait_pod("lasting")?;
    let before = cluster.get("pod", "lasting")?["metadata"]["uid"].clone();
    cluster.server.crash();
    cluster.agents[0].crash();
    cluster.agents[0].spawn()?;
    let first = cluster.agents[0].contained();
    for pid in &first {
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    cluster.eventually("its container is started again", || {
        let now = cluster.agents[0].contained();
        Ok(!now.is_empty() && now.iter().all(|pid| !first.contains(pid)))
    })?;
    cluster.server.spawn()?;
    cluster.eventually("the server hears of it", || {
        let status = cluster.get("pod", "lasting")?["status"]["containerStatuses"][0].clone();
        Ok(status["restartCount"].as_i64().unwrap_or(0) > 0 && status["ready"] == true)
    })?;
    anyhow::ensure!(cluster.get("pod", "lasting")?["metadata"]["uid"] == before, "it is the same pod");

    // A server that is put back to an older state takes along what it never knew.
    let (present, copy) = (cluster.server.folder().join("data/server"), cluster.server.folder().join("copy"));
    cluster.server.stop()?;
    let copied = std::process::Command::new("cp").arg("-a").args([&present, &copy]).status()?;
    anyhow::ensure!(copied.success());
    cluster.server.spawn()?;
    cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
    cluster.apply(&lasting("ghost", "agent-2"))?;
    cluster.wait_pod("ghost")?;
    anyhow::ensure!(cluster.agents[0].shims().len() == 2);
    cluster.server.crash();
    std::fs::rename(&present, cluster.server.folder().join("lost"))?;
    std::fs::rename(&copy, &present)?;
    cluster.server.spawn()?;
    cluster.eventually("the pod that nobody knows ends", || Ok(cluster.agents[0].shims().len() == 1))?;
    cluster.apply(&lasting("later", "agent-2"))?;
    cluster.wait_pod("later")?;
    anyhow::ensure!(cluster.get("pod", "lasting")?["metadata"]["uid"] == before);
    only_root_may_read(&cluster)
}

/// The database has every Secret.
fn only_root_may_read(cluster: &Cluster) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let data = cluster.server.folder().join("data");
    for (path, mode) in [("", 0o700), ("server", 0o700), ("server/db", 0o700), ("server/db/state.db", 0o600)] {
        let found = std::fs::metadata(data.join(path))?.mode() & 0o777;
        anyhow::ensure!(found == mode, "{path} has mode {found:o}");
    }
    Ok(())
}
