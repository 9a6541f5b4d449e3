//! What is typed and what is followed: logs, exec, attach and port-forward, with and without a terminal.

use testkit::Cluster;

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: 'nginx:1.27', ports: [{name: http, containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - {name: c, image: 'busybox:1.28', command: [sh, -c, 'echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second']}
";

#[test]
fn logs_are_followed_to_the_end() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_pod("talker")?;
    let mut logs = cluster.kubectl_beside(&["logs", "-f", "talker"])?;
    cluster.eventually("the first line is followed", || Ok(logs.lines() == ["first"]))?;
    assert_eq!(logs.code(), None, "it must go on while the container runs");
    cluster.ok(&["exec", "talker", "--", "touch", "/go"])?;
    cluster.eventually("the second line is followed", || Ok(logs.lines() == ["first", "second"]))?;
    cluster.eventually("following ends with the container", || Ok(logs.code() == Some(0)))?;
    assert_eq!(cluster.ok(&["logs", "--tail=1", "talker"])?, "second\n");
    Ok(())
}

/// Both carriers of streams: WebSocket, and the SPDY of clients before 1.31.
#[test]
fn terminals_and_ports_over_both_carriers() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    cluster.apply(WEB)?;
    cluster.wait_pod("web")?;
    for (round, on) in ["true", "false"].into_iter().enumerate() {
        let environment =
            [format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={on}"), format!("KUBECTL_PORT_FORWARD_WEBSOCKETS={on}")];
        let line = |arguments: &[&str]| -> Vec<String> {
            ["env".to_string()].into_iter().chain(environment.clone()).chain(cluster.kubectl_line(arguments)).collect()
        };
        let run = |arguments: &[&str], input: &str| cluster.server.run(&line(arguments), input);
        let on_terminal = |arguments: &[&str], input: &str| {
            let quoted = line(arguments).iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
            cluster.server.run(&["script", "-qec", &quoted, "/dev/null"].map(String::from), input)
        };

        let exec = run(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], "");
        assert_eq!((exec.code, exec.stdout.as_str()), (3, "out\n"), "websockets {on}: {exec:?}");
        assert!(exec.stderr.starts_with("err\n"), "websockets {on}: {exec:?}");
        let piped = run(&["exec", "-i", "web", "--", "wc", "-c"], &"x".repeat(300_000));
        assert_eq!(piped.stdout.trim(), "300000", "websockets {on}: {piped:?}");

        let terminal =
            on_terminal(&["exec", "-it", "web", "--", "sh", "-c", "tty; stty size; read a; echo got $a"], "word\n");
        assert!(terminal.stdout.contains("/dev/pts/"), "websockets {on}: {terminal:?}");
        assert!(terminal.stdout.contains("got word"), "websockets {on}: {terminal:?}");

        let name = format!("shell-{round}");
        let arguments = ["run", "-it", "--rm", "--restart=Never", "--image=busybox:1.28", &name, "--", "sh", "-c"];
        let asks = "echo ready; read a; echo got $a";
        let attached = on_terminal(&[&arguments[..], &[asks]].concat(), "word\n");
        assert!(attached.stdout.contains("got word"), "websockets {on}: {attached:?}");
        let deleted = format!("pod \"{name}\" deleted");
        assert!(attached.stdout.contains(&deleted), "websockets {on}: {attached:?}");

        let port = format!("{}", 9000 + round);
        let forward = cluster.server.beside(&line(&["port-forward", "svc/web", &format!("{port}:8080")]))?;
        cluster.eventually("the port is forwarded", || Ok(forward.lines().iter().any(|l| l.contains(&port))))?;
        let fetch = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3");
        for _ in 0..3 {
            let got = cluster.server.run(&["bash", "-c", &fetch].map(String::from), "");
            assert!(got.stdout.contains("200 OK"), "websockets {on}: {got:?}");
        }
    }
    Ok(())
}

#[test]
fn describe_and_events_tell_the_story_of_a_pod() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    cluster.apply(WEB)?;
    cluster.wait_pod("web")?;
    cluster.eventually("all its events are there", || {
        let text = cluster.ok(&["describe", "pod", "web"])?;
        Ok(["Scheduled", "Pulled", "Created", "Started", "Node:", "QoS Class:"].iter().all(|w| text.contains(w)))
    })?;
    let events = cluster.ok(&["events", "--for", "pod/web"])?;
    assert!(events.contains("Started") && events.contains("Pod/web"), "{events}");
    let wide = cluster.ok(&["get", "events", "--sort-by=.lastTimestamp"])?;
    assert!(wide.contains("LAST SEEN") && wide.contains("pod/web"), "{wide}");
    for kind in ["node", "service", "namespace", "serviceaccount", "endpointslice"] {
        cluster.ok(&["describe", kind])?;
    }
    Ok(())
}
