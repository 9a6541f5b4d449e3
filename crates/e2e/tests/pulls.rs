//! Images from registries: mirrors, credentials, and what is said when there is no such image.

use testkit::{Cluster, Registry, registry};

const REGISTRIES: &str = "
mirrors:
  docker.io: {endpoint: ['http://127.0.0.1:5000']}
configs:
  '127.0.0.1:5000': {auth: {username: user, password: secret}}
";

/// A cluster that pulls as `registries.yaml` says.
fn cluster(registries: &str) -> anyhow::Result<Cluster> {
    Cluster::start_prepared(&[], |node| Ok(std::fs::write(node.folder().join("registries.yaml"), registries)?))
}

fn pod(name: &str, image: &str, secret: &str) -> String {
    let secrets = if secret.is_empty() { String::new() } else { format!("imagePullSecrets: [{{name: {secret}}}], ") };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{secrets}terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: '{image}', command: [sleep, '3600']}}]}}\n"
    )
}

#[test]
fn images_come_from_mirrors_and_registries_with_credentials() -> anyhow::Result<()> {
    let cluster = cluster(REGISTRIES)?;
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
    // A registry that has had enough of us.
    let limit = cluster.server.inside(|| std::net::TcpListener::bind("127.0.0.1:5003"))??;
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        for mut stream in limit.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    cluster.apply(
        &[
            pod("limited", "127.0.0.1:5003/any:1", ""),
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
    // What a secret brought is for pods that have it, or for those that the registry gives it to (KEP-2535).
    let same = "127.0.0.1:5001/team/private:2";
    cluster.apply(&[pod("stranger", same, ""), pod("friend", same, "login")].concat())?;
    cluster.wait_pod("friend")?;
    let about = "involvedObject.name=friend,reason=Pulled";
    let told = || Ok(cluster.ok(&["get", "events", "--field-selector", about])?.contains("can be accessed by the pod"));
    cluster.eventually("the friend's image wasn't pulled again", told)?;
    let told = [
        ("refused", "unauthorized"),
        ("stranger", "unauthorized"),
        ("unknown", "manifest unknown"),
        ("limited", "pull rate limit.] (the registry's rate limit: who gives credentials"),
    ];
    for (name, word) in told {
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

/// Between the node and a registry: each connection goes on as long as `pass` says so, who is told how many bytes it had with the next.
fn between(
    cluster: &Cluster,
    port: u16,
    to: u16,
    pass: impl Fn(usize) -> bool + Clone + Send + 'static,
) -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    let listener = cluster.server.inside(move || TcpListener::bind(("127.0.0.1", port)))??;
    let network = cluster.server.network();
    std::thread::spawn(move || {
        // Ends with the namespace: then nobody comes any more.
        let Ok(namespace) = std::fs::File::open(network) else { return };
        if nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
            let (Ok(mut asks), Ok(mut asked)) = (client.try_clone(), server.try_clone()) else { return };
            std::thread::spawn(move || std::io::copy(&mut asks, &mut asked));
            let pass = pass.clone();
            std::thread::spawn(move || {
                let (mut client, mut server) = (client, server);
                let (mut buffer, mut passed) = (vec![0; 1 << 16], 0);
                while let Ok(n) = server.read(&mut buffer)
                    && n > 0
                    && pass(passed + n)
                    && client.write_all(&buffer[..n]).is_ok()
                {
                    passed += n;
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    Ok(())
}

#[test]
fn an_interrupted_pull_goes_on_where_it_was() -> anyhow::Result<()> {
    const SIZE: usize = 4_000_000;
    let broken = "mirrors:\n  far.test: {endpoint: ['http://127.0.0.1:5002']}\n  docker.io: {endpoint: ['http://127.0.0.1:5000']}\nconfigs:\n  '127.0.0.1:5000': {auth: {username: user, password: secret}}\n  '127.0.0.1:5002': {auth: {username: user, password: secret}}\n";
    let cluster = cluster(broken)?;
    let registry = Registry::start(&cluster.server, 5000)?;
    registry.put_large("library/large", "1", 5, SIZE)?;
    registry.put_large("far", "1", 2, SIZE)?;

    // Ten pods want one image at the same time: each layer is fetched once.
    let pods: String = (0..10).map(|i| pod(&format!("same-{i}"), "large:1", "")).collect();
    cluster.apply(&pods)?;
    for i in 0..10 {
        cluster.wait_pod(&format!("same-{i}"))?;
    }
    let fetched = |repository: &str| {
        let path = format!("/v2/{repository}/blobs/sha256:");
        let log = registry.log();
        // Access lines, as httpd writes them: "GET PATH HTTP/1.1" CODE BYTES
        let lines = log.iter().filter_map(|l| l.split_once("\"GET ").filter(|(_, rest)| rest.starts_with(&path)));
        lines.filter_map(|(_, rest)| rest.split(' ').nth(3)?.parse::<usize>().ok()).collect::<Vec<_>>()
    };
    let large = fetched("library/large").into_iter().filter(|bytes| *bytes >= SIZE).count();
    assert_eq!(large, 5, "{:?}", registry.log());
    let there = cluster.ok(&["exec", "same-3", "--", "sh", "-c", "ls -l /large-* | wc -l"])?;
    assert_eq!(there.trim(), "5");

    // Connections that break off after 1.5 MB: the rest is fetched, not all of it.
    between(&cluster, 5002, 5000, |bytes| bytes <= 1_500_000)?;
    cluster.apply(&pod("far", "far.test/far:1", ""))?;
    cluster.wait_pod("far")?;
    assert_eq!(cluster.ok(&["exec", "far", "--", "sh", "-c", "cat /large-1 /large-2 | wc -c"])?.trim(), "8000000");
    let left = std::fs::read_dir(cluster.server.folder().join("data/agent/image-store/fetched"))?.count();
    assert_eq!(left, 0, "something is left of what was fetched");
    Ok(())
}

#[test]
fn a_long_pull_reports_its_progress() -> anyhow::Result<()> {
    const SIZE: usize = 4_000_000;
    let mirrors = "mirrors:\n  slow.test: {endpoint: ['http://127.0.0.1:5002']}\nconfigs:\n  '127.0.0.1:5002': {auth: {username: user, password: secret}}\n";
    let cluster = cluster(mirrors)?;
    let registry = Registry::start(&cluster.server, 5000)?;
    registry.put_large("slow", "1", 1, SIZE)?;
    // Half of the layer comes, and the rest when somebody was told so.
    let (open, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Arc::new(std::sync::Mutex::new(told));
    between(&cluster, 5002, 5000, move |bytes| {
        // Closed is as good as told.
        bytes < SIZE / 2 || told.lock().is_ok_and(|told| told.recv().is_err())
    })?;
    cluster.apply(&pod("slow", "slow.test/slow:1", ""))?;
    cluster.eventually("an event says how much is here", || {
        let events = cluster.ok(&["events", "--for=pod/slow"])?;
        let line = events.lines().find(|line| line.contains("MB")).unwrap_or_default();
        let (here, all) = line.rsplit_once("\": ").and_then(|(_, far)| far.split_once(" of ")).unwrap_or_default();
        let (here, all): (f64, f64) = (here.parse()?, all.trim_end_matches(" MB").parse()?);
        anyhow::ensure!(here >= 1.0 && here < all && all > 4.0, "{line}");
        Ok(true)
    })?;
    drop(open);
    cluster.wait_pod("slow")
}

#[test]
fn an_imported_image_is_there_when_the_command_returns() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    // Its registry is nowhere, and the pod asks less and less often.
    cluster.apply(&pod("late", "pause:test", ""))?;
    cluster.eventually("the pod waits for its image", || {
        let waiting = cluster.get("pod", "late")?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        Ok(waiting["reason"] == "ImagePullBackOff")
    })?;
    let archive = cluster.server.folder().join("pause.tar");
    testkit::images::pause(&archive)?;
    let (archive, data) = (archive.display().to_string(), cluster.server.folder().join("data").display().to_string());
    let imported = cluster.server.timonel(&["image", "import", &archive, "--data-dir", &data]);
    let said = imported.stderr;
    assert!(said.contains("is imported: docker.io/library/pause:test"), "{said}");
    let listed = cluster.server.timonel(&["image", "ls", "--data-dir", &data]).stdout;
    assert!(listed.contains("docker.io/library/pause:test"), "{listed}");
    cluster.wait_pod("late")?;
    // What is no image is said to be none.
    let broken = cluster.server.folder().join("broken.tar");
    std::fs::write(&broken, "no archive at all")?;
    let refused = cluster.server.timonel(&["image", "import", &broken.display().to_string(), "--data-dir", &data]);
    assert!(refused.code != 0 && refused.stderr.contains("no image archive"), "{}", refused.stderr);
    Ok(())
}
