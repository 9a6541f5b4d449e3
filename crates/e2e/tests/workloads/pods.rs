//! Single pods: what they get, why they fail, and what runs in them.

use testkit::Cluster;

const FEATURES: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, file.txt: 'from a map'}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: features, labels: {tier: test}}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Always
  initContainers:
  - {name: first, image: 'busybox:1.28', command: [sh, -c, 'echo one > /work/order'], volumeMounts: [{name: work, mountPath: /work}]}
  - {name: second, image: 'busybox:1.28', command: [sh, -c, 'echo two >> /work/order'], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - name: main
    image: busybox:1.28
    command: [sh, -c, 'echo started; trap exit TERM; while true; do sleep 0.2; done']
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MIX, value: '$(COLOR)-$(POD)'}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {exec: {command: [cat, /work/order]}, periodSeconds: 1}
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: work, mountPath: /part, subPath: inner}
    - {name: map, mountPath: /map}
    - {name: down, mountPath: /down}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: map, configMap: {name: settings}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
";

#[test]
fn pod_gets_what_its_spec_says() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(FEATURES)?;
    cluster.wait_pod("features")?;
    let sh = |script: &str| cluster.ok(&["exec", "features", "--", "sh", "-c", script]);
    assert_eq!(sh("cat /work/order")?, "one\ntwo\n");
    assert_eq!(sh("echo $COLOR $PASSWORD $MIX")?, "blue s3cret blue-features\n");
    assert_eq!(sh("cat /map/file.txt")?, "from a map");
    assert_eq!(sh("cat /down/labels")?, "tier=\"test\"");
    sh("echo x > /part/file")?;
    assert_eq!(sh("cat /work/inner/file")?, "x\n");
    assert_eq!(sh("test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token")?, "token\n");
    assert_eq!(cluster.ok(&["logs", "features"])?, "started\n");
    // What changes is renewed; a folder's rights stay what its users made them.
    sh("chmod 0750 /work")?;
    cluster.ok(&["label", "pod", "features", "more=here"])?;
    cluster.eventually("the new label is seen", || Ok(sh("cat /down/labels")?.contains("more=\"here\"")))?;
    assert_eq!(sh("stat -c %a /work")?, "750\n");
    // Exit codes come through.
    assert_eq!(cluster.kubectl(&["exec", "features", "--", "sh", "-c", "exit 7"]).code, 7);
    let status = cluster.get("pod", "features")?["status"].clone();
    assert_eq!(status["qosClass"], "Burstable");
    assert_eq!(status["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 0);
    Ok(())
}

const BROKEN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers: [{name: c, image: 'busybox:1.28', command: [sh, -c, 'echo oh no; exit 3']}]
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'busybox:1.28', command: [sh, -c, 'echo done']}]
---
apiVersion: v1
kind: Pod
metadata: {name: missing}
spec:
  containers: [{name: c, image: 'busybox:1.28', command: [/no/such/program]}]
---
apiVersion: v1
kind: Pod
metadata: {name: unknown}
spec:
  containers: [{name: c, image: 'localhost:1/none:1'}]
";

#[test]
fn failing_pods_say_why() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(BROKEN)?;
    let status = |pod: &str| -> anyhow::Result<serde_json::Value> {
        Ok(cluster.get("pod", pod)?["status"]["containerStatuses"][0].clone())
    };
    cluster.eventually("the crashing pod backs off", || {
        let s = status("crashing")?;
        Ok(s["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && s["lastState"]["terminated"]["exitCode"] == 3
            && s["restartCount"].as_i64() > Some(1))
    })?;
    cluster
        .eventually("the single run is over", || Ok(cluster.get("pod", "once")?["status"]["phase"] == "Succeeded"))?;
    assert_eq!(cluster.ok(&["logs", "once"])?, "done\n");
    cluster.eventually("the missing program is named", || {
        let text = status("missing")?.to_string();
        Ok(text.contains("/no/such/program") && text.contains("no such file"))
    })?;
    cluster.eventually("the unknown image is named", || {
        let waiting = status("unknown")?["state"]["waiting"].clone();
        Ok(waiting["reason"] == "ImagePullBackOff"
            && waiting["message"].as_str().is_some_and(|m| m.contains("localhost:1")))
    })?;
    let refused = cluster.kubectl(&["exec", "unknown", "--", "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("container not found (\"c\")"), "{refused:?}");
    Ok(())
}

const LOOKED_AT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: looked-at}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, '4242']
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
";

#[test]
fn running_pods_get_ephemeral_containers_and_other_resources() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::start_current(&[])? else { return Ok(()) };
    cluster.apply(LOOKED_AT)?;
    cluster.wait_pod("looked-at")?;
    // A container beside it that sees its processes.
    let eye = "{\"spec\":{\"ephemeralContainers\":[{\"name\":\"eye\",\"image\":\"busybox:1.28\",\"targetContainerName\":\"c\",\
               \"command\":[\"sh\",\"-c\",\"ps; sleep 3600\"]}]}}";
    let patch = |sub: &str, patch: &str| {
        cluster.kubectl(&["patch", "pod", "looked-at", &format!("--subresource={sub}"), "-p", patch])
    };
    let added = patch("ephemeralcontainers", eye);
    assert_eq!(added.code, 0, "{added:?}");
    cluster.eventually("it sees the processes of the container it looks at", || {
        Ok(cluster.kubectl(&["logs", "looked-at", "-c", "eye"]).stdout.contains("sleep 4242"))
    })?;
    let pod = cluster.get("pod", "looked-at")?;
    assert!(pod["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object(), "{}", pod["status"]);
    assert_eq!(cluster.ok(&["exec", "looked-at", "-c", "eye", "--", "echo", "seen"])?, "seen\n");
    let refused =
        patch("ephemeralcontainers", "{\"spec\":{\"ephemeralContainers\":[{\"name\":\"eye\",\"image\":\"other\"}]}}");
    assert!(refused.code != 0 && refused.stderr.contains("may not be changed"), "{refused:?}");

    // More memory and processor, without a restart.
    let resources = |memory: &str| {
        format!(
            "{{\"spec\":{{\"containers\":[{{\"name\":\"c\",\"resources\":{{\"limits\":{{\"memory\":\"{memory}\",\"cpu\":\"200m\"}}}}}}]}}}}"
        )
    };
    let resized = patch("resize", &resources("64Mi"));
    assert_eq!(resized.code, 0, "{resized:?}");
    cluster.eventually("the status shows what the container has", || {
        let pod = cluster.get("pod", "looked-at")?;
        let c = &pod["status"]["containerStatuses"][0];
        anyhow::ensure!(c["resources"]["limits"]["memory"] == "64Mi", "{c}");
        Ok(c["restartCount"] == 0)
    })?;
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
    let uid = cluster.get("pod", "looked-at")?["metadata"]["uid"].as_str().unwrap_or("").to_string();
    let found = cluster.server.run(
        &["sh", "-c", &format!("cat $(find /sys/fs/cgroup -path '*pod{uid}/*' -name memory.limit_in_bytes -o -path '*pod{uid}/*' -name memory.max); {limit}")]
            .map(String::from),
        "",
    );
    assert!(found.stdout.contains(&(64u64 << 20).to_string()), "{found:?}");
    let refused = patch(
        "resize",
        "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"memory\":\"64Mi\",\"cpu\":\"200m\"}}}]}}",
    );
    assert!(refused.code != 0 && refused.stderr.contains("QOS"), "{refused:?}");

    // Another image restarts the container, and nothing else of the pod; the status says who runs.
    cluster.ok(&["set", "image", "pod/looked-at", "c=docker.io/library/busybox:1.28"])?;
    cluster.eventually("the container runs with its new image", || {
        let pod = cluster.get("pod", "looked-at")?;
        let c = &pod["status"]["containerStatuses"][0];
        anyhow::ensure!(pod["metadata"]["uid"] == uid.as_str() && c["restartCount"] == 1, "{c}");
        anyhow::ensure!(c["user"]["linux"]["uid"] == 0 && c["user"]["linux"]["supplementalGroups"][0] == 0, "{c}");
        Ok(c["state"]["running"].is_object() && c["image"] == "docker.io/library/busybox:1.28")
    })?;
    Ok(())
}

const SHARED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - {name: a, image: 'busybox:1.28', command: [sleep, '1111']}
  - {name: b, image: 'busybox:1.28', command: [sleep, '2222']}
";

#[test]
fn containers_share_their_processes_where_the_pod_says_so() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.apply(SHARED)?;
    cluster.wait_pod("shared")?;
    let processes = |container: &str| cluster.ok(&["exec", "shared", "-c", container, "--", "ps", "-o", "pid,args"]);
    let seen = processes("a")?;
    assert!(seen.contains("sleep 1111") && seen.contains("sleep 2222"), "{seen}");
    assert!(
        !seen.lines().any(|l| l.trim().starts_with("1 ") && l.contains("sleep")),
        "the first one is nobody's: {seen}"
    );
    // One that ends is started again in the same namespace, also after a restart of the agent.
    cluster.ok(&[
        "exec",
        "shared",
        "-c",
        "a",
        "--",
        "sh",
        "-c",
        "kill -9 $(pidof sleep | tr ' ' '\\n' | sort -n | tail -1) || true",
    ])?;
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.eventually("both run again and see each other", || {
        let seen = cluster.kubectl(&["exec", "shared", "-c", "b", "--", "ps", "-o", "pid,args"]).stdout;
        Ok(seen.contains("sleep 1111") && seen.contains("sleep 2222"))
    })?;
    cluster.ok(&["delete", "pod", "shared"])?;
    Ok(())
}
