//! Pods that another's runtime runs: Debian's containerd, through the Container Runtime Interface.

use testkit::Cluster;

const PODS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: told}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - {name: first, image: 'busybox:1.28', command: [sh, -c, 'cat /words/word > /shared/index.html'],
     volumeMounts: [{name: shared, mountPath: /shared}, {name: words, mountPath: /words}]}
  containers:
  - name: web
    image: 'nginx:1.27'
    ports: [{name: http, containerPort: 80}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /usr/share/nginx/html}]
  - {name: side, image: 'busybox:1.28', command: [sleep, '3600'], env: [{name: GREETING, value: hello}]}
  volumes: [{name: shared, emptyDir: {}}, {name: words, configMap: {name: words}}]
---
apiVersion: v1
kind: Service
metadata: {name: pages}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: OnFailure
  containers:
  - {name: c, image: 'busybox:1.28', stdin: true, stdinOnce: true, command: [sh, -c, 'if [ -e /dev/shm/x ]; then exit 0; fi; echo first; read line; sleep 1; echo got $line; exit 3']}
";

fn containerd() -> anyhow::Result<Cluster> {
    Cluster::start_prepared(&[], |node| node.use_containerd())
}

#[test]
fn containerd_runs_pods_as_our_own_runtime_does() -> anyhow::Result<()> {
    let mut cluster = containerd()?;
    let version =
        cluster.ok(&["get", "node", "server-1", "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"])?;
    assert!(version.starts_with("containerd://"), "{version}");
    cluster.apply(PODS)?;
    cluster.wait_pod("web")?;
    let pod = cluster.get("pod", "web")?;
    let ids = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let ids: Vec<String> = ids.iter().filter_map(|s| s["containerID"].as_str().map(String::from)).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| id.starts_with("containerd://")), "{ids:?}");
    // The network is ours: an address of the node's range, the service, the names.
    let side = |command: &str| cluster.kubectl(&["exec", "web", "-c", "side", "--", "sh", "-c", command]);
    cluster.eventually("the service answers", || {
        let answer = side("wget -qO- http://pages:8080/");
        anyhow::ensure!(answer.stdout == "told", "{answer:?}");
        Ok(true)
    })?;
    assert!(pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.42.")), "{}", pod["status"]);
    let ended = side("echo $GREETING; echo wrong >&2; exit 7");
    assert_eq!((ended.code, ended.stdout.as_str()), (7, "hello\n"), "{ended:?}");
    assert!(ended.stderr.starts_with("wrong\n"), "{ended:?}");
    let piped = cluster.kubectl_with(&["exec", "-i", "web", "-c", "side", "--", "wc", "-c"], &"x".repeat(300_000));
    assert_eq!(piped.stdout.trim(), "300000", "{piped:?}");
    // What was typed is heard, the end is told, and the container starts again. (With containerd, an attach of which input isn't the
    // only one ever ends with its input.)
    cluster.wait_pod("talker")?;
    let typed = cluster.kubectl_with(&["attach", "-i", "talker"], "word\n");
    assert!(typed.stdout.contains("got word"), "{typed:?}");
    cluster.eventually("it was started again", || {
        let pod = cluster.get("pod", "talker")?;
        let status = &pod["status"]["containerStatuses"][0];
        Ok(status["restartCount"] == 1 && status["lastState"]["terminated"]["exitCode"] == 3)
    })?;
    assert!(cluster.ok(&["logs", "talker", "--previous"])?.contains("got word"));

    // A containerd that is away for longer than probes may fail is no reason to end a container.
    let restarts = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    cluster.server.containerd.as_mut().expect("it runs the pods").crash();
    std::thread::sleep(std::time::Duration::from_secs(5));
    cluster.server.containerd.as_mut().expect("it runs the pods").spawn()?;
    let greeting = ["exec", "web", "-c", "side", "--", "sh", "-c", "echo $GREETING"];
    cluster.eventually("it is looked into again", || Ok(cluster.kubectl(&greeting).stdout == "hello\n"))?;
    assert_eq!(restarts(&cluster.get("pod", "web")?), 0);

    // Neither agent nor containerd need to be there for containers to go on, nor at their end.
    cluster.server.crash();
    let containerd = cluster.server.containerd.as_mut().expect("it runs the pods");
    containerd.crash();
    containerd.spawn()?;
    cluster.server.spawn()?;
    cluster.wait_pod("web")?;
    let again = cluster.get("pod", "web")?;
    assert_eq!((restarts(&again), &again["metadata"]["uid"]), (0.into(), &pod["metadata"]["uid"]));
    assert_eq!(
        cluster.kubectl(&["exec", "web", "-c", "side", "--", "wget", "-qO-", "http://pages:8080/"]).stdout,
        "told"
    );

    cluster.ok(&["delete", "pod", "--all"])?;
    let containerd = cluster.server.containerd.as_ref().expect("it runs the pods");
    let left = containerd.ctr(&["containers", "ls", "-q"])?;
    assert_eq!((left.as_str(), containerd.shims().len()), ("", 0));
    Ok(())
}

#[test]
fn logs_of_containerd_are_rotated_and_followed() -> anyhow::Result<()> {
    // For longer than the 10 s after which sizes are looked at again, and mostly writing. At a container's end, containerd
    // forgets what it hasn't read yet, so the pauses are long enough for it.
    crate::stress::follows_all(&containerd()?, 16, 250_000, "0.7")
}
