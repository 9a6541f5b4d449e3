//! A StatefulSet: order, names, DNS, volumes.

use testkit::{Cluster, cluster::stock_kubectl};

const WEB: &str = include_str!("../../../examples/web.yaml");

fn uid(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    Ok(cluster.get("pod", pod)?["metadata"]["uid"].as_str().unwrap_or("").to_string())
}

#[test]
fn stateful_set_keeps_names_dns_and_volumes() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(WEB)?;
    cluster.wait_pod("web-1")?;
    // In order: the second was made after the first was ready.
    let first = cluster.get("pod", "web-0")?;
    let ready = first["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready").cloned();
    let ready = ready.unwrap_or_default()["lastTransitionTime"].as_str().unwrap_or("").to_string();
    let second = cluster.get("pod", "web-1")?["metadata"]["creationTimestamp"].as_str().unwrap_or("").to_string();
    assert!(second >= ready, "web-1 was made at {second}, web-0 was ready at {ready}");

    for pod in ["web-0", "web-1"] {
        assert_eq!(cluster.ok(&["exec", pod, "--", "hostname"])?.trim(), pod);
        cluster.ok(&["exec", pod, "--", "sh", "-c", &format!("echo {pod} > /data/name; sync")])?;
    }
    for name in ["web-0.hello", "web-0.hello.default.svc.cluster.local"] {
        let answer = cluster.ok(&["exec", "web-1", "--", "nslookup", name])?;
        let ip = first["status"]["podIP"].as_str().unwrap_or("none");
        assert!(answer.contains("web-0.hello.default.svc.cluster.local") && answer.contains(ip), "{answer}");
    }
    let reverse = cluster.ok(&["exec", "web-1", "--", "nslookup", first["status"]["podIP"].as_str().unwrap_or("")])?;
    assert!(reverse.contains("web-0.hello.default.svc.cluster.local"), "{reverse}");

    let before = [uid(&cluster, "web-0")?, uid(&cluster, "web-1")?];
    cluster.ok(&["delete", "pod", "-l", "app=web"])?;
    cluster.eventually("both pods are new", || {
        Ok(uid(&cluster, "web-0")? != before[0] && uid(&cluster, "web-1")? != before[1])
    })?;
    for pod in ["web-0", "web-1"] {
        cluster.wait_pod(pod)?;
        assert_eq!(cluster.ok(&["exec", pod, "--", "cat", "/data/name"])?.trim(), pod);
    }

    cluster.ok(&["scale", "statefulset", "web", "--replicas=1"])?;
    cluster.eventually("web-1 is gone", || Ok(cluster.kubectl(&["get", "pod", "web-1", "-o", "json"]).code != 0))?;
    assert_eq!(cluster.get("pvc", "data-web-1")?["status"]["phase"], "Bound");
    let table = cluster.ok(&["get", "pvc", "-o", "wide"])?;
    let head = table.lines().next().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(head, "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE VOLUMEMODE");

    // A claim that is deleted takes its volume and its folder along.
    let volume = cluster.get("pvc", "data-web-1")?["spec"]["volumeName"].as_str().unwrap_or("").to_string();
    let path = cluster.get("pv", &volume)?["spec"]["local"]["path"].as_str().unwrap_or("").to_string();
    assert!(std::path::Path::new(&path).exists());
    cluster.ok(&["delete", "pvc", "data-web-1"])?;
    cluster
        .eventually("the volume is gone", || Ok(cluster.kubectl(&["get", "pv", &volume, "-o", "json"]).code != 0))?;
    assert!(!std::path::Path::new(&path).exists());
    Ok(())
}

#[test]
fn stock_kubectl_runs_one_off_pods() -> anyhow::Result<()> {
    if stock_kubectl().is_none() {
        testkit::clients::skip("no stock kubectl");
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let run = ["run", "-i", "--rm", "--restart=Never", "--image", "busybox:1.28", "once", "--"];
    let piped =
        cluster.kubectl_with(&[&run[..], &["sh", "-c", "read line; echo got $line; exit 0"]].concat(), "some input\n");
    assert_eq!(piped.code, 0, "{piped:?}");
    assert!(piped.stdout.contains("got some input"), "{piped:?}");
    // Names of a StatefulSet's pods, asked by a pod that comes for it, without a terminal and on one.
    cluster.apply(WEB)?;
    cluster.wait_pod("web-0")?;
    let ip = cluster.get("pod", "web-0")?["status"]["podIP"].as_str().unwrap_or("").to_string();
    let ask = ["--rm", "--restart=Never", "--image", "busybox:1.28"];
    let lookup = ["--", "nslookup", "web-0.hello"];
    let plain = cluster.kubectl(&[&["run", "-i", "ask-1"], &ask[..], &lookup].concat());
    assert!(plain.stdout.contains("web-0.hello") && plain.stdout.contains(&ip), "{plain:?}");
    let line = cluster.kubectl_line(&[&["run", "-it", "ask-2"], &ask[..], &lookup].concat());
    let quoted = line.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
    let terminal = cluster.server.run(&["script", "-qec", &quoted, "/dev/null"].map(String::from), "");
    assert!(terminal.stdout.contains("web-0.hello") && terminal.stdout.contains(&ip), "{terminal:?}");
    let columns = cluster.ok(&["get", "nodes", "-o", "wide"])?;
    let head = columns.lines().next().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(head, "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME");
    assert!(cluster.ok(&["describe", "node", "server-1"])?.contains("Ready"));
    assert!(cluster.ok(&["explain", "statefulset.spec.volumeClaimTemplates"])?.contains("volumeClaimTemplates"));
    // These send protobuf.
    assert!(cluster.ok(&["auth", "can-i", "create", "pods"])?.contains("yes"));
    cluster.ok(&["create", "namespace", "other"])?;
    cluster.ok(&["-n", "other", "create", "deployment", "web", "--image", "nginx:1.27", "--replicas", "2"])?;
    cluster.ok(&["-n", "other", "rollout", "status", "deployment", "web", "--timeout", "50s"])?;
    cluster.ok(&["-n", "other", "expose", "deployment", "web", "--port", "80"])?;
    cluster.ok(&["delete", "namespace", "other"])?;
    Ok(())
}

const SCRATCH: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: scratch}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}
  selector: {matchLabels: {app: scratch}}
  template:
    metadata: {labels: {app: scratch}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: 'busybox:1.28', command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

#[test]
fn claims_are_deleted_as_the_retention_policy_says() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(SCRATCH)?;
    cluster.wait_pod("scratch-0")?;
    cluster.wait_pod("scratch-1")?;
    cluster.ok(&["delete", "pod", "scratch-1"])?;
    cluster.wait_pod("scratch-1")?;
    let claims = || Ok::<_, anyhow::Error>(cluster.list("pvc", "app=scratch")?.len());
    assert_eq!(claims()?, 2, "a pod that is only made anew keeps its claim");
    cluster.ok(&["scale", "statefulset", "scratch", "--replicas=1"])?;
    cluster.eventually("the claim of the pod that is too much is gone", || Ok(claims()? == 1))?;
    assert_eq!(cluster.get("pvc", "data-scratch-0")?["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    cluster.ok(&["delete", "statefulset", "scratch"])?;
    cluster.eventually("the other one goes with the set", || Ok(claims()? == 0))
}

const OWN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: scratch}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, 'echo kept > /data/file; sleep 3600']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    ephemeral:
      volumeClaimTemplate:
        metadata: {labels: {of: scratch}}
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
";

#[test]
fn a_claim_lives_as_long_as_its_pod() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    // Somebody else's claim with the name that the second pod's would have.
    cluster.apply(
        "---\n{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: other-data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}}",
    )?;
    cluster.apply(OWN)?;
    cluster.apply(&OWN.replace("{name: scratch}", "{name: other}"))?;
    cluster.wait_pod("scratch")?;
    assert_eq!(cluster.ok(&["exec", "scratch", "--", "cat", "/data/file"])?, "kept\n");
    let node = cluster.get("pod", "scratch")?["spec"]["nodeName"].as_str().unwrap_or("").to_string();
    let metrics = cluster.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")])?;
    let of_claim =
        "kubelet_volume_stats_available_bytes{namespace=\"default\",persistentvolumeclaim=\"scratch-data\"} ";
    let free = metrics.lines().find_map(|line| line.strip_prefix(of_claim)?.parse::<f64>().ok());
    assert!(free.is_some_and(|free| free > 0.0), "{metrics}");
    for told in
        ["kubelet_running_pods ", "process_resident_memory_bytes ", "coredns_dns_request_duration_seconds_count "]
    {
        assert!(metrics.contains(told), "{told}: {metrics}");
    }
    let claim = cluster.get("pvc", "scratch-data")?;
    assert_eq!((&claim["status"]["phase"], &claim["metadata"]["labels"]["of"]), (&"Bound".into(), &"scratch".into()));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "scratch");
    cluster.eventually("the other pod says why it waits", || {
        let conditions = cluster.get("pod", "other")?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["message"].as_str().is_some_and(|m| m.contains("was not created for the pod"))))
    })?;
    cluster.ok(&["delete", "pod", "scratch"])?;
    cluster
        .eventually("the claim goes with its pod", || Ok(cluster.kubectl(&["get", "pvc", "scratch-data"]).code != 0))?;
    cluster.ok(&["get", "pvc", "other-data"])?;
    Ok(())
}
