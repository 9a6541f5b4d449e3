//! Bad input is refused with the field, the reason and the remedy.

use testkit::Cluster;

#[test]
fn bad_input_is_named() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let refused = |yaml: &str, words: &[&str]| {
        let output = cluster.kubectl_with(&["apply", "-f", "-"], yaml);
        assert!(output.code != 0, "{yaml} was accepted");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is missing in {}", output.stderr);
        }
    };
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: x, imagePullpolicy: Never}]}",
        &["unknown field", "spec.containers[0].imagePullpolicy"],
    );
    refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Valid}", &["metadata.name", "RFC 1123"]);
    refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}", &["spec.containers", "Required value"]);
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}",
        &["nodePort", "30000-32767"],
    );
    refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: nowhere}\nspec: {containers: [{name: a, image: x}]}", &["namespaces", "nowhere", "not found"]);
    Ok(())
}

#[test]
fn port_in_use_is_said() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let data = cluster.server.folder().join("second").display().to_string();
    let second = cluster.server.timonel(&["server", "--data-dir", &data, "--run-dir", &data, "--node-ip", "192.0.2.1"]);
    assert!(second.code != 0 && second.stderr.contains("6443") && second.stderr.contains("--https-listen-port"), "{second:?}");
    let check = cluster.server.timonel(&["check"]);
    assert!(check.stdout.contains("overlayfs"), "{check:?}");
    Ok(())
}
