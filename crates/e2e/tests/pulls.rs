//! Images from registries: mirrors, credentials, and what is said when there is no such image.

use testkit::{Cluster, Registry, registry};

const REGISTRIES: &str = "
mirrors:
  docker.io: {endpoint: ['http://127.0.0.1:5000']}
configs:
  '127.0.0.1:5000': {auth: {username: user, password: secret}}
";

fn pod(name: &str, image: &str, secret: &str) -> String {
    let secrets = if secret.is_empty() { String::new() } else { format!("imagePullSecrets: [{{name: {secret}}}], ") };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{secrets}terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: '{image}', command: [sleep, '3600']}}]}}\n"
    )
}

#[test]
fn images_come_from_mirrors_and_registries_with_credentials() -> anyhow::Result<()> {
    let cluster =
        Cluster::start_prepared(&[], |node| Ok(std::fs::write(node.folder().join("registries.yaml"), REGISTRIES)?))?;
    let mirror = Registry::start(&cluster.server, 5000)?;
    mirror.put_busybox("library/mirrored", "1")?;
    let private = Registry::start(&cluster.server, 5001)?;
    private.put_busybox("team/private", "2")?;
    private.put_busybox("team/other", "1")?;
    let (user, password) = registry::LOGIN;
    let config = serde_json::json!({"auths": {"127.0.0.1:5001": {"username": user, "password": password}}}).to_string();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: login}}\ntype: kubernetes.io/dockerconfigjson\nstringData: {{.dockerconfigjson: '{config}'}}\n"
    ))?;
    cluster.apply(
        &[
            pod("mirrored", "mirrored:1", ""),
            pod("private", "127.0.0.1:5001/team/private:2", "login"),
            pod("refused", "127.0.0.1:5001/team/other:1", ""),
            pod("unknown", "127.0.0.1:5001/team/private:3", "login"),
        ]
        .concat(),
    )?;
    cluster.wait_pod("mirrored")?;
    cluster.wait_pod("private")?;
    let id = cluster.get("pod", "private")?["status"]["containerStatuses"][0]["imageID"].to_string();
    assert!(id.contains("team/private@sha256:"), "{id}");
    for (name, word) in [("refused", "unauthorized"), ("unknown", "manifest unknown")] {
        cluster.eventually(&format!("the registry's words are told of {name}"), || {
            let waiting = cluster.get("pod", name)?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            let message = waiting["message"].as_str().unwrap_or("").to_string();
            anyhow::ensure!(waiting["reason"] == "ImagePullBackOff", "{waiting}");
            anyhow::ensure!(message.to_lowercase().contains(&word.to_lowercase()), "{message}");
            Ok(true)
        })?;
    }
    Ok(())
}
