//! The first minute of somebody whose machine has no network: the README's commands, with the image that is built in.

use testkit::Cluster;

const WEB: &str = include_str!("../../../examples/web.yaml");

/// A namespace whose pods must be restricted, and a pod that wants its image asked for anew each time.
const RESTRICTED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: restricted, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Pod
metadata: {name: always, namespace: restricted}
spec:
  terminationGracePeriodSeconds: 30
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: timonel.local/hello:1
    imagePullPolicy: Always
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
";

#[test]
fn first_minute_works_without_a_network() -> anyhow::Result<()> {
    let cluster = Cluster::start_prepared(&[], |node| {
        // No other machine can be reached: neither a router nor a name server.
        for family in ["-4", "-6"] {
            let words = ["ip", family, "route", "flush", "default"].map(String::from);
            let flushed = node.run(&words, "");
            anyhow::ensure!(flushed.code == 0, "{flushed:?}");
        }
        node.file_flag("--resolv-conf", "resolv.conf", "nameserver 192.0.2.77\n")
    })?;
    cluster.apply(WEB)?;
    cluster.apply(RESTRICTED)?;
    cluster.wait_pod("web-0")?;
    cluster.wait_pod("web-1")?;

    // Both answer by the Service, from inside and by the node's port.
    let exec = |pod: &str, words: &[&str]| cluster.ok(&[&["exec", pod, "--"][..], words].concat());
    for url in ["http://web/", "http://localhost:30080/"] {
        let mut seen = std::collections::BTreeSet::new();
        cluster.eventually(&format!("both replicas answer at {url}"), || {
            let curl = ["curl", "-s", "-m", "5", url].map(String::from);
            let answer =
                if url == "http://web/" { exec("web-0", &["get", url])? } else { cluster.server.run(&curl, "").stdout };
            let pod = answer.lines().next().and_then(|line| line.strip_prefix("Hello from ")).unwrap_or_default();
            anyhow::ensure!(pod.starts_with("web-") && answer.contains("node: server-1"), "{answer}");
            seen.insert(pod.to_string());
            Ok(seen.len() == 2)
        })?;
    }
    let peers = exec("web-0", &["get", "http://web/peers"])?;
    for pod in ["web-0", "web-1"] {
        assert!(peers.contains(&format!("{pod}.hello.default.svc.cluster.local")), "{peers}");
    }

    // A look around.
    assert!(exec("web-0", &["id"])?.starts_with("uid=65532 "));
    let script =
        "cd /data; echo a 'b  c' > words && wc -w < words | cat; test -f words || echo none; ls; rm words; exit 3";
    let looked = cluster.kubectl(&["exec", "web-0", "--", "sh", "-c", script]);
    assert_eq!(looked.stdout, "3\nvisits\nwords\n", "{looked:?}");
    assert!(looked.code != 0, "{looked:?}");
    assert!(exec("web-0", &["ps"])?.contains("/bin/hello"));

    // Visits outlive the pod, which ends when it is asked to.
    let visits = || -> anyhow::Result<u64> {
        let page = exec("web-0", &["get", "localhost:8080"])?;
        let line = page.lines().find_map(|line| line.strip_prefix("visits: ")?.split(' ').next()).unwrap_or_default();
        Ok(line.parse()?)
    };
    let before = visits()?;
    let uid = cluster.get("pod", "web-0")?["metadata"]["uid"].clone();
    cluster.ok(&["delete", "pod", "web-0"])?;
    cluster.eventually("the pod is new", || Ok(cluster.get("pod", "web-0")?["metadata"]["uid"] != uid))?;
    cluster.wait_pod("web-0")?;
    assert_eq!(visits()?, before + 1);

    // The policy Always needs no registry either; and a process that is asked to end does, long before it would be killed.
    let phase = || cluster.ok(&["-n", "restricted", "get", "pod", "always", "-o", "jsonpath={.status.phase}"]);
    cluster.eventually("the restricted pod runs", || Ok(phase()? == "Running"))?;
    let begin = std::time::Instant::now();
    cluster.ok(&["-n", "restricted", "delete", "pod", "always"])?;
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "it was killed after its grace period");
    let data = cluster.server.folder().join("data").display().to_string();
    let listed = cluster.server.timonel(&["image", "ls", "--data-dir", &data]).stdout;
    assert!(listed.contains("timonel.local/hello:1"), "{listed}");
    Ok(())
}
