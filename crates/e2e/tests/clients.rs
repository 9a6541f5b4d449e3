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
