//! What pods, users of the machine, tokens, nodes and tenants try, a line each in a table, while another client is served.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::Cluster;
use testkit::node::{Beside, Node};

/// A line each: who, what he tries, and what becomes of it.
const ATTACKS: &str = include_str!("attacks.txt");
/// All who try something.
const ATTACKERS: [&str; 7] = ["pod", "user", "token", "node", "tenant", "walled", "spec"];

/// What somebody tries, and what becomes of it.
#[derive(Debug, Clone)]
struct Attack {
    what: String,
    then: String,
}

/// The attacks of somebody, with names of places and the like put in.
fn attacks(who: &str, places: &[(&str, String)]) -> Vec<Attack> {
    let lines = ATTACKS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        let line = line.replace("\\|", "\0");
        let parts: Vec<String> = line.split('|').map(|part| part.trim().replace('\0', "|")).collect();
        let [by, mut what, then] =
            <[String; 3]>::try_from(parts).unwrap_or_else(|parts| panic!("not three parts: {parts:?}"));
        assert!(ATTACKERS.contains(&by.as_str()), "{by}");
        for (name, place) in places {
            what = what.replace(name, place);
        }
        (by == who).then_some(Attack { what, then })
    };
    lines.filter_map(read).collect()
}

/// A script that tries all, and names those that worked.
fn script(attacks: &[Attack]) -> String {
    let mut script = String::from("command -v timeout > /dev/null && t='timeout 10' || t=\n");
    for (number, attack) in attacks.iter().enumerate() {
        let quoted = attack.what.replace('\'', "'\\''");
        let _ = writeln!(script, "$t sh -c '{quoted}' > /dev/null 2>&1 < /dev/null && echo WORKED {number}");
    }
    script + "echo DONE\n"
}

/// Has all tried by a shell that `run` runs, some at a time, and returns those that worked.
fn worked(attacks: &[Attack], run: impl Fn(&str) -> String) -> anyhow::Result<Vec<&str>> {
    let mut worked = Vec::new();
    for some in attacks.chunks(10) {
        let said = run(&script(some));
        anyhow::ensure!(said.contains("DONE"), "the script of {some:#?} didn't end: {said}");
        let numbers = said.lines().filter_map(|line| line.strip_prefix("WORKED ")?.parse::<usize>().ok());
        worked.extend(numbers.filter_map(|number| Some(some.get(number)?.what.as_str())));
    }
    Ok(worked)
}

fn none_works(attacks: &[Attack], run: impl Fn(&str) -> String) -> anyhow::Result<()> {
    let worked = worked(attacks, run)?;
    anyhow::ensure!(!attacks.is_empty() && worked.is_empty(), "these worked: {worked:#?}");
    Ok(())
}

/// Another client, who writes ten times a second.
fn bystander(cluster: &Cluster) -> anyhow::Result<Beside> {
    let tls = cluster.server.folder().join("data/server/tls");
    let tls = tls.display();
    let line = format!(
        "while :; do curl -s -o /dev/null -w '%{{http_code}} %{{time_total}}\\n' --cacert {tls}/ca.crt --cert {tls}/admin.crt --key {tls}/admin.key \
         -H 'content-type: application/json' -d '{{\"metadata\": {{\"generateName\": \"m\"}}}}' \
         https://127.0.0.1:6443/api/v1/namespaces/kube-public/configmaps; sleep 0.1; done"
    );
    cluster.server.beside(&["sh".into(), "-c".into(), line])
}

/// How long a write of the bystander may take. This is not the build that users have.
const LIMIT: f64 = if cfg!(debug_assertions) { 2.5 } else { 0.5 };

fn was_served(bystander: &Beside) -> anyhow::Result<()> {
    let lines = bystander.lines();
    let read = |line: &String| {
        let (code, time) = line.split_once(' ')?;
        Some(if code == "201" { time.parse::<f64>().ok()? } else { f64::MAX })
    };
    let longest = lines.iter().filter_map(read).fold(0.0, f64::max);
    anyhow::ensure!(longest < LIMIT, "another client's write took {longest} s, or failed: {lines:?}");
    println!("{} writes of another client, the longest took {longest} s", lines.len());
    Ok(())
}

#[test]
fn the_documentation_counts_the_attacks() {
    let count = ATTACKERS.map(|who| attacks(who, &[]).len()).iter().sum::<usize>();
    let said = format!("{count} attacks on real containers");
    assert!(include_str!("../../../../docs/security.md").contains(&said), "docs/security.md must say {said:?}");
}

/// The pod that attackers are in: of what nobody asks for, and with all that a pod gets. A tenant with a namespace of its own.
const ATTACKER: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {k: v}
---
apiVersion: v1
kind: Namespace
metadata: {name: walled, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: walled}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: walled}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: tenant, namespace: walled}]
---
apiVersion: v1
kind: Pod
metadata: {name: attacker}
spec:
  nodeName: server-1
  terminationGracePeriodSeconds: 0
  volumes: [{name: c, configMap: {name: config}}, {name: s, secret: {secretName: secret}}]
  containers:
  - {name: c, image: 'busybox:1.28', command: [sleep, '36000'], volumeMounts: [{name: c, mountPath: /config}, {name: s, mountPath: /secrets}]}
";

/// A pod of a table's line; in the tenant's namespace with what the restricted standard demands.
fn pod_of(line: &Attack, number: usize, is_walled: bool) -> anyhow::Result<Value> {
    let text = line.what.replace("$X1000", &"x".repeat(1000));
    let text = ["A", "B", "C"]
        .iter()
        .fold(text, |text, name| text.replace(&format!("${name}200"), &format!("$({name})").repeat(200)));
    let mut spec: Value = apimachinery::yaml::from_str(&text).map_err(|e| anyhow::anyhow!("{text}: {e}"))?;
    if is_walled {
        spec["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            container["securityContext"] =
                json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        }
    }
    spec["nodeName"] = "server-1".into();
    let namespace = if is_walled { "walled" } else { "default" };
    Ok(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("spec-{number}"), "namespace": namespace}, "spec": spec}),
    )
}

/// Makes the pods, and returns where each is and what must be said of it.
fn make_pods(cluster: &Cluster) -> anyhow::Result<Vec<(String, String, String)>> {
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for (who, is_walled) in [("spec", false), ("walled", true)] {
        for (number, line) in attacks(who, &[]).iter().enumerate() {
            let pod = pod_of(line, number, is_walled)?;
            if let Err(error) = cluster.apply(&pod.to_string()) {
                let error = error.to_string();
                if !error.contains(&line.then) {
                    refused.push(format!("{}: {error}", line.what));
                }
                continue;
            }
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or("").to_string();
            made.push((text("namespace"), text("name"), line.then.clone()));
        }
    }
    anyhow::ensure!(refused.is_empty(), "the API refused {refused:#?}");
    Ok(made)
}

fn expect_of_pods(cluster: &Cluster, pods: &[(String, String, String)]) -> anyhow::Result<()> {
    for (namespace, name, then) in pods.iter().filter(|(.., then)| !then.is_empty()) {
        cluster.eventually(&format!("{namespace}/{name} says {then}"), || {
            let pod = cluster.ok(&["get", "pod", "-n", namespace, name, "-o", "json"])?;
            let status = serde_json::from_str::<Value>(&pod)?["status"].to_string();
            let field = format!("involvedObject.name={name}");
            let events = || cluster.ok(&["get", "events", "-n", namespace, "--field-selector", &field, "-o", "json"]);
            Ok(status.contains(then.as_str()) || events()?.contains(then.as_str()))
        })?;
    }
    Ok(())
}

/// A shell on a machine as a user without rights.
fn as_anybody(node: &Node, script: &str) -> String {
    let line = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh"].map(String::from);
    node.run(&line, script).stdout
}

/// What a user of the machine tries; what he is kept from is there for root.
fn users_are_kept_out(node: &Node, places: &[(&str, String)]) -> anyhow::Result<()> {
    let all = attacks("user", places);
    none_works(&all, |script| as_anybody(node, script)).context("a user of the machine")?;
    let of_root: Vec<Attack> = all.into_iter().filter(|attack| attack.then == "root").collect();
    let worked = worked(&of_root, |script| node.run(&["sh".into()], script).stdout)?;
    let not: Vec<&Attack> = of_root.iter().filter(|attack| !worked.contains(&attack.what.as_str())).collect();
    anyhow::ensure!(not.is_empty(), "root can't do it either: {not:#?}");
    Ok(())
}

/// What a tenant tries by kubectl, with a kubeconfig of its own. All of it is forbidden, and nothing else is wrong with it.
fn tenants_are_forbidden(cluster: &Cluster) -> anyhow::Result<()> {
    let token = cluster.ok(&["create", "token", "tenant", "-n", "walled"])?;
    let own = cluster.server.folder().join("tenant.kubeconfig");
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "walled"}}]});
    std::fs::write(&own, kubeconfig.to_string())?;
    let run = |arguments: &str| {
        let mut line = cluster.kubectl_line(&arguments.split_whitespace().collect::<Vec<_>>());
        let at = line.iter().position(|word| word == "--kubeconfig").map_or(0, |at| at + 1);
        line[at] = own.display().to_string();
        cluster.server.run(&line, "")
    };
    let mine = run("get pods -n walled");
    anyhow::ensure!(mine.code == 0, "the tenant can't read its own: {mine:?}");
    for Attack { what, .. } in attacks("tenant", &[]) {
        let output = run(&what);
        anyhow::ensure!(output.code != 0 && output.stderr.contains("orbidden"), "{what}: {output:?}");
    }
    Ok(())
}

/// A figure of the control plane's.
fn metric(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let metrics = cluster.ok(&["get", "--raw", "/metrics"])?;
    let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.with_context(|| format!("there is no {name}"))
}

/// A tenant asks a hundred times for a namespace of 28 MB, and reads next to nothing of it. If the answers were made at once, they would take three times
/// what the control plane may have.
fn unread_lists_cost_little(cluster: &Cluster) -> anyhow::Result<()> {
    const READERS: usize = 100;
    let map = |i: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("large-{i}"), "namespace": "walled"},
            "data": {"a": "x".repeat(700_000)}})
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "items": (0..40).map(map).collect::<Vec<_>>()});
    let made = cluster.kubectl_with(&["create", "-f", "-"], &list.to_string());
    anyhow::ensure!(made.code == 0, "{}", made.stderr);
    let token = cluster.ok(&["create", "token", "tenant", "-n", "walled"])?;
    let before = metric(cluster, "process_resident_memory_bytes")?;
    let line = format!(
        "for i in $(seq {READERS}); do (curl -sk -H 'Authorization: Bearer {}' \
         https://127.0.0.1:6443/api/v1/namespaces/walled/configmaps | sleep 50) & done; wait",
        token.trim()
    );
    let _reading = cluster.server.beside(&["sh".into(), "-c".into(), line])?;
    cluster.eventually("the lists are on their way", || {
        Ok(metric(cluster, "timonel_apiserver_unsent_bytes")? >= (READERS * (256 << 10)) as f64)
    })?;
    let more = metric(cluster, "process_resident_memory_bytes")? - before;
    println!("{READERS} lists of 28 MB that nobody reads took {:.0} MB", more / 1e6);
    anyhow::ensure!(more < 150e6, "{more} bytes for lists that nobody reads");
    Ok(())
}

#[test]
fn others_are_served_whatever_pods_users_nodes_and_tenants_try() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(&["--node-memory-max", "1Gi", "--control-plane-memory-max", "1Gi"])?;
    cluster.join()?;
    let cluster = cluster;
    cluster.apply(ATTACKER)?;
    cluster.wait_pod("attacker")?;
    let (server, other) = (&cluster.server, &cluster.agents[0]);
    // The folders of tests would keep everybody out by themselves.
    for folder in server.folder().ancestors().take(2).chain([other.folder()]) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    }
    let writing = bystander(&cluster)?;
    let pods = make_pods(&cluster)?;

    let parts = server.parts();
    let folder = server.folder().display().to_string();
    let agent = other.folder().join("data/agent").display().to_string();
    let places = [
        ("$DATA", format!("{folder}/data")),
        ("$AGENT", agent.clone()),
        ("$KUBECONFIG", format!("{folder}/kubeconfig")),
        (
            "$KUBELETCURL",
            format!("curl -skf --max-time 5 --cert {agent}/tls/kubelet.crt --key {agent}/tls/kubelet.key"),
        ),
        ("$KUBELET", format!("{folder}/data/kubelet")),
        ("$RUN", server.run_dir()),
        ("$NODEPID", parts["node"].to_string()),
        ("$NODE", server.address()),
        ("$OTHER", other.address()),
        ("$PID", parts["control-plane"].to_string()),
    ];
    let with = |name: &'static str, value: String| -> Vec<(&str, String)> {
        [(name, value)].into_iter().chain(places.clone()).collect()
    };

    let of_pod = attacks("pod", &places);
    let in_pod = |script: &str| cluster.kubectl_with(&["exec", "-i", "attacker", "--", "sh"], script).stdout;
    none_works(&of_pod, in_pod).context("a pod")?;
    users_are_kept_out(server, &places)?;

    let token =
        cluster.ok(&["exec", "attacker", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])?;
    let curl = format!("curl -skf --max-time 5 -H 'Authorization: Bearer {}'", token.trim());
    let known = server.run(&["sh".into(), "-c".into(), format!("{curl} https://127.0.0.1:6443/version")], "");
    anyhow::ensure!(known.code == 0, "the token of a pod: {known:?}");
    let of_token = attacks("token", &with("$CURL", curl));
    none_works(&of_token, |script| as_anybody(server, script)).context("a token")?;

    let curl = format!("curl -skf --max-time 5 --cert {agent}/tls/client.crt --key {agent}/tls/client.key");
    let own = format!("{curl} https://{}:6443/api/v1/nodes/agent-2", server.address());
    let own = other.run(&["sh".into(), "-c".into(), own], "");
    anyhow::ensure!(own.code == 0, "the certificate of a node: {own:?}");
    let of_node = attacks("node", &with("$CURL", curl));
    none_works(&of_node, |script| other.run(&["sh".into()], script).stdout).context("a node")?;
    tenants_are_forbidden(&cluster)?;
    unread_lists_cost_little(&cluster)?;
    expect_of_pods(&cluster, &pods)?;

    // Everything can be removed, and the node is what it was.
    for namespace in ["default", "walled"] {
        cluster.ok(&["delete", "pods", "-n", namespace, "--all", "--force", "--grace-period=0", "--wait=false"])?;
    }
    cluster.apply(&ATTACKER.replace("name: attacker", "name: afterwards"))?;
    cluster.wait_pod("afterwards")?;
    cluster.eventually("the other client writes", || Ok(writing.lines().len() > 20))?;
    was_served(&writing)?;
    for (part, path) in [("control-plane", "/metrics"), ("node", "/api/v1/nodes/server-1/proxy/metrics")] {
        let metrics = cluster.ok(&["get", "--raw", path])?;
        let restarts = format!("timonel_part_restarts{{part=\"{part}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&restarts)?.trim().parse::<u32>().ok());
        anyhow::ensure!(count.is_some_and(|count| count <= 1), "the {part} was restarted: {count:?}");
    }
    Ok(())
}
