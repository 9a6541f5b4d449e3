//! `timonel why` names faults that are made on a real cluster, each in a namespace of its own, and is silent about a healthy one.

mod faults;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use testkit::{Cluster, Registry};

use faults::{Fault, SLEEP, pod, script};

/// Credentials by which the registry on port 5000 says what it hasn't got; the one on 5001 isn't told any.
const REGISTRIES: &str = "
configs:
  '127.0.0.1:5000': {auth: {username: user, password: secret}}
";

fn namespaces(faults: &[Fault]) -> Vec<(String, &Fault)> {
    faults.iter().enumerate().map(|(n, fault)| (format!("{}-{n}", fault.code.to_lowercase()), fault)).collect()
}

fn why(cluster: &Cluster, arguments: &[&str]) -> testkit::Output {
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let nowhere = cluster.server.folder().join("nowhere").display().to_string();
    cluster.server.timonel(&[&["why", "--kubeconfig", &kubeconfig, "--data-dir", &nowhere], arguments].concat())
}

/// Makes all faults at once.
fn make(cluster: &Cluster, faults: &[(String, &Fault)]) -> anyhow::Result<()> {
    let mut spaces = String::new();
    for (space, fault) in faults {
        let label = if fault.code == "W-POD-SECURITY" {
            ", labels: {pod-security.kubernetes.io/enforce: restricted}"
        } else {
            ""
        };
        let _ = writeln!(spaces, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {space}{label}}}");
    }
    cluster.apply(&spaces)?;
    for (space, fault) in faults {
        let output = cluster.kubectl_with(&["-n", space, "apply", "-f", "-"], &fault.yaml);
        anyhow::ensure!(output.code == 0, "{space}: {}{}", output.stdout, output.stderr);
    }
    Ok(())
}

#[test]
fn first_line_names_each_fault_and_a_healthy_cluster_gives_no_alarm() -> anyhow::Result<()> {
    let cluster =
        Cluster::start_prepared(&[], |node| Ok(std::fs::write(node.folder().join("registries.yaml"), REGISTRIES)?))?;
    // The examples, and what comes with a cluster.
    cluster.apply(include_str!("../../../examples/web.yaml"))?;
    cluster.wait_pod("web-1")?;
    let healthy = why(&cluster, &[]);
    assert_eq!(healthy.code, 0, "{}{}", healthy.stdout, healthy.stderr);
    assert!(healthy.stdout.starts_with("the cluster: nothing is wrong\n"), "{}", healthy.stdout);
    let healthy = why(&cluster, &["statefulset/web"]);
    assert!(healthy.code == 0 && healthy.stdout.contains("2 made, 2 ready"), "{}{}", healthy.stdout, healthy.stderr);
    status_and_bad_input(&cluster)?;
    as_a_viewer(&cluster)?;
    without_the_api(&cluster)?;
    let _first = Registry::start(&cluster.server, 5000)?;
    let _second = Registry::start(&cluster.server, 5001)?;
    let faults = faults::all();
    let faults = namespaces(&faults);
    make(&cluster, &faults)?;
    let mut waiting: BTreeMap<&str, (&Fault, String)> =
        faults.iter().map(|(space, fault)| (space.as_str(), (*fault, String::new()))).collect();
    let named = cluster.eventually("every fault is named in the first line", || {
        waiting.retain(|space, (fault, seen)| {
            let answer = why(&cluster, &["-n", space]);
            *seen = format!("{}{}", answer.stdout, answer.stderr);
            let first = answer.stdout.lines().next().unwrap_or("");
            !(answer.code == 1 && first.contains(&format!("[{}]", fault.code)))
        });
        anyhow::ensure!(waiting.is_empty(), "{} of {} aren't", waiting.len(), faults.len());
        Ok(true)
    });
    let left: Vec<String> = waiting.iter().map(|(space, (_, seen))| format!("== {space}\n{seen}")).collect();
    assert!(named.is_ok(), "{named:?}\n{}", left.join("\n"));
    cordoned_node_and_budget(&cluster)
}

fn status_and_bad_input(cluster: &Cluster) -> anyhow::Result<()> {
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let nowhere = cluster.server.folder().join("nowhere").display().to_string();
    let status = cluster.server.timonel(&["status", "--kubeconfig", &kubeconfig, "--data-dir", &nowhere]);
    assert!(status.code == 0 && status.stdout.contains("1 of 1 ready"), "{}{}", status.stdout, status.stderr);
    assert!(!status.stdout.contains('\x1b'), "{}", status.stdout);
    let json = cluster.server.timonel(&["status", "--kubeconfig", &kubeconfig, "--data-dir", &nowhere, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    assert_eq!(json["healthy"], true, "{json}");
    for (arguments, words) in [
        (&["depoyment/web"][..], "did you mean `deployment`?"),
        (&["statefulset/wbe"], "did you mean `web`?"),
        (&["-n", "defalt"], "did you mean `default`?"),
        (&["W-EXIT-OON"], "did you mean `W-EXIT-OOM`?"),
    ] {
        let answer = why(cluster, arguments);
        assert!(answer.code == 2 && answer.stderr.contains(words), "{arguments:?}: {}{}", answer.stdout, answer.stderr);
    }
    let kubectl = cluster.server.timonel(&["kubectl", "why", "--kubeconfig", &kubeconfig, "statefulset/web"]);
    assert!(kubectl.code == 0 && kubectl.stdout.contains("nothing is wrong"), "{}{}", kubectl.stdout, kubectl.stderr);
    let page = why(cluster, &["W-EXIT-OOM"]);
    assert!(page.code == 0 && page.stdout.starts_with("# W-EXIT-OOM\n"), "{}", page.stdout);
    Ok(())
}

/// Who may see little is told what he may not see, and nothing is guessed of it.
fn as_a_viewer(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ok(&["create", "serviceaccount", "viewer"])?;
    cluster.ok(&["create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount=default:viewer"])?;
    let as_viewer = |account: &str, arguments: &[&str]| -> anyhow::Result<testkit::Output> {
        let token = cluster.ok(&["create", "token", account])?;
        let own = std::fs::read_to_string(cluster.server.folder().join("kubeconfig"))?;
        let mut kubeconfig = String::new();
        for line in own.lines().filter(|line| !line.contains("client-key-data")) {
            match line.split_once("client-certificate-data:") {
                Some((indent, _)) => writeln!(kubeconfig, "{indent}token: {}", token.trim())?,
                None => writeln!(kubeconfig, "{line}")?,
            }
        }
        let file = cluster.server.folder().join("viewer");
        std::fs::write(&file, kubeconfig)?;
        let file = file.display().to_string();
        let nowhere = cluster.server.folder().join("nowhere").display().to_string();
        Ok(cluster.server.timonel(&[&["why", "--kubeconfig", &file, "--data-dir", &nowhere], arguments].concat()))
    };
    let answer = as_viewer("viewer", &["statefulset/web"])?;
    assert!(answer.code == 0 && answer.stdout.contains("2 made, 2 ready"), "{}{}", answer.stdout, answer.stderr);
    assert!(answer.stdout.contains("you may not list ") && answer.stdout.contains("secrets"), "{}", answer.stdout);
    let narrowed = as_viewer("viewer", &[])?;
    assert!(
        narrowed.code == 0 && narrowed.stderr.contains("this is about namespace default"),
        "{}{}",
        narrowed.stdout,
        narrowed.stderr
    );
    let blind = as_viewer("default", &[])?;
    assert!(
        blind.code == 2 && blind.stderr.contains("you may not list pods in namespace default"),
        "{}{}",
        blind.stdout,
        blind.stderr
    );
    Ok(())
}

/// The node's own state is enough to see its pods, read their logs and enter them.
fn without_the_api(cluster: &Cluster) -> anyhow::Result<()> {
    let data = cluster.server.folder().join("data").display().to_string();
    cluster.apply(&pod(&script("echo hello from the pod; sleep 36000"), "").replace("name: a,", "name: hands,"))?;
    cluster.wait_pod("hands")?;
    let pods = cluster.server.timonel(&["pods", "--data-dir", &data]);
    assert!(
        pods.code == 0 && pods.stdout.contains("hands") && pods.stdout.contains("running since"),
        "{}{}",
        pods.stdout,
        pods.stderr
    );
    let logs = cluster.server.timonel(&["logs", "default/hands", "--data-dir", &data]);
    assert_eq!(logs.stdout, "hello from the pod\n", "{}", logs.stderr);
    let run = cluster.server.run_dir();
    let exec = |command: &str| {
        cluster.server.timonel(&["exec", "hands", "--data-dir", &data, "--run-dir", &run, "--", "sh", "-c", command])
    };
    let inside = exec("hostname; exit 5");
    assert!(inside.stdout == "hands\n" && inside.code == 5, "{}{}", inside.stdout, inside.stderr);
    let images = cluster.server.timonel(&["images", "--data-dir", &data]);
    assert!(images.stdout.contains("busybox:1.28"), "{}", images.stdout);
    let missing = cluster.server.timonel(&["logs", "nosuch", "--data-dir", &data]);
    assert!(missing.code != 0 && missing.stderr.contains("timonel pods"), "{}", missing.stderr);
    cluster.ok(&["delete", "pod", "hands", "--now"])?;
    Ok(())
}

/// A budget that keeps a node from being drained, and pods that find it cordoned.
fn cordoned_node_and_budget(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: budget}\n---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: b, namespace: budget}\nspec: {minAvailable: 1, selector: {matchLabels: {app: a}}}\n",
    )?;
    let output = cluster.kubectl_with(&["-n", "budget", "apply", "-f", "-"], &pod(SLEEP, ""));
    anyhow::ensure!(output.code == 0, "{}", output.stderr);
    cluster.ok(&["-n", "budget", "wait", "pod/a", "--for=condition=Ready", "--timeout=60s"])?;
    cluster.ok(&["cordon", "server-1"])?;
    let first = |space: &str| why(cluster, &["-n", space]).stdout.lines().next().unwrap_or("").to_string();
    cluster.eventually("the budget is named", || {
        let line = first("budget");
        anyhow::ensure!(line.contains("[W-BUDGET-DRAIN]"), "{line}");
        Ok(true)
    })?;
    cluster.ok(&["create", "namespace", "late"])?;
    let output = cluster.kubectl_with(&["-n", "late", "apply", "-f", "-"], &pod(SLEEP, ""));
    anyhow::ensure!(output.code == 0, "{}", output.stderr);
    cluster.eventually("the cordoned node is named", || {
        let line = first("late");
        anyhow::ensure!(line.contains("[W-SCHED-CORDONED]"), "{line}");
        Ok(true)
    })
}
