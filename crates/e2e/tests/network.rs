//! Network policies on real traffic, on one node and between two; networks that somebody else's plugins make.

use testkit::Cluster;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: server-1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'nginx:1.27', ports: [{name: http, containerPort: 80}], readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: http}]}
";

fn client(name: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{role: {name}}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '3600']}}]\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn network_policies_allow_the_peers_that_they_name() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join()?;
    let agent = cluster.list("nodes", "")?.iter().find_map(|n| {
        let name = n["metadata"]["name"].as_str()?;
        (name != "server-1").then(|| name.to_string())
    });
    let agent = agent.unwrap_or_default();
    cluster.apply(
        &[PODS.to_string(), client("near", "server-1"), client("far", &agent), client("stranger", &agent)].concat(),
    )?;
    for name in ["web", "near", "far", "stranger"] {
        cluster.wait_pod(name)?;
    }
    let reaches = |from: &str| {
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 web 8080";
        cluster.kubectl(&["exec", from, "--", "sh", "-c", ask]).stdout.contains("200 OK")
    };
    let expect = |what: &str, allowed: &[&str]| {
        cluster.eventually(what, || {
            Ok(["near", "far", "stranger"].iter().all(|from| reaches(from) == allowed.contains(from)))
        })
    };
    expect("all reach it without a policy", &["near", "far", "stranger"])?;
    // A connection that was let in ends when it no longer is.
    let hold = "(printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n'; until [ -e /tmp/go ]; do sleep 0.1; done; printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n'; sleep 1) | nc web 8080; echo over";
    let held = cluster.kubectl_beside(&["exec", "stranger", "--", "sh", "-c", hold])?;
    cluster.eventually("a connection is open", || Ok(held.lines().iter().any(|l| l.contains("200 OK"))))?;
    let friends = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [near, far]}]}}], ports: [{port: http}]}]}";
    cluster.apply(&policy("friends", friends))?;
    expect("only friends reach it", &["near", "far"])?;
    cluster.ok(&["exec", "stranger", "--", "sh", "-c", "touch /tmp/go; sleep 2; kill $(pidof nc)"])?;
    cluster.eventually("the connection is over", || Ok(held.lines().iter().any(|l| l == "over")))?;
    assert_eq!(held.lines().iter().filter(|l| l.contains("200 OK")).count(), 1, "{:?}", held.lines());
    // The node's own probes are let in, so the pod stays ready.
    let pod = cluster.get("pod", "web")?;
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{pod}");

    cluster.apply(&policy("quiet", "{podSelector: {matchLabels: {role: far}}, policyTypes: [Egress]}"))?;
    expect("the far one may say nothing", &["near"])?;
    let names = cluster.kubectl(&["exec", "far", "--", "nslookup", "web.default.svc.cluster.local"]);
    assert!(names.stdout.contains("web.default.svc.cluster.local"), "names are always answered: {names:?}");
    cluster.apply(&policy(
        "quiet",
        "{podSelector: {matchLabels: {role: far}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.42.0.0/16}}], ports: [{port: 80}]}]}",
    ))?;
    expect("the far one may ask pods", &["near", "far"])?;
    cluster.ok(&["delete", "networkpolicy", "--all"])?;
    expect("all reach it again", &["near", "far", "stranger"])?;
    // A node whose object somebody deletes registers itself again, and is a node as before.
    cluster.ok(&["delete", "node", &agent])?;
    cluster.eventually("the node is there again", || {
        let node = cluster.kubectl(&[
            "get",
            "node",
            &agent,
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}",
        ]);
        Ok(node.stdout == "True")
    })?;
    cluster.apply(&client("later", &agent))?;
    cluster.wait_pod("later")?;
    cluster.eventually("its pods reach others", || Ok(reaches("later")))
}

/// A pod that may change its own network as it likes.
const INTRUDER: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: intruder}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600'], securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}}]
";

/// One that asks at once, and beside it a container that never starts.
fn eager(name: &str, command: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{role: {name}}}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: c, image: 'busybox:1.28', command: [sh, -c, \"{command}\"]}}\n  - {{name: never, image: 'busybox:missing'}}\n"
    )
}

/// Policies and names hold from a pod's first packet, and no pod speaks for another or past the node, whether bridges' frames are filtered or not.
#[test]
fn a_pod_is_known_by_its_address_from_its_first_packet() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(&[PODS, &client("target", "server-1"), INTRUDER].concat())?;
    for name in ["web", "target", "intruder"] {
        cluster.wait_pod(name)?;
    }
    let target = cluster.get("pod", "target")?["status"]["podIP"].as_str().unwrap_or("").to_string();
    let ip = cluster.get("pod", "web")?["status"]["podIP"].as_str().unwrap_or("").to_string();
    // Short names at once.
    let askers: Vec<String> = (0..4).map(|n| format!("asker-{n}")).collect();
    cluster.apply(&askers.iter().map(|name| eager(name, "nslookup web; echo done")).collect::<String>())?;
    let address = cluster.get("service", "web")?["spec"]["clusterIP"].as_str().unwrap_or("").to_string();
    for asker in &askers {
        cluster
            .eventually("it has asked", || Ok(cluster.kubectl(&["logs", asker, "-c", "c"]).stdout.contains("done")))?;
        let said = cluster.ok(&["logs", asker, "-c", "c"])?;
        assert!(said.contains(&address), "{said}");
    }
    // A policy that is there is never late.
    cluster.apply(&policy("silent", "{podSelector: {matchLabels: {role: silent}}, policyTypes: [Egress]}"))?;
    let connect = format!("for i in 1 2; do nc -w 1 {ip} 80 </dev/null && echo open; done; echo done");
    cluster.apply(&[eager("silent", &connect), eager("open", &connect)].concat())?;
    for (name, is_open) in [("silent", false), ("open", true)] {
        cluster
            .eventually("it has tried", || Ok(cluster.kubectl(&["logs", name, "-c", "c"]).stdout.contains("done")))?;
        let said = cluster.ok(&["logs", name, "-c", "c"])?;
        assert_eq!(said.contains("open"), is_open, "{name}: {said}");
    }
    for filtered in ["0", "1"] {
        // Where the kernel has it at all.
        let setting = format!("echo {filtered} > /proc/sys/net/bridge/bridge-nf-call-iptables || true");
        cluster.server.run(&["sh", "-c", &setting].map(String::from), "");
        let run = |command: &str| cluster.kubectl(&["exec", "intruder", "--", "sh", "-c", command]);
        let heard = || -> anyhow::Result<u64> {
            let told = cluster.ok(&["exec", "target", "--", "cat", "/proc/net/snmp"])?;
            let mut lines = told.lines().filter(|l| l.starts_with("Icmp:"));
            let (names, numbers) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
            let mut pairs = names.split(' ').zip(numbers.split(' '));
            Ok(pairs.find(|(name, _)| *name == "InEchos").and_then(|(_, n)| n.parse().ok()).unwrap_or(0))
        };
        let before = heard()?;
        let asked = run(&format!("ping -c 1 -W 2 {target}"));
        assert_eq!((asked.code, heard()?), (0, before + 1), "{asked:?}");
        // By another's address.
        run(&format!(
            "ip addr add 10.42.0.200/32 dev eth0; ping -c 2 -W 1 -I 10.42.0.200 {target}; ip addr del 10.42.0.200/32 dev eth0"
        ));
        assert_eq!(heard()?, before + 1, "an address that isn't the pod's is let through");
        // Past the node: nobody else is on the link.
        run(&format!("ip route add {target} dev eth0; ping -c 2 -W 1 {target}; ip route del {target} dev eth0"));
        assert_eq!(heard()?, before + 1, "a pod is reached past the node");
        assert!(!run("ip neigh").stdout.contains(&format!("{target} dev eth0 lladdr")));
    }
    Ok(())
}

#[test]
fn endpoints_that_are_written_by_hand_carry_traffic() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(&format!("{PODS}{}", client("probe", "server-1")))?;
    cluster.wait_pod("web")?;
    cluster.wait_pod("probe")?;
    let ip = cluster.get("pod", "web")?["status"]["podIP"].as_str().unwrap_or("").to_string();
    cluster.apply(
        "---\n{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {ports: [{port: 8080, targetPort: 80}]}}",
    )?;
    cluster.apply(&format!(
        "---\n{{apiVersion: v1, kind: Endpoints, metadata: {{name: outside}}, subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 80}}]}}]}}"
    ))?;
    let managed = "kubernetes.io/service-name=outside,\
                   endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io";
    cluster.eventually("the endpoints are mirrored", || {
        let slices = cluster.list("endpointslices", managed)?;
        Ok(slices.len() == 1 && slices[0]["endpoints"][0]["addresses"][0] == ip.as_str())
    })?;
    let address = cluster.get("service", "outside")?["spec"]["clusterIP"].as_str().unwrap_or("").to_string();
    let line = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 8080");
    let ask = ["exec", "probe", "--", "sh", "-c", &line];
    cluster.eventually("the service leads there", || Ok(cluster.kubectl(&ask).stdout.contains("nginx")))?;
    cluster.ok(&["delete", "endpoints", "outside"])?;
    cluster.eventually("the mirror goes with them", || Ok(cluster.list("endpointslices", managed)?.is_empty()))?;
    cluster.eventually("and the way there", || Ok(!cluster.kubectl(&ask).stdout.contains("nginx")))
}

/// A machine on a link of a node's, which takes the node for the way to 127.0.0.0/8.
struct Stranger(String);

impl Stranger {
    fn beside(node: &testkit::Node) -> anyhow::Result<Self> {
        let stranger = Stranger(format!("stranger-{}", std::process::id()));
        let name = &stranger.0;
        let script = format!(
            "set -e; ip netns add {name}; ip link add st0 type veth peer name st1 netns {name}
             ip addr add 10.77.0.1/24 dev st0; ip link set st0 up
             ip -n {name} addr add 10.77.0.2/24 dev st1; ip -n {name} link set st1 up
             ip netns exec {name} sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet'
             ip -n {name} route add 127.0.0.0/8 via 10.77.0.1"
        );
        let made = node.run(&["bash".into(), "-c".into(), script], "");
        anyhow::ensure!(made.code == 0, "{made:?}");
        Ok(stranger)
    }

    fn reaches(&self, node: &testkit::Node, address: &str) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{address}");
        let words = ["ip", "netns", "exec", &self.0, "timeout", "2", "bash", "-c", &connect].map(String::from);
        node.run(&words, "").code == 0
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Pods are reached by 127.0.0.1 from their machine; from elsewhere nothing is, as what listens there trusts who comes
/// (CVE-2020-8558).
#[test]
fn loopback_listeners_are_reached_from_their_machine_alone() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let listener = cluster.server.inside(|| std::net::TcpListener::bind("127.0.0.1:9999"))??;
    let stranger = Stranger::beside(&cluster.server)?;
    let setting = || cluster.server.run(&["cat", "/proc/sys/net/ipv4/conf/all/route_localnet"].map(String::from), "");
    cluster.eventually("loopback is routed", || Ok(setting().stdout.trim() == "1"))?;
    assert!(stranger.reaches(&cluster.server, "10.77.0.1/6443"), "it isn't connected at all");
    assert!(!stranger.reaches(&cluster.server, "127.0.0.1/9999"));
    // Were it not for the rules, it would be: until they are looked after again.
    let flush = ["nft", "flush", "chain", "ip", "timonel", "raw_in"].map(String::from);
    assert_eq!(cluster.server.run(&flush, "").code, 0);
    assert!(stranger.reaches(&cluster.server, "127.0.0.1/9999"));
    cluster.server.uninstall();
    let setting = cluster.server.run(&["cat", "/proc/sys/net/ipv4/conf/all/route_localnet"].map(String::from), "");
    assert_eq!(setting.stdout.trim(), "0");
    drop(listener);
    Ok(())
}

const OTHERS: &str = r#"{"cniVersion": "0.4.0", "name": "others", "plugins": [
  {"type": "bridge", "bridge": "others0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "DATA",
   "ranges": [[{"subnet": "10.88.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

#[test]
fn cni_plugins_connect_pods() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (conf, leases) = (folder.path().join("net.d"), folder.path().join("leases"));
    std::fs::create_dir(&conf)?;
    let list = conf.join("10-others.conflist");
    let write = || std::fs::write(&list, OTHERS.replace("DATA", &leases.display().to_string()));
    write()?;
    let flags = ["--cni-conf-dir", &conf.display().to_string(), "--cluster-cidr", "10.88.0.0/16"];
    let mut cluster = Cluster::start_with(&flags)?;
    cluster.apply(&[PODS.to_string(), client("near", "server-1")].concat())?;
    cluster.wait_pod("web")?;
    cluster.wait_pod("near")?;
    // Addresses are the plugin's, and what is ours goes on top of them: names, services, probes, policies.
    fn address(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
        Ok(cluster.get("pod", pod)?["status"]["podIP"].as_str().unwrap_or("").to_string())
    }
    assert!(address(&cluster, "web")?.starts_with("10.88.7."), "{}", address(&cluster, "web")?);
    let inside = cluster.ok(&["exec", "near", "--", "ip", "-4", "addr", "show", "dev", "eth0"])?;
    assert!(inside.contains(&address(&cluster, "near")?), "{inside}");
    let reaches = || {
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 web 8080";
        cluster.kubectl(&["exec", "near", "--", "sh", "-c", ask]).stdout.contains("200 OK")
    };
    cluster.eventually("the service answers", || Ok(reaches()))?;
    cluster.apply(&policy("closed", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}"))?;
    cluster.eventually("the policy holds", || Ok(!reaches()))?;
    cluster.ok(&["delete", "networkpolicy", "closed"])?;

    // Without a configuration the node says so, and who has a network keeps it.
    std::fs::remove_file(&list)?;
    let ready = || {
        let node = cluster.get("node", "server-1")?;
        let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = all.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
        Ok::<_, anyhow::Error>(format!("{} {}", ready["status"], ready["message"]))
    };
    cluster.eventually("the node says what is missing", || {
        Ok(ready()?.starts_with("\"False\"") && ready()?.contains("cni plugin not initialized"))
    })?;
    cluster.eventually("the service answers still", || Ok(reaches()))?;
    write()?;
    cluster.eventually("the node is ready again", || Ok(ready()?.starts_with("\"True\"")))?;

    // What a pod had is given back, also when the agent was gone and the machine started anew.
    let leased = || -> Vec<String> {
        let files = std::fs::read_dir(leases.join("others")).into_iter().flatten().flatten();
        files.map(|f| f.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("10.")).collect()
    };
    assert_eq!(leased().len(), 2);
    cluster.ok(&["delete", "pod", "near"])?;
    cluster.eventually("its address is free", || Ok(leased() == [address(&cluster, "web")?]))?;
    cluster.server.reboot()?;
    cluster.server.spawn()?;
    cluster.eventually("the pod is back", || Ok(leased().len() == 1 && leased() == [address(&cluster, "web")?]))?;
    cluster.wait_pod("web")?;
    cluster.ok(&["delete", "pod", "web"])?;
    cluster.eventually("nothing is left", || Ok(leased().is_empty()))
}
