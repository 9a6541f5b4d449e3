//! Helm 4 with a chart of our own (`clients/chart`): hooks, a definition and an object of it, a StatefulSet with claims, a test.

use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::{Cluster, Output};

struct Helm {
    cluster: Cluster,
    program: PathBuf,
}

impl Helm {
    /// Helm as a user calls it, with folders of its own.
    fn run(&self, arguments: &[&str]) -> Output {
        let folder = self.cluster.server.folder();
        let at = |name: &str, path: &str| format!("{name}={}", folder.join(path).display());
        let mut line = vec![
            "env".to_string(),
            at("KUBECONFIG", "kubeconfig"),
            at("HELM_CACHE_HOME", "helm/cache"),
            at("HELM_CONFIG_HOME", "helm/config"),
            at("HELM_DATA_HOME", "helm/data"),
            self.program.display().to_string(),
        ];
        line.extend(arguments.iter().map(|a| (*a).to_string()));
        self.cluster.server.run(&line, "")
    }

    fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments);
        anyhow::ensure!(output.code == 0, "helm {}: {}{}", arguments.join(" "), output.stdout, output.stderr);
        Ok(output.stdout)
    }

    fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ok(&[arguments, &["-o", "json"]].concat())?)?)
    }

    /// Revision and status of each release of the name, the oldest first.
    fn history(&self) -> anyhow::Result<Vec<(i64, String)>> {
        let all = self.json(&["history", "shop"])?;
        let entry = |e: &Value| (e["revision"].as_i64().unwrap_or(0), e["status"].as_str().unwrap_or("").to_string());
        Ok(all.as_array().into_iter().flatten().map(entry).collect())
    }

    /// What the release wants, as `kubectl diff` sees it: nothing, if all is as it should be.
    fn assert_no_difference(&self) -> anyhow::Result<()> {
        let manifest = self.ok(&["get", "manifest", "shop"])?;
        // As a manager of its own, that takes nothing of Helm's away.
        let diff = self.cluster.kubectl_with(&["diff", "--server-side", "--force-conflicts", "-f", "-"], &manifest);
        anyhow::ensure!(diff.code == 0, "diff: {}{}", diff.stdout, diff.stderr);
        Ok(())
    }
}

/// All objects of the namespace that a user sees, but events and what the cluster makes in each namespace.
fn objects(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let kinds = cluster.ok(&["api-resources", "--namespaced", "--verbs=list,delete", "-o", "name"])?;
    let kinds: Vec<&str> = kinds.lines().filter(|k| !k.starts_with("events")).collect();
    let all = cluster.ok(&["get", &kinds.join(","), "-o", "name", "--ignore-not-found"])?;
    let own = ["configmap/kube-root-ca.crt", "serviceaccount/default", "service/kubernetes", "endpoints/kubernetes"];
    let is_foreign = |name: &&str| !own.contains(name) && *name != "endpointslice.discovery.k8s.io/kubernetes";
    Ok(all.lines().filter(is_foreign).map(String::from).collect())
}

#[test]
fn helm_takes_a_chart_through_its_whole_life() -> anyhow::Result<()> {
    let Some(program) = testkit::clients::helm() else {
        testkit::clients::skip("no Helm 4");
        return Ok(());
    };
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    let helm = Helm { cluster, program };
    let cluster = &helm.cluster;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/chart").display().to_string();
    let waits = ["--wait", "--wait-for-jobs", "--timeout", "50s"];
    let before = objects(cluster)?;

    // Nothing is made by a trial, nor by what the schema of the chart's values refuses.
    let trial = helm.run(&["install", "shop", &chart, "--dry-run=server", "--set", "replicas=-1"]);
    assert!(trial.code != 0 && trial.stderr.contains("replicas"), "{trial:?}");
    assert_eq!(objects(cluster)?, before);
    let installed = helm.ok(&[&["install", "shop", chart.as_str()], &waits[..]].concat())?;
    assert!(installed.contains("STATUS: deployed") && installed.contains("hello from shop, revision 1"), "{installed}");
    let set = || cluster.get("statefulset", "shop");
    assert_eq!(set()?["status"]["readyReplicas"], 2);
    let shelf = cluster.get("shelf", "shop")?;
    assert_eq!((&shelf["spec"]["least"], &shelf["spec"]["goods"][0]["count"]), (&1.into(), &1.into()), "{shelf}");
    assert!(cluster.kubectl(&["get", "job", "shop-migrate"]).code != 0, "hooks that succeeded go");
    helm.assert_no_difference()?;
    let tested = helm.ok(&["test", "shop", "--logs", "--timeout", "50s"])?;
    assert!(tested.contains("Phase:          Succeeded") && tested.contains("hello"), "{tested}");

    // A new greeting, a label less, other amounts in other words.
    let changed =
        ["--set", "greeting=good day", "--set", "labels=null", "--set", "limits.cpu=1", "--set", "replicas=1"];
    helm.ok(&[&["upgrade", "shop", chart.as_str()], &changed[..], &waits[..]].concat())?;
    let after = set()?;
    assert_eq!((&after["spec"]["replicas"], &after["status"]["readyReplicas"]), (&1.into(), &1.into()));
    assert!(after["metadata"]["labels"]["tier"].is_null(), "{}", after["metadata"]);
    assert_eq!(cluster.get("shelf", "shop")?["spec"]["most"], 1);
    helm.assert_no_difference()?;
    assert_eq!(helm.json(&["get", "values", "shop"])?["greeting"], "good day");

    // A hook that fails: the release has failed, and the objects are what they were.
    let failed = helm.run(&[&["upgrade", "shop", chart.as_str(), "--set", "migrate=false"], &waits[..]].concat());
    assert!(failed.code != 0 && failed.stderr.contains("pre-upgrade hooks failed"), "{failed:?}");
    assert_eq!(set()?["spec"]["replicas"], 1);
    // A value that the API refuses, with its words; what went before is undone.
    let bad = ["--set", "labels.tier=no space", "--no-hooks", "--rollback-on-failure"];
    let refused = helm.run(&[&["upgrade", "shop", chart.as_str()], &bad[..], &waits[..]].concat());
    assert!(refused.code != 0 && refused.stderr.contains("metadata.labels: Invalid value"), "{refused:?}");

    helm.ok(&[&["rollback", "shop", "1"], &waits[..]].concat())?;
    let back = set()?;
    assert_eq!((&back["spec"]["replicas"], &back["status"]["readyReplicas"]), (&2.into(), &2.into()));
    assert_eq!(back["metadata"]["labels"]["tier"], "front");
    helm.assert_no_difference()?;
    let history = helm.history()?;
    let statuses: Vec<&str> = history.iter().map(|(_, status)| status.as_str()).collect();
    assert_eq!(statuses.last(), Some(&"deployed"), "{history:?}");
    assert!(statuses.contains(&"failed") && statuses.contains(&"superseded"), "{history:?}");
    let listed = helm.json(&["list"])?;
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&"shop".into(), &"deployed".into()), "{listed}");

    // The way that charts went before: applied by the client, over what the server applied.
    let by_client = ["upgrade", "shop", chart.as_str(), "--server-side=false", "--set", "greeting=hey"];
    helm.ok(&[&by_client[..], &waits[..]].concat())?;
    assert_eq!(cluster.get("configmap", "shop")?["data"]["greeting"], "hey");

    let gone = helm.ok(&["uninstall", "shop", "--wait", "--timeout", "50s"])?;
    assert!(gone.contains("uninstalled"), "{gone}");
    // Claims go with their StatefulSet, as its retention policy says; hooks and definitions are left to the user.
    cluster.eventually("nothing of the release is left", || {
        let mut left = objects(cluster)?;
        left.retain(|name| !before.contains(name));
        anyhow::ensure!(left == ["configmap/shop-migration", "pod/shop-test"], "{left:?}");
        Ok(true)
    })?;
    cluster.ok(&["get", "crd", "shelves.shop.example.com"])?;
    Ok(())
}
