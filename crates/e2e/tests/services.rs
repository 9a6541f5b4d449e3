//! Services on real traffic: from pods, nodes and elsewhere, while endpoints come and go, and while what carries it is taken away.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use testkit::{Cluster, Node};

/// Three that answer who they are, on two nodes, behind services of every kind.
const PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: who}
spec:
  replicas: 3
  selector: {matchLabels: {app: who}}
  template:
    metadata: {labels: {app: who}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: 'programs:test'
        command: [whoami, '8080']
        ports: [{name: tcp, containerPort: 8080}, {name: udp, containerPort: 8080, protocol: UDP}]
        readinessProbe: {tcpSocket: {port: tcp}, periodSeconds: 1}
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
      containers: [{name: c, image: 'programs:test', command: [sleep, '3600']}]
";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: inside}
spec:
  selector: {app: who}
  ports: [{name: tcp, port: 80, targetPort: tcp}, {name: udp, port: 80, targetPort: udp, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: node}
spec:
  type: NodePort
  selector: {app: who}
  ports:
  - {name: tcp, port: 80, targetPort: tcp, nodePort: 30080}
  - {name: udp, port: 80, targetPort: udp, nodePort: 30080, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  selector: {app: who}
  ports: [{name: tcp, port: 8000, targetPort: tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec:
  selector: {app: who}
  externalIPs: [192.0.2.50]
  ports: [{name: tcp, port: 80, targetPort: tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: who}, ports: [{name: tcp, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: inside.default.svc.cluster.local}
";

/// Who answers, and whom he takes us for.
type Answer = Option<(String, String)>;

fn read(text: &str) -> Answer {
    let (name, peer) = text.trim().split_once(' ')?;
    Some((name.into(), peer.into()))
}

fn tcp(from: &Node, to: &str) -> Answer {
    let to: SocketAddr = to.parse().ok()?;
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    read(&from.inside(ask).ok()?.ok()?)
}

fn udp_socket(from: &Node, to: &str) -> anyhow::Result<UdpSocket> {
    let to: SocketAddr = to.parse()?;
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    };
    Ok(from.inside(open)??)
}

fn ask(socket: &UdpSocket) -> Answer {
    let mut packet = [0; 512];
    socket.send(b"who?").ok()?;
    let length = socket.recv(&mut packet).ok()?;
    read(std::str::from_utf8(&packet[..length]).ok()?)
}

fn udp(from: &Node, to: &str) -> Answer {
    ask(&udp_socket(from, to).ok()?)
}

/// How often each of them answers.
fn counted(times: usize, mut answer: impl FnMut() -> Answer) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let name = answer().map_or_else(|| "nobody".into(), |(name, _)| name);
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn start(nodes: usize) -> anyhow::Result<Cluster> {
    let images = |node: &Node| testkit::images::programs(&node.images().join("programs.tar"));
    let mut cluster = Cluster::start_prepared(&["--external-ips-allow", "192.0.2.0/24"], |node| images(node))?;
    for _ in 1..nodes {
        cluster.join()?;
        images(cluster.agents.last().context("a node")?)?;
    }
    cluster.apply(&format!("{PODS}---{SERVICES}"))?;
    cluster.eventually("all of them are there", || {
        let clients = cluster.get("daemonset", "client")?["status"]["numberAvailable"] == nodes;
        Ok(clients && cluster.get("deployment", "who")?["status"]["availableReplicas"] == 3)
    })?;
    Ok(cluster)
}

fn cluster_ip(cluster: &Cluster, service: &str) -> anyhow::Result<String> {
    Ok(cluster.get("service", service)?["spec"]["clusterIP"].as_str().context("clusterIP")?.to_string())
}

#[test]
fn services_of_every_kind_answer_from_everywhere() -> anyhow::Result<()> {
    let cluster = start(2)?;
    let agent = cluster.agents.first().context("an agent")?;
    let bystander = cluster.bystander()?;
    // Who is outside knows the way to an external address by a router, here a node.
    let way = ["ip", "route", "add", "192.0.2.50", "via", &agent.address()].map(String::from);
    assert_eq!(bystander.run(&way, "").code, 0);
    cluster.eventually("the balancer has both nodes' addresses", || {
        let service = cluster.get("service", "balanced")?;
        Ok(service["status"]["loadBalancer"]["ingress"].as_array().is_some_and(|all| all.len() == 2))
    })?;
    let inside = format!("{}:80", cluster_ip(&cluster, "inside")?);
    let at = |node: &Node, port: u16| format!("{}:{port}", node.address());

    // From the nodes, from outside, and from pods on either node: the last by name.
    let from_nodes =
        [inside.clone(), at(&cluster.server, 30080), at(agent, 30080), at(agent, 8000), "192.0.2.50:80".into()];
    for from in [&cluster.server, agent] {
        for to in &from_nodes {
            cluster.eventually(&format!("{to} answers a node"), || Ok(tcp(from, to).is_some()))?;
        }
        cluster.eventually("datagrams are answered", || Ok(udp(from, &inside).is_some()))?;
    }
    for to in [at(&cluster.server, 30080), at(agent, 30080), at(&cluster.server, 8000), "192.0.2.50:80".into()] {
        cluster.eventually(&format!("{to} answers who is outside"), || Ok(tcp(&bystander, &to).is_some()))?;
    }
    assert!(udp(&bystander, &at(&cluster.server, 30080)).is_some());
    assert_eq!(tcp(&bystander, &inside), None, "the cluster's own addresses are of the cluster alone");
    for client in cluster.list("pods", "app=client")? {
        let name = client["metadata"]["name"].as_str().context("a name")?;
        for to in
            ["inside 80", "node 80", "each 8080", "alias 80", &at(agent, 30080).replace(':', " "), "192.0.2.50 80"]
        {
            let answer = cluster.ok(&["exec", name, "--", "sh", "-c", &format!("nc -w 3 {to} </dev/null")])?;
            let (_, peer) = read(&answer).with_context(|| format!("{to}: {answer:?}"))?;
            // Within the cluster a pod is seen as itself.
            if !to.starts_with(char::is_numeric) {
                assert_eq!(client["status"]["podIP"], peer.as_str(), "{to}");
            }
        }
        for to in ["inside:80", "node:80", "alias:80"] {
            let answer = cluster.ok(&["exec", name, "--", "whoami", "ask", to])?;
            assert!(read(&answer).is_some(), "{to}: {answer:?}");
        }
    }

    // Each gets its share: that one of three has fewer than 50 or more than 150 of 300 by chance is six deviations off.
    for (what, counts) in [
        ("from a node", counted(300, || tcp(&cluster.server, &inside))),
        ("datagrams", counted(300, || udp(&cluster.server, &inside))),
        ("from outside", counted(300, || tcp(&bystander, &at(agent, 30080)))),
    ] {
        assert!(counts.len() == 3 && counts.values().all(|n| (50..=150).contains(n)), "{what}: {counts:?}");
    }

    // Who has been with one stays with it, by whatever port.
    let patch = |service: &str, patch: &str| cluster.ok(&["patch", "service", service, "-p", patch]);
    patch("node", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#)?;
    cluster.eventually("a client keeps its endpoint", || {
        Ok(counted(30, || tcp(&bystander, &at(&cluster.server, 30080))).len() == 1)
    })?;
    let kept = tcp(&bystander, &at(&cluster.server, 30080)).context("an answer")?.0;
    cluster.ok(&["delete", "pod", &kept, "--wait=false"])?;
    cluster.eventually("it gets another when that one goes", || {
        Ok(tcp(&bystander, &at(&cluster.server, 30080)).is_some_and(|(name, _)| name != kept))
    })?;
    assert_eq!(counted(30, || tcp(&bystander, &at(&cluster.server, 30080))).len(), 1);

    // What comes from within may be kept on its node, too.
    patch("inside", r#"{"spec":{"internalTrafficPolicy":"Local"}}"#)?;
    let pods_on = |node: &str| -> anyhow::Result<Vec<String>> {
        let pods = cluster.list("pods", "app=who")?;
        let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
        let here = pods.iter().filter(stays).filter(|pod| pod["spec"]["nodeName"] == node);
        Ok(here.filter_map(|pod| pod["metadata"]["name"].as_str().map(String::from)).collect())
    };
    for (node, name) in [(&cluster.server, "server-1"), (agent, "agent-2")] {
        cluster.eventually(&format!("{name} asks its own pods alone"), || {
            let (counts, own) = (counted(20, || tcp(node, &inside)), pods_on(name)?);
            Ok(counts.keys().all(|pod| own.contains(pod)))
        })?;
    }
    patch("inside", r#"{"spec":{"internalTrafficPolicy":"Cluster"}}"#)?;

    // Clients are seen as they are where traffic stays on the node; a node without endpoints has nothing to say then.
    let (_, seen) = tcp(&bystander, &at(agent, 8000)).context("an answer")?;
    assert_ne!(seen, bystander.address());
    patch("balanced", r#"{"spec":{"externalTrafficPolicy":"Local"}}"#)?;
    cluster.eventually("its address is kept", || {
        Ok(tcp(&bystander, &at(agent, 8000)).is_some_and(|(_, seen)| seen == bystander.address()))
    })?;
    cluster.ok(&["cordon", "agent-2"])?;
    for pod in &pods_on("agent-2")? {
        cluster.ok(&["delete", "pod", pod, "--wait=false"])?;
    }
    cluster.eventually("the empty node is silent", || Ok(tcp(&bystander, &at(agent, 8000)).is_none()))?;
    cluster.eventually("the other one speaks", || Ok(tcp(&bystander, &at(&cluster.server, 8000)).is_some()))?;
    assert!(tcp(agent, &inside).is_some());
    Ok(())
}

/// Somebody who connects again and again, and counts what fails.
fn under_load(from: &Node, to: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<(usize, Vec<usize>)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (mut count, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                if tcp(from, to).is_none() {
                    failed.push(count);
                }
                count += 1;
            }
            (count, failed)
        });
        let worked = work();
        over.store(true, Ordering::Relaxed);
        let (count, failed) = load.join().map_err(|_| anyhow::anyhow!("the load died"))?;
        worked.map(|()| (count, failed))
    })
}

#[test]
fn no_connection_fails_while_endpoints_go_and_the_server_is_killed() -> anyhow::Result<()> {
    let mut cluster = start(1)?;
    let inside = format!("{}:80", cluster_ip(&cluster, "inside")?);
    let bystander = cluster.bystander()?;
    let port = format!("{}:30080", cluster.server.address());
    cluster.eventually("all answer", || Ok(counted(30, || tcp(&cluster.server, &inside)).len() == 3))?;
    cluster.eventually("the port answers", || Ok(tcp(&bystander, &port).is_some()))?;
    // Pods take their leave one by one: they answer while it becomes known that they go.
    let (count, failed) = under_load(&cluster.server, &inside, || {
        for pod in cluster.list("pods", "app=who")? {
            let name = pod["metadata"]["name"].as_str().context("a name")?;
            cluster.ok(&["delete", "pod", name, "--wait=false", "--grace-period=20"])?;
            cluster.eventually("there are three again", || {
                let pods = cluster.list("pods", "app=who")?;
                let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
                Ok(pods.iter().filter(stays).filter(|pod| testkit::cluster::is_ready(pod)).count() == 3)
            })?;
        }
        Ok(())
    })?;
    assert!(failed.is_empty() && count > 100, "{} of {count} connections failed: {failed:?}", failed.len());

    let (count, failed) = under_load(&bystander, &port, || {
        for _ in 0..3 {
            cluster.server.crash();
            std::thread::sleep(Duration::from_millis(300));
            cluster.server.spawn()?;
            cluster.eventually("the server answers", || Ok(cluster.kubectl(&["get", "nodes"]).code == 0))?;
        }
        Ok(())
    })?;
    assert!(failed.is_empty() && count > 100, "{} of {count} connections failed: {failed:?}", failed.len());
    Ok(())
}

#[test]
fn udp_flows_follow_changes_of_endpoints() -> anyhow::Result<()> {
    let cluster = start(1)?;
    let inside = format!("{}:80", cluster_ip(&cluster, "inside")?);
    let node = format!("{}:30080", cluster.server.address());
    let bystander = cluster.bystander()?;
    // Who asks from the same port all the time is one flow to the kernel, which goes where its first datagram went.
    let sockets = [udp_socket(&cluster.server, &inside)?, udp_socket(&bystander, &node)?];
    for socket in &sockets {
        cluster.eventually("there is an answer", || Ok(ask(socket).is_some()))?;
        let (first, _) = ask(socket).context("an answer")?;
        assert!(counted(10, || ask(socket)).into_keys().all(|name| name == first));
        cluster.ok(&["delete", "pod", &first])?;
        // Each question makes the kernel remember the flow for longer.
        cluster.eventually("another one answers", || Ok(ask(socket).is_some_and(|(name, _)| name != first)))?;
    }
    // So does one that began when there was nobody.
    cluster.ok(&["scale", "deployment", "who", "--replicas=0"])?;
    cluster.eventually("nobody answers", || Ok(sockets.iter().all(|socket| ask(socket).is_none())))?;
    cluster.ok(&["scale", "deployment", "who", "--replicas=1"])?;
    for socket in &sockets {
        cluster.eventually("there is an answer again", || Ok(ask(socket).is_some()))?;
    }
    Ok(())
}

#[test]
fn deleted_interfaces_and_tables_are_made_again() -> anyhow::Result<()> {
    let cluster = start(1)?;
    let inside = format!("{}:80", cluster_ip(&cluster, "inside")?);
    let client = cluster.list("pods", "app=client")?[0]["metadata"]["name"].as_str().context("a name")?.to_string();
    let well = || {
        let from_pod = cluster.kubectl(&["exec", &client, "--", "sh", "-c", "nc -w 1 inside 80 </dev/null"]);
        Ok(tcp(&cluster.server, &inside).is_some() && read(&from_pod.stdout).is_some())
    };
    cluster.eventually("all is well", well)?;
    let interfaces = cluster.server.inventory()["interfaces of pods"];
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all}\nspec: {podSelector: {matchLabels: {app: who}}, ingress: [{}]}\n",
    )?;
    let run = |command: &str| {
        let words: Vec<String> = command.split(' ').map(String::from).collect();
        cluster.server.run(&words, "")
    };
    let index = || run("ip -o link show timonel0").stdout.split(':').next().map(String::from);
    // Pods have learnt it.
    let hardware = || run("ip -br link show timonel0").stdout.split_whitespace().nth(2).map(String::from);
    let (before, learnt) = (index(), hardware());
    assert_eq!(run("ip link delete timonel0").code, 0);
    cluster.eventually("there is another bridge, and all is well", || Ok(index() != before && well()?))?;
    for table in ["timonel", "timonel-policy"] {
        cluster.eventually("the table is there", || Ok(run(&format!("nft delete table ip {table}")).code == 0))?;
        assert!(table != "timonel" || !well()?, "nobody needs it");
        let there = || Ok(run(&format!("nft list table ip {table}")).code == 0 && well()?);
        cluster.eventually(&format!("there is a table {table}, and all is well"), there)?;
    }
    assert_eq!(cluster.server.inventory()["interfaces of pods"], interfaces);
    assert_eq!(hardware(), learnt);
    // Pods that come later are connected, too.
    cluster.ok(&["scale", "deployment", "who", "--replicas=5"])?;
    cluster.eventually("five answer", || Ok(counted(60, || tcp(&cluster.server, &inside)).len() == 5))?;
    assert_eq!(hardware(), learnt);
    Ok(())
}
