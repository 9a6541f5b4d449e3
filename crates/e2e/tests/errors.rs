//! Bad input is refused with the field, the reason and the remedy.

use testkit::Cluster;
use testkit::cluster::stock_kubectl;

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
        // Clients before 1.27 check by themselves, in words of their own.
        if stock_kubectl().is_some_and(|minor| minor < 27) {
            &["unknown field", "imagePullpolicy"]
        } else {
            &["unknown field", "spec.containers[0].imagePullpolicy"]
        },
    );
    refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Valid}", &["metadata.name", "RFC 1123"]);
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}",
        &["spec.containers", "Required value"],
    );
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}",
        &["nodePort", "30000-32767"],
    );
    let taken = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, ports: [{{port: 80, nodePort: 30123}}]}}"
        )
    };
    cluster.apply(&taken("first"))?;
    refused(&taken("second"), &["spec.ports[0].nodePort", "30123", "provided port is already allocated"]);
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.99.0.1, ports: [{port: 80}]}",
        &["10.99.0.1", "not in the valid range", "10.43.0.0/16"],
    );
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: nowhere}\nspec: {containers: [{name: a, image: x}]}",
        &["namespaces", "nowhere", "not found"],
    );
    Ok(())
}

#[test]
fn a_port_in_use_is_reported() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let data = cluster.server.folder().join("second").display().to_string();
    let second = cluster.server.timonel(&["server", "--data-dir", &data, "--run-dir", &data, "--node-ip", "192.0.2.1"]);
    assert!(
        second.code != 0 && second.stderr.contains("6443") && second.stderr.contains("--https-listen-port"),
        "{second:?}"
    );
    let check = cluster.server.timonel(&["check"]);
    assert!(check.stdout.contains("overlayfs"), "{check:?}");
    Ok(())
}

#[test]
fn check_names_what_the_machine_lacks() -> anyhow::Result<()> {
    let script = "case $1 in --state) echo running;; *) exit 1;; esac";
    let cluster = Cluster::start_prepared(&[], |node| node.programs(&[("firewall-cmd", script)]))?;
    let log = || std::fs::read_to_string(cluster.server.folder().join("log")).unwrap_or_default();
    cluster.eventually("what to allow is said", || {
        Ok(log().contains("firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16\n"))
    })?;
    assert!(log().contains("firewall-cmd --permanent --add-port=6443/tcp\n"), "{}", log());
    // Ranges that the machine's own network is in, or that meet each other.
    let data = cluster.server.folder().join("second").display().to_string();
    let start = |flags: &[&str]| {
        let common = ["server", "--data-dir", &data, "--run-dir", &data, "--https-listen-port", "7443"];
        cluster.server.timonel(&[&common[..], flags].concat())
    };
    let own = start(&["--node-ip", "10.42.3.4"]);
    assert!(own.code != 0 && own.stderr.contains("10.42.3.4 is one of --cluster-cidr 10.42.0.0/16"), "{own:?}");
    let both = start(&["--node-ip", "192.0.2.1", "--service-cidr", "10.42.128.0/17"]);
    assert!(both.code != 0 && both.stderr.contains("overlap"), "{both:?}");
    Ok(())
}

#[test]
fn a_missing_capability_is_named() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let lacking = |words: &[&str]| {
        let mut all = vec!["setpriv".to_string(), "--bounding-set=-sys_admin".into()];
        all.push(cluster.server.binary().display().to_string());
        all.extend(words.iter().map(|w| (*w).to_string()));
        cluster.server.run(&all, "")
    };
    let check = lacking(&["check"]);
    assert!(check.code != 0 && check.stdout.contains("missing  CAP_SYS_ADMIN"), "{check:?}");
    assert!(check.stdout.contains("--privileged"), "{check:?}");
    let data = cluster.server.folder().join("second").display().to_string();
    let server = lacking(&["server", "--data-dir", &data, "--run-dir", &data, "--https-listen-port", "7443"]);
    assert!(server.code != 0 && server.stderr.contains("CAP_SYS_ADMIN"), "{server:?}");
    Ok(())
}

/// A disk of a few megabytes below the server's database, unmounted when it goes.
struct SmallDisk(std::path::PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() -> anyhow::Result<()> {
    let mut disk = None;
    let cluster = Cluster::start_prepared(&[], |node| {
        let path = node.folder().join("data/server/db");
        std::fs::create_dir_all(&path)?;
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(&path).status()?;
        anyhow::ensure!(mount.success(), "mount failed");
        disk = Some(SmallDisk(path));
        Ok(())
    })?;
    let disk = disk.ok_or_else(|| anyhow::anyhow!("there is no disk"))?;
    let map = |name: &str, size: usize| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {}}}\n", "x".repeat(size))
    };
    let create = |name: &str, size: usize| cluster.kubectl_with(&["create", "-f", "-"], &map(name, size));
    assert_eq!(create("before", 10).code, 0);
    // Whatever is left of the disk is taken.
    let filler = disk.0.join("filler");
    let _ = std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&filler)?);
    let mut acknowledged = vec!["before".to_string()];
    let mut refused = None;
    for i in 0..40 {
        let name = format!("big-{i}");
        let output = create(&name, 500_000);
        if output.code == 0 {
            acknowledged.push(name);
        } else {
            refused = Some(output.stderr);
            break;
        }
    }
    let refused = refused.ok_or_else(|| anyhow::anyhow!("40 objects of 500 kB found place on a full disk"))?;
    assert!(refused.contains("no space left"), "{refused}");
    // Reads go on, and nothing that was acknowledged is lost.
    for name in &acknowledged {
        cluster.get("configmap", name)?;
    }
    std::fs::remove_file(&filler)?;
    cluster.eventually("writes go on by themselves", || Ok(create("after", 500_000).code == 0))?;
    acknowledged.push("after".into());
    for name in &acknowledged {
        cluster.get("configmap", name)?;
    }
    Ok(())
}
