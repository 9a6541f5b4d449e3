//! Devices that claims give to containers: dynamic resource allocation from the claim to the CDI device in a container.

use anyhow::ensure;
use testkit::{Beside, Cluster, beside_test};

const DRIVER: &str = "gadgets.test.timonel.local";

/// What CDI says of the gadgets: a device, a variable of each, and a mount.
const CDI: &str = r#"{"cdiVersion": "0.6.0", "kind": "test.timonel.local/gadget",
  "devices": [
    {"name": "a0", "containerEdits": {"env": ["A0=yes"], "deviceNodes": [{"path": "/dev/a0", "hostPath": "/dev/zero", "permissions": "r"}]}},
    {"name": "a1", "containerEdits": {"env": ["A1=yes"]}},
    {"name": "b0", "containerEdits": {"env": ["B0=yes"], "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/b0", "options": ["ro", "bind"]}]}}
  ]}"#;

/// A class for each kind of gadget, and a template of a claim for one of each.
const KINDS: &str = "
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gadgets}
spec: {selectors: [{cel: {expression: \"device.driver == 'gadgets.test.timonel.local'\"}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-of-each}
spec:
  spec:
    devices:
      requests:
      - {name: a, exactly: {deviceClassName: gadgets, selectors: [{cel: {expression: \"device.attributes['gadgets.test.timonel.local'].kind == 'a'\"}}]}}
      - {name: b, firstAvailable: [{name: none, deviceClassName: gadgets, count: 4}, {name: some, deviceClassName: gadgets, selectors: [{cel: {expression: \"device.attributes['gadgets.test.timonel.local'].kind == 'b'\"}}]}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gadgets}}]}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: classless}
spec: {devices: {requests: [{name: r, exactly: {deviceClassName: nobody}}]}}
";

/// A pod with a claim; its first container names one request of it, and its second the whole claim.
fn pod(name: &str, claim: &str, request: &str) -> String {
    let request = if request.is_empty() { String::new() } else { format!(", request: {request}") };
    let run = "image: busybox:1.28, command: [sh, -c, 'while [ ! -e /end ]; do sleep 0.2; done']";
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  resourceClaims: [{{name: gadget, {claim}}}]\n  \
         containers:\n  - {{name: part, {run}, resources: {{claims: [{{name: gadget{request}}}]}}}}\n  - {{name: all, {run}, resources: {{claims: [{{name: gadget}}]}}}}\n"
    )
}

fn says(cluster: &Cluster, pod: &str, container: &str) -> anyhow::Result<String> {
    let script = "echo $A0 $A1 $B0; test -c /dev/a0 && head -c 3 /dev/a0 | wc -c; test -s /b0 && echo file; true";
    Ok(cluster.ok(&["exec", pod, "-c", container, "--", "sh", "-c", script])?.trim().replace('\n', " "))
}

fn list(cluster: &Cluster, kind: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let all: serde_json::Value = serde_json::from_str(&cluster.ok(&["get", kind, "-o", "json"])?)?;
    Ok(all["items"].as_array().cloned().unwrap_or_default())
}

/// The last message of a pod's events with a reason.
fn event(cluster: &Cluster, pod: &str, reason: &str) -> anyhow::Result<String> {
    let events = list(cluster, "events")?;
    let of = |event: &&serde_json::Value| event["involvedObject"]["name"] == pod && event["reason"] == reason;
    let messages = events.iter().filter(of).map(|event| event["message"].as_str().unwrap_or_default().to_string());
    Ok(messages.collect::<Vec<_>>().join("\n"))
}

fn waits_with(cluster: &Cluster, pod: &str, reason: &str, message: &str) -> anyhow::Result<()> {
    cluster.eventually(&format!("the pod {pod} is told {message:?}"), || {
        Ok(event(cluster, pod, reason)?.contains(message))
    })
}

#[test]
fn claims_give_containers_their_devices() -> anyhow::Result<()> {
    let files = tempfile::tempdir()?;
    let (cdi, data) = (files.path().join("cdi"), files.path().join("gadgets"));
    std::fs::create_dir_all(&cdi)?;
    std::fs::create_dir_all(&data)?;
    std::fs::write(cdi.join("gadgets.json"), CDI)?;
    let mut cluster = Cluster::start_with(&["--cdi-spec-dir", &cdi.display().to_string()])?;
    let kubelet = cluster.server.folder().join("data/kubelet").display().to_string();
    let kubeconfig = cluster.server.folder().join("kubeconfig").display().to_string();
    let binary = beside_test("dra-driver")?.display().to_string();
    let (data_folder, ids) = (data.display().to_string(), "a0,a1,b0".to_string());
    let command = [binary, kubeconfig, kubelet, "server-1".into(), DRIVER.into(), data_folder, ids];
    let driver = |cluster: &Cluster| -> anyhow::Result<Beside> { cluster.server.beside(&command) };
    let calls = || std::fs::read_to_string(data.join("calls")).unwrap_or_default();
    let mood = |mood: &str| std::fs::write(data.join("mood"), mood);
    cluster.apply(KINDS)?;

    // Nobody offers gadgets yet; one claim is of a class that isn't there, and one pod names a claim that isn't.
    cluster.apply(&pod("one", "resourceClaimTemplateName: one-of-each", "a"))?;
    cluster.apply(&pod("lost", "resourceClaimName: classless", ""))?;
    cluster.apply(&pod("nothing", "resourceClaimName: missing", ""))?;
    cluster.apply(&pod("shapeless", "resourceClaimTemplateName: missing", ""))?;
    waits_with(&cluster, "one", "FailedScheduling", "0/1 nodes are available: 1 cannot allocate all claims.")?;
    waits_with(&cluster, "lost", "FailedScheduling", "request r: device class nobody does not exist")?;
    waits_with(&cluster, "nothing", "FailedScheduling", "could not find ResourceClaim \"default/missing\"")?;
    waits_with(&cluster, "shapeless", "FailedResourceClaimCreation", "resource claim template \"missing\"")?;
    cluster.ok(&["delete", "pod", "lost", "nothing", "shapeless"])?;

    let first = driver(&cluster)?;
    cluster.wait_pod("one")?;
    ensure!(says(&cluster, "one", "part")? == "yes 3", "{}", says(&cluster, "one", "part")?);
    ensure!(says(&cluster, "one", "all")? == "yes yes 3 file", "{}", says(&cluster, "one", "all")?);
    let claims = list(&cluster, "resourceclaims")?;
    let own = claims.iter().find(|claim| claim["metadata"]["generateName"] == "one-gadget-");
    let own = own.cloned().unwrap_or_default();
    ensure!(own["status"]["reservedFor"][0]["name"] == "one", "{own}");
    ensure!(own["status"]["allocation"]["devices"]["results"][1]["request"] == "b/some", "{own}");

    // What is left is shared by two pods.
    cluster.apply(&pod("two", "resourceClaimName: shared", ""))?;
    cluster.apply(&pod("three", "resourceClaimName: shared", ""))?;
    cluster.wait_pod("two")?;
    cluster.wait_pod("three")?;
    ensure!(says(&cluster, "two", "part")?.trim() == "yes" && says(&cluster, "three", "all")?.trim() == "yes");
    ensure!(calls().matches("prepare shared").count() == 1, "{}", calls());
    cluster.ok(&["delete", "pod", "two"])?;
    ensure!(!calls().contains("unprepare shared"), "three uses it yet");

    // The kubelet starts again, and so does a container without its driver.
    drop(first);
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.wait_ready("server-1")?;
    cluster.ok(&["exec", "one", "-c", "all", "--", "touch", "/end"])?;
    cluster.eventually("the container starts again without the driver", || {
        let statuses = cluster.get("pod", "one")?["status"]["containerStatuses"].clone();
        let status = statuses.as_array().into_iter().flatten().find(|status| status["name"] == "all").cloned();
        Ok(status.is_some_and(|status| status["restartCount"] == 1 && status["ready"] == true))
    })?;
    ensure!(says(&cluster, "one", "all")? == "yes yes 3 file");

    // A pod whose driver is away keeps its devices until the driver has taken them back.
    cluster.ok(&["delete", "pod", "three", "--wait=false"])?;
    waits_with(
        &cluster,
        "three",
        "FailedUnprepareDynamicResources",
        &format!("DRA driver {DRIVER} is not registered"),
    )?;
    let _second = driver(&cluster)?;
    cluster.eventually("the pod is gone", || Ok(cluster.kubectl(&["get", "pod", "three"]).code != 0))?;
    ensure!(calls().contains("unprepare shared"), "{}", calls());
    cluster.eventually("the claim is free", || {
        Ok(cluster.get("resourceclaim", "shared")?["status"]["allocation"].is_null())
    })?;

    // A driver that refuses, lies, leaves claims out, or names a device that isn't there: the pod says so, and comes when it is well.
    cluster.apply(&pod("four", "resourceClaimName: shared", ""))?;
    cluster.wait_pod("four")?;
    cluster.ok(&["delete", "pod", "four"])?;
    for (how, reason, message) in [
        ("refuse", "FailedPrepareDynamicResources", "failed for ResourceClaim shared: the gadget is out of order"),
        ("lie", "FailedPrepareDynamicResources", "returned result for unknown claim UID another"),
        ("skip", "FailedPrepareDynamicResources", "skipped 1 ResourceClaims"),
        ("absent", "Failed", "unresolvable CDI devices test.timonel.local/nothing=a1"),
    ] {
        mood(how)?;
        cluster.apply(&pod(how, "resourceClaimName: shared", ""))?;
        waits_with(&cluster, how, reason, message)?;
        cluster.ok(&["delete", "pod", how])?;
    }
    mood("")?;

    // All is given back with the last pods, and the claims of templates go with theirs.
    cluster.ok(&["delete", "pod", "one"])?;
    cluster.eventually("the claim of the template is gone", || {
        Ok(list(&cluster, "resourceclaims")?.iter().all(|claim| claim["metadata"]["generateName"].is_null()))
    })?;
    let many = "apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {name: all-of-them}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: gadgets, allocationMode: All}}]}}\n";
    cluster.apply(many)?;
    cluster.apply(&pod("five", "resourceClaimName: all-of-them", ""))?;
    cluster.wait_pod("five")?;
    ensure!(says(&cluster, "five", "all")? == "yes yes yes 3 file", "{}", says(&cluster, "five", "all")?);

    // Access for administrators is for namespaces that are labelled for it, and expressions are looked at when they are written.
    let refused = |text: &str, why: &str| -> anyhow::Result<()> {
        let told = cluster.apply(text).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(told.contains(why), "{told}");
        Ok(())
    };
    refused(
        &many.replace("all-of-them", "admin").replace("allocationMode: All", "adminAccess: true"),
        "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label",
    )?;
    refused(
        "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {name: wrong}\nspec: {selectors: [{cel: {expression: 'device.colour'}}]}\n",
        "spec.selectors[0].cel.expression",
    )?;
    Ok(())
}
