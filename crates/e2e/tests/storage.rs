//! Volumes of storage drivers, and snapshots.

use testkit::Cluster;
use testkit::beside_test;

/// A driver as its vendor's manifest has it: a DaemonSet with the kubelet's folders, the driver's object, and a class.
fn driver(cluster: &Cluster) -> anyhow::Result<String> {
    let kubelet = cluster.server.folder().join("data/kubelet").display().to_string();
    let binary = beside_test("csi-hostpath")?;
    let folder = binary.parent().unwrap_or(&binary).display().to_string();
    let manifest = format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: driver, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: driver}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: driver, namespace: kube-system}}]
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{name: hostpath.csi.test}}
spec:
  attachRequired: true
  podInfoOnMount: true
  fsGroupPolicy: File
  volumeLifecycleModes: [Persistent, Ephemeral]
  tokenRequests: [{{audience: vault, expirationSeconds: 3600}}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: driven}}
provisioner: hostpath.csi.test
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {{name: driven}}
driver: hostpath.csi.test
deletionPolicy: Delete
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: driver, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{app: driver}}}}
  template:
    metadata: {{labels: {{app: driver}}}}
    spec:
      serviceAccountName: driver
      terminationGracePeriodSeconds: 0
      containers:
      - name: driver
        image: busybox:1.28
        command: [/driver/csi-hostpath]
        env:
        - {{name: DRIVER, value: hostpath.csi.test}}
        - {{name: KUBELET_DIR, value: {kubelet}}}
        - {{name: MOST, value: '5'}}
        - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
        securityContext: {{privileged: true}}
        volumeMounts:
        - {{name: kubelet, mountPath: {kubelet}, mountPropagation: Bidirectional}}
        - {{name: dev, mountPath: /dev}}
        - {{name: driver, mountPath: /driver}}
        - {{name: libraries, mountPath: /lib/x86_64-linux-gnu}}
        - {{name: loader, mountPath: /lib64}}
      volumes:
      - {{name: kubelet, hostPath: {{path: {kubelet}, type: Directory}}}}
      - {{name: dev, hostPath: {{path: /dev}}}}
      - {{name: driver, hostPath: {{path: {folder}}}}}
      - {{name: libraries, hostPath: {{path: /lib/x86_64-linux-gnu}}}}
      - {{name: loader, hostPath: {{path: /lib64}}}}
"
    );
    cluster.eventually("the kinds of snapshots are served", || cluster.apply(&manifest).map(|_| true))?;
    cluster.eventually("the driver is known", || {
        let node = cluster.get("csinode", "server-1")?;
        Ok(node["spec"]["drivers"][0]["nodeID"] == "id-of-server-1")
    })?;
    Ok(format!("{kubelet}/plugins/hostpath.csi.test"))
}

fn claim(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         resources: {{requests: {{storage: 8Mi}}}}\n{more}"
    )
}

/// A pod `name` with the claim `of` at /data.
fn pod(name: &str, of: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         securityContext: {{runAsUser: 1000, fsGroup: 2000}}\n  containers:\n  - name: c\n    image: busybox:1.28\n    \
         command: [sleep, '36000']\n    volumeMounts: [{{name: v, mountPath: /data}}]\n  volumes:\n  \
         - {{name: v, persistentVolumeClaim: {{claimName: {of}}}}}\n"
    )
}

fn says(cluster: &Cluster, pod: &str, script: &str) -> anyhow::Result<String> {
    Ok(cluster.ok(&["exec", pod, "--", "sh", "-c", script])?.trim().to_string())
}

/// The calls of the driver, oldest first.
fn calls(data: &str) -> Vec<String> {
    std::fs::read_to_string(format!("{data}/calls")).unwrap_or_default().lines().map(String::from).collect()
}

fn count(data: &str, call: &str) -> usize {
    calls(data).iter().filter(|line| line.split(' ').next() == Some(call)).count()
}

fn snapshot(name: &str, claim: &str, class: &str) -> String {
    format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: {name}}}\nspec:\n{class}  source: \
         {{persistentVolumeClaimName: {claim}}}\n"
    )
}

fn restored(name: &str, class: &str, from: &str) -> String {
    claim(
        name,
        &format!(
            "  storageClassName: {class}\n  dataSource: {{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: {from}}}\n"
        ),
    )
}

fn ready(cluster: &Cluster, snapshot: &str) -> anyhow::Result<()> {
    cluster.eventually(&format!("snapshot {snapshot} is ready"), || {
        Ok(cluster.get("volumesnapshot", snapshot)?["status"]["readyToUse"] == true)
    })
}

#[test]
fn a_storage_driver_gives_pods_their_volumes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let data = driver(&cluster)?;
    let node = cluster.get("node", "server-1")?;
    assert_eq!(node["metadata"]["labels"]["topology.hostpath.csi/node"], "server-1");
    let ids = node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"].as_str().unwrap_or("");
    assert_eq!(ids, r#"{"hostpath.csi.test":"id-of-server-1"}"#);
    let entry = &cluster.get("csinode", "server-1")?["spec"]["drivers"][0];
    assert_eq!(entry["allocatable"]["count"], 5);
    assert_eq!(entry["topologyKeys"][0], "topology.hostpath.csi/node");

    // A claim: attached, staged once, published for each pod, the group's.
    let class = "  storageClassName: driven\n";
    cluster.apply(&(claim("a", class) + &pod("one", "a") + &pod("two", "a")))?;
    cluster.wait_pod("one")?;
    cluster.wait_pod("two")?;
    says(&cluster, "one", "echo kept > /data/file")?;
    assert_eq!(says(&cluster, "two", "cat /data/file; stat -c %g /data; id -G")?, "kept\n2000\n0 2000");
    assert_eq!(count(&data, "stage"), 1, "{:?}", calls(&data));
    assert_eq!(count(&data, "publish"), 2, "{:?}", calls(&data));
    let staged = calls(&data).into_iter().find(|l| l.starts_with("stage")).unwrap_or_default();
    assert!(staged.contains(r#"{"slot":"7"}"#), "what the attacher said isn't told: {staged}");
    let published = calls(&data).into_iter().filter(|l| l.starts_with("publish")).collect::<Vec<_>>().join("\n");
    for part in [
        r#""csi.storage.k8s.io/pod.name":"one""#,
        r#""csi.storage.k8s.io/pod.name":"two""#,
        r#""csi.storage.k8s.io/serviceAccount.name":"default""#,
        r#""csi.storage.k8s.io/ephemeral":"false""#,
        r#""made-by":"csi-hostpath""#,
        r#"\"vault\":{\"expirationTimestamp\":"#,
    ] {
        assert!(published.contains(part), "{part} isn't in {published}");
    }

    // A restart of the server tells the driver nothing.
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.wait_pod("one")?;
    assert_eq!(says(&cluster, "one", "cat /data/file")?, "kept");
    assert_eq!(count(&data, "publish"), 2, "{:?}", calls(&data));

    // The claim grows; the node is told when the volume has.
    cluster.ok(&[
        "patch",
        "pvc",
        "a",
        "--type=merge",
        "-p",
        r#"{"spec":{"resources":{"requests":{"storage":"16Mi"}}}}"#,
    ])?;
    cluster.eventually("the claim has grown", || {
        let claim = cluster.get("pvc", "a")?;
        Ok(claim["status"]["capacity"]["storage"] == "16Mi"
            && claim["status"]["conditions"].as_array().is_none_or(Vec::is_empty))
    })?;
    assert_eq!(calls(&data).iter().filter(|l| l.starts_with("expand") && l.ends_with(" 16777216")).count(), 1);

    // A volume in a pod's own spec, and a block device.
    cluster.apply(
        &("apiVersion: v1\nkind: Pod\nmetadata: {name: inline}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox:1.28\n    command: [sleep, '36000']\n    \
           volumeMounts: [{name: v, mountPath: /data, readOnly: true}]\n  volumes:\n  - name: v\n    csi: {driver: hostpath.csi.test, volumeAttributes: {greeting: hello}}\n"
            .to_string()
            + &claim("raw", "  storageClassName: driven\n  volumeMode: Block\n")
            + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: block}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox:1.28\n    command: [sleep, '36000']\n    \
               volumeDevices: [{name: v, devicePath: /dev/disk}]\n  volumes:\n  - {name: v, persistentVolumeClaim: {claimName: raw}}\n"),
    )?;
    cluster.wait_pod("inline")?;
    assert_eq!(says(&cluster, "inline", "cat /data/greeting")?, "hello");
    cluster.wait_pod("block")?;
    says(&cluster, "block", "test -b /dev/disk && echo block of bytes | dd of=/dev/disk conv=sync 2>/dev/null")?;
    assert_eq!(says(&cluster, "block", "head -c 14 /dev/disk")?, "block of bytes");

    // A driver's snapshot, and a claim made of it.
    cluster.apply(&snapshot("s", "a", "  volumeSnapshotClassName: driven\n"))?;
    ready(&cluster, "s")?;
    says(&cluster, "one", "echo later > /data/file")?;
    cluster.apply(&(restored("b", "driven", "s") + &pod("three", "b")))?;
    cluster.wait_pod("three")?;
    assert_eq!(says(&cluster, "three", "cat /data/file")?, "kept");

    // Pods go; the last one's end lets the volume go.
    cluster.ok(&["delete", "pod", "one"])?;
    assert_eq!(count(&data, "unstage"), 0, "{:?}", calls(&data));
    assert_eq!(says(&cluster, "two", "cat /data/file")?, "later");
    cluster.ok(&["delete", "pod", "two", "three", "inline", "block"])?;
    cluster.eventually("nothing is staged or attached", || {
        Ok(count(&data, "stage") == count(&data, "unstage") && cluster.list("volumeattachment", "")?.is_empty())
    })?;
    let lines = calls(&data);
    assert!(count(&data, "publish") == count(&data, "unpublish") && count(&data, "detach") == 3, "{lines:?}");
    cluster.ok(&["delete", "volumesnapshot", "s"])?;
    cluster.ok(&["delete", "pvc", "--all"])?;
    cluster.eventually("nothing is left of the volumes", || {
        let left = |part: &str| std::fs::read_dir(format!("{data}/{part}")).map_or(0, Iterator::count);
        let objects = cluster.list("pv", "")?.len() + cluster.list("volumesnapshotcontent", "")?.len();
        Ok(left("volumes") + left("snapshots") + objects == 0)
    })?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let staged = format!("{}/data/kubelet/", cluster.server.folder().display());
    assert!(!mounts.lines().any(|l| l.contains(&staged)), "a volume is mounted still: {mounts}");

    // Without its driver a pod says what it waits for; the driver's end is seen.
    cluster.ok(&["-n", "kube-system", "delete", "daemonset", "driver"])?;
    std::fs::remove_file(cluster.server.folder().join("data/kubelet/plugins_registry/hostpath.csi.test-reg.sock"))?;
    cluster.eventually("the driver is gone", || {
        Ok(cluster.get("csinode", "server-1")?["spec"]["drivers"].as_array().is_none_or(Vec::is_empty))
    })?;
    cluster.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec:\n  containers: [{name: c, image: busybox:1.28, volumeMounts: [{name: v, mountPath: /v}]}]\n  volumes: [{name: v, csi: {driver: hostpath.csi.test}}]\n")?;
    cluster.eventually("the pod says what it waits for", || {
        let events = cluster.ok(&["get", "events", "--field-selector", "involvedObject.name=waits"])?;
        Ok(events.contains("driver name hostpath.csi.test not found in the list of registered CSI drivers"))
    })
}

#[test]
fn a_local_path_volume_is_restored_from_a_snapshot() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.join()?;
    cluster.apply(&(claim("db", "") + &pod("db", "db")))?;
    cluster.wait_pod("db")?;
    says(
        &cluster,
        "db",
        "echo first > /data/file; ln -s file /data/link; mkdir /data/deep; echo x > /data/deep/y; chmod 700 /data/deep",
    )?;
    cluster.eventually("the kinds are served", || Ok(cluster.kubectl(&["get", "volumesnapshots"]).code == 0))?;
    cluster.apply(&snapshot("before", "db", ""))?;
    ready(&cluster, "before")?;
    let table = cluster.ok(&["get", "volumesnapshot", "before"])?;
    assert!(table.contains("READYTOUSE") && table.contains("8Mi"), "{table}");
    says(&cluster, "db", "echo second > /data/file; rm -r /data/deep")?;

    // Restored, and cloned; wherever the new pod would rather be, it is where the data is.
    let node = cluster.get("pod", "db")?["spec"]["nodeName"].as_str().unwrap_or("").to_string();
    let clone = claim("clone", "  dataSource: {kind: PersistentVolumeClaim, name: db}\n");
    cluster.apply(&(restored("old", "local-path", "before") + &pod("old", "old") + &clone + &pod("clone", "clone")))?;
    cluster.wait_pod("old")?;
    cluster.wait_pod("clone")?;
    assert_eq!(says(&cluster, "old", "cat /data/link /data/deep/y; stat -c %a.%u /data/deep")?, "first\nx\n2770.1000");
    assert_eq!(says(&cluster, "clone", "cat /data/link; ls /data")?, "second\nfile\nlink");
    for pod in ["old", "clone"] {
        assert_eq!(cluster.get("pod", pod)?["spec"]["nodeName"], node.as_str());
    }
    assert_eq!(cluster.get("pvc", "old")?["spec"]["dataSourceRef"]["name"], "before");

    // What can't be is said.
    let small = restored("small", "local-path", "before").replace("8Mi", "4Mi");
    let missing = restored("missing", "local-path", "never");
    cluster.apply(&(small + &missing + "---\n" + &snapshot("nothing", "not-there", "")))?;
    for (object, text) in [
        ("small", "the requested volume size 4194304 is less than the size 8388608 of snapshot \"before\""),
        ("missing", "the snapshot \"never\" isn't there"),
        ("nothing", "the claim \"not-there\" isn't there"),
    ] {
        cluster.eventually(&format!("{object} says what it lacks"), || {
            let selector = format!("involvedObject.name={object}");
            Ok(cluster.ok(&["get", "events", "--field-selector", &selector])?.contains(text))
        })?;
    }
    let both = snapshot("both", "db", "").replace("{persistent", "{volumeSnapshotContentName: x, persistent");
    assert!(cluster.apply(&both).unwrap_err().to_string().contains("exactly one of"));

    // What is kept outlives its snapshot, and can be taken in again.
    cluster.ok(&[
        "patch",
        "volumesnapshotcontent",
        &content(&cluster, "before")?,
        "--type=merge",
        "-p",
        r#"{"spec":{"deletionPolicy":"Retain"}}"#,
    ])?;
    let kept = cluster.get("volumesnapshotcontent", &content(&cluster, "before")?)?;
    let handle = kept["status"]["snapshotHandle"].as_str().unwrap_or("").to_string();
    cluster.ok(&["delete", "pvc", "missing", "small"])?;
    cluster.ok(&["delete", "volumesnapshot", "before", "nothing"])?;
    cluster.ok(&["delete", "volumesnapshotcontent", kept["metadata"]["name"].as_str().unwrap_or("")])?;
    cluster.apply(&format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotContent\nmetadata: {{name: again}}\nspec:\n  deletionPolicy: Delete\n  driver: timonel.io/local-path\n  source: {{snapshotHandle: {handle}}}\n  volumeSnapshotRef: {{namespace: default, name: again}}\n---\napiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: again}}\nspec: {{source: {{volumeSnapshotContentName: again}}}}\n"
    ))?;
    ready(&cluster, "again")?;
    cluster.apply(&(restored("older", "local-path", "again") + &pod("older", "older")))?;
    cluster.wait_pod("older")?;
    assert_eq!(says(&cluster, "older", "cat /data/link")?, "first");

    // With its snapshot a content goes that isn't to be kept, and all its bytes.
    cluster.ok(&["delete", "volumesnapshot", "again"])?;
    cluster.ok(&["delete", "pod", "--all"])?;
    cluster.ok(&["delete", "pvc", "--all"])?;
    let machines = [&cluster.server, &cluster.agents[0]];
    cluster.eventually("nothing is left", || {
        let left = |folder: &str| {
            let of = |m: &&testkit::Node| std::fs::read_dir(m.folder().join("data/agent/storage").join(folder));
            machines
                .iter()
                .filter_map(|m| of(m).ok())
                .flatten()
                .flatten()
                .filter(|f| f.file_name() != "snapshots")
                .count()
        };
        Ok(left("") + left("snapshots") + cluster.list("volumesnapshotcontent", "")?.len() == 0)
    })
}

fn content(cluster: &Cluster, snapshot: &str) -> anyhow::Result<String> {
    let status = &cluster.get("volumesnapshot", snapshot)?["status"];
    Ok(status["boundVolumeSnapshotContentName"].as_str().unwrap_or("").to_string())
}

/// The options of the file system that a folder is on.
fn mount_options(folder: &std::path::Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &&str| line.split(' ').nth(4).is_some_and(|point| folder.starts_with(point));
    let nearest = mounts.lines().filter(point).max_by_key(|line| line.split(' ').nth(4).map_or(0, str::len));
    nearest.and_then(|line| line.split(' ').next_back()).unwrap_or("").into()
}

#[test]
fn local_path_claims_are_bounded_by_a_quota_or_say_that_they_are_not() -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    cluster.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: small}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         resources: {requests: {storage: 16Mi}}\n",
    )?;
    cluster.apply(&pod("writer", "small"))?;
    cluster.wait_pod("writer")?;
    let write = || says(&cluster, "writer", "dd if=/dev/zero of=/data/large bs=1M count=40 2>&1; sync; rm /data/large");
    let told = cluster.ok(&[
        "get",
        "events",
        "--field-selector",
        "reason=SizeNotEnforced",
        "-o",
        "jsonpath={.items[*].message}",
    ])?;
    if !["prjquota", "pquota"].iter().any(|option| mount_options(cluster.server.folder()).contains(option)) {
        assert!(told.contains("mount it with prjquota"), "{told}");
        assert!(write()?.contains("40+0 records out"), "{}", write()?);
        return Ok(());
    }
    assert_eq!(told, "");
    assert!(!write()?.contains("40+0 records out"), "{}", write()?);
    let shown = says(&cluster, "writer", "busybox df -k /data | tail -1")?;
    assert!(shown.split_whitespace().any(|word| word == "16384"), "{shown}");
    let grow = r#"{"spec": {"resources": {"requests": {"storage": "64Mi"}}}}"#;
    cluster.ok(&["patch", "pvc", "small", "-p", grow])?;
    cluster.eventually("it holds more", || Ok(write()?.contains("40+0 records out")))
}
