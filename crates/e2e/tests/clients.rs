//! Public clients, unchanged: what isn't on this machine is skipped with a line that says so.

use std::path::Path;

use testkit::Cluster;

fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).display().to_string()
}

/// A Python that has the PyPI package `kubernetes`; `test.sh` makes one.
fn python() -> Option<String> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python3");
    let all = [std::env::var("TIMONEL_PYTHON").ok(), Some(made.display().to_string()), Some("python3".into())];
    all.into_iter().flatten().find(|program| {
        let output = std::process::Command::new(program).args(["-c", "import kubernetes, yaml"]).output();
        output.is_ok_and(|o| o.status.success())
    })
}

#[test]
fn the_python_client_works() -> anyhow::Result<()> {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with the package kubernetes");
        return Ok(());
    };
    let cluster = Cluster::start()?;
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let output = cluster.server.run(&[python, file("client.py"), kubeconfig], "");
    assert!(output.code == 0 && output.stdout == "all is well\n", "{}\n{}", output.stdout, output.stderr);
    Ok(())
}

/// A folder of Node packages with `@kubernetes/client-node`; `test.sh` makes one.
fn node_modules() -> Option<String> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/node");
    let all = [std::env::var("TIMONEL_NODE").ok(), Some(made.display().to_string())];
    let has_node = std::process::Command::new("node").arg("--version").output().is_ok_and(|o| o.status.success());
    let has_client = |folder: &String| Path::new(folder).join("node_modules/@kubernetes/client-node").is_dir();
    all.into_iter().flatten().find(|folder| has_node && has_client(folder))
}

#[test]
fn the_javascript_client_works() -> anyhow::Result<()> {
    let Some(folder) = node_modules() else {
        eprintln!("skipped: no Node with @kubernetes/client-node");
        return Ok(());
    };
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let modules = format!("NODE_MODULES={folder}");
    let output = cluster.server.run(&["env".into(), modules, "node".into(), file("client.mjs"), kubeconfig], "");
    assert!(output.code == 0 && output.stdout == "all is well\n", "{}\n{}", output.stdout, output.stderr);
    Ok(())
}

const WATCHED: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: watched}
spec:
  selector: {matchLabels: {app: watched}}
  template:
    metadata: {labels: {app: watched}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sleep, '3600']}]
";

#[test]
fn the_stock_kubectl_asks_waits_and_watches() -> anyhow::Result<()> {
    if testkit::cluster::stock_kubectl().is_none_or(|minor| minor < 24) {
        eprintln!("skipped: no stock kubectl of 1.24 or later");
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let watch = cluster.kubectl_beside(&["get", "deployments", "--watch", "--output-watch-events"])?;
    cluster.apply(WATCHED)?;
    cluster.ok(&["wait", "deployment/watched", "--for=condition=Available", "--timeout=30s"])?;
    cluster.ok(&["wait", "deployment/watched", "--for=jsonpath={.status.readyReplicas}=1", "--timeout=10s"])?;
    let waits = cluster.kubectl_beside(&["wait", "deployment/watched", "--for=delete", "--timeout=30s"])?;
    cluster.ok(&["delete", "deployment", "watched"])?;
    let mut waits = waits;
    cluster.eventually("the wait for the deletion ends", || Ok(waits.code().is_some()))?;
    assert_eq!(waits.code(), Some(0));
    cluster.eventually("the watch has told of all that", || {
        let lines = watch.lines();
        let told = |what: &str| lines.iter().any(|l| l.starts_with(what));
        Ok(told("ADDED") && told("MODIFIED") && told("DELETED"))
    })?;
    let allowed = cluster.ok(&["auth", "can-i", "--list"])?;
    assert!(allowed.contains("*.*") && allowed.contains("[*]"), "{allowed}");
    assert!(cluster.ok(&["auth", "can-i", "--list", "--as=nobody"])?.contains("selfsubjectaccessreviews"));
    assert_eq!(cluster.kubectl(&["auth", "can-i", "delete", "pods", "--as=nobody"]).stdout.trim(), "no");
    let token = cluster.ok(&["create", "token", "default", "--duration=1h"])?;
    let who = cluster.ok(&["--token", token.trim(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    // The certificate of the kubeconfig is shown beside it: the token counts.
    assert_eq!(who, "system:serviceaccount:default:default");
    let kinds = cluster.ok(&["api-resources", "--no-headers", "-o", "name"])?;
    // kubectl takes the part behind `events` for a field, as there are events in the core group, too.
    for kind in kinds.lines().filter(|k| !k.ends_with("metrics.k8s.io") && *k != "events.events.k8s.io") {
        let text = cluster.ok(&["explain", kind, "--recursive"])?;
        assert!(text.contains("DESCRIPTION:") && text.contains("apiVersion"), "{kind}: {text}");
    }
    Ok(())
}
