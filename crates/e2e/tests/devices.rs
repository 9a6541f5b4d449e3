//! Devices of the node that device plugins and CDI files give to containers.

use anyhow::ensure;
use plugins::podresources::pod_resources_lister_client::PodResourcesListerClient;
use plugins::podresources::{AllocatableResourcesRequest, ListPodResourcesRequest};
use testkit::{Beside, Cluster, beside_test};

const RESOURCE: &str = "test.timonel.local/toy";

/// What CDI says of both toys.
const CDI: &str = r#"{"cdiVersion": "0.6.0", "kind": "test.timonel.local/toy",
  "containerEdits": {"env": ["TOYS_ARE=fun"]},
  "devices": [
    {"name": "red", "containerEdits": {"env": ["COLOUR=red"], "deviceNodes": [{"path": "/dev/red", "hostPath": "/dev/zero", "permissions": "r"}]}},
    {"name": "blue", "containerEdits": {"env": ["COLOUR=blue"], "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/blue", "options": ["ro", "bind"]}]}}
  ]}"#;

fn pod(name: &str, toys: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    \
         image: busybox:1.28\n    command: [sh, -c, 'while [ ! -e /end ]; do sleep 0.2; done']\n    resources: {{limits: {{{RESOURCE}: {toys}}}}}\n"
    )
}

fn amounts(cluster: &Cluster) -> anyhow::Result<(String, String)> {
    let node = cluster.get("node", "server-1")?;
    let amount = |of: &str| node["status"][of][RESOURCE].as_str().unwrap_or("none").to_string();
    Ok((amount("capacity"), amount("allocatable")))
}

fn wait_for_amounts(cluster: &Cluster, capacity: &str, allocatable: &str) -> anyhow::Result<()> {
    cluster.eventually(&format!("the node has {capacity} toys, {allocatable} of them healthy"), || {
        Ok(amounts(cluster)? == (capacity.to_string(), allocatable.to_string()))
    })
}

fn says(cluster: &Cluster, pod: &str, script: &str) -> anyhow::Result<String> {
    Ok(cluster.ok(&["exec", pod, "--", "sh", "-c", script])?.trim().to_string())
}

/// Health of the devices of a pod's container, as its status has it.
fn health(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let pod = cluster.get("pod", pod)?;
    let of = &pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0];
    Ok(format!("{} {} {}", of["name"], of["resources"][0]["resourceID"], of["resources"][0]["health"]).replace('"', ""))
}

/// Who has which device, and how many devices can be given, by the pod resources API.
fn pod_resources(cluster: &Cluster) -> anyhow::Result<(Vec<String>, usize)> {
    let socket = cluster.server.folder().join("data/kubelet/pod-resources/kubelet.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut lister = PodResourcesListerClient::new(plugins::connect(&socket));
        let listed = lister.list(ListPodResourcesRequest {}).await?.into_inner();
        let all = lister.get_allocatable_resources(AllocatableResourcesRequest {}).await?.into_inner();
        let of_pod = |pod: plugins::podresources::PodResources| {
            let devices = pod.containers.into_iter().flat_map(|c| c.devices).flat_map(|d| d.device_ids);
            devices.map(|id| format!("{}:{id}", pod.name)).collect::<Vec<_>>()
        };
        Ok((listed.pod_resources.into_iter().flat_map(of_pod).collect(), all.devices.len()))
    })
}

#[test]
fn a_device_plugin_gives_containers_its_devices() -> anyhow::Result<()> {
    let files = tempfile::tempdir()?;
    let (cdi, data) = (files.path().join("cdi"), files.path().join("toys"));
    std::fs::create_dir_all(&cdi)?;
    std::fs::create_dir_all(&data)?;
    std::fs::write(cdi.join("toys.json"), CDI)?;
    let mut cluster = Cluster::start_with(&["--cdi-spec-dir", &cdi.display().to_string()])?;
    let folder = cluster.server.folder().join("data/kubelet/device-plugins");
    let binary = beside_test("device-plugin")?.display().to_string();
    let ids = "red,blue".to_string();
    let command = [binary, folder.display().to_string(), RESOURCE.into(), data.display().to_string(), ids];
    let plugin = |cluster: &Cluster| -> anyhow::Result<Beside> { cluster.server.beside(&command) };
    cluster.eventually("the kubelet listens for device plugins", || Ok(folder.join("kubelet.sock").exists()))?;
    ensure!(amounts(&cluster)?.0 == "none", "there is no plugin yet");

    let first = plugin(&cluster)?;
    wait_for_amounts(&cluster, "2", "2")?;
    cluster.apply(&pod("one", 1))?;
    cluster.wait_pod("one")?;
    let told = says(
        &cluster,
        "one",
        "echo $TOY $COLOUR $TOYS_ARE; ls -d /toy /dev/toy /dev/red 2>/dev/null; head -c 3 /dev/red | wc -c; echo x > /dev/toy; echo x > /toy/x || true",
    )?;
    // The plugin prefers the last by name.
    ensure!(told.lines().take(5).eq(["red red fun", "/dev/red", "/dev/toy", "/toy", "3"]), "{told}");
    ensure!(!data.join("x").exists(), "the mount is read-only");
    ensure!(health(&cluster, "one")? == format!("{RESOURCE} red Healthy"), "{}", health(&cluster, "one")?);

    // One is left: two aren't to be had, one is.
    cluster.apply(&pod("greedy", 2))?;
    cluster.eventually("the scheduler says what is missing", || {
        let message = cluster.get("pod", "greedy")?["status"]["conditions"][0]["message"].to_string();
        Ok(message.contains(&format!("Insufficient {RESOURCE}")))
    })?;
    cluster.apply(&pod("two", 1))?;
    cluster.wait_pod("two")?;
    ensure!(says(&cluster, "two", "echo $COLOUR; test -s /blue && echo file")? == "blue\nfile");
    let (mut listed, healthy) = pod_resources(&cluster)?;
    listed.sort();
    ensure!(listed == ["one:red", "two:blue"] && healthy == 2, "{listed:?} {healthy}");

    // Who comes without the scheduler is refused by the kubelet.
    let direct = pod("direct", 1).replace("spec:\n", "spec:\n  nodeName: server-1\n");
    cluster.apply(&direct)?;
    cluster.eventually("the kubelet refuses it", || {
        let status = cluster.get("pod", "direct")?["status"].clone();
        let is_refused = status["reason"] == "UnexpectedAdmissionError";
        Ok(is_refused && status["message"].to_string().contains("Requested: 1, Available: 0"))
    })?;

    // A device falls ill, and its pod says so.
    std::fs::write(data.join("unhealthy"), "red\n")?;
    wait_for_amounts(&cluster, "2", "1")?;
    cluster.eventually("the pod's status names it", || {
        Ok(health(&cluster, "one")? == format!("{RESOURCE} red Unhealthy"))
    })?;
    std::fs::remove_file(data.join("unhealthy"))?;
    wait_for_amounts(&cluster, "2", "2")?;

    // The plugin goes: pods keep their devices, also when the kubelet and their containers start again.
    drop(first);
    wait_for_amounts(&cluster, "2", "0")?;
    cluster.server.crash();
    cluster.server.spawn()?;
    cluster.wait_ready("server-1")?;
    wait_for_amounts(&cluster, "0", "0")?;
    says(&cluster, "one", "touch /end")?;
    cluster.eventually("a container starts again without its plugin", || {
        let container = cluster.get("pod", "one")?["status"]["containerStatuses"][0].clone();
        Ok(container["restartCount"] == 1 && container["ready"] == true)
    })?;
    ensure!(says(&cluster, "one", "echo $TOY $COLOUR")? == "red red");

    let _second = plugin(&cluster)?;
    wait_for_amounts(&cluster, "2", "2")?;
    let (mut listed, _) = pod_resources(&cluster)?;
    listed.sort();
    ensure!(listed == ["one:red", "two:blue"], "the checkpoint keeps who has what: {listed:?}");
    cluster.ok(&["delete", "pod", "one", "two", "direct"])?;
    cluster.wait_pod("greedy")?;
    ensure!(says(&cluster, "greedy", "echo $TOY")? == "blue,red");
    let calls = std::fs::read_to_string(data.join("calls"))?;
    ensure!(calls.contains("allocate red\nstart red\n") && calls.contains("allocate blue red\n"), "{calls}");
    Ok(())
}

#[test]
fn bad_device_plugins_and_cdi_names_are_told() -> anyhow::Result<()> {
    use plugins::deviceplugin::RegisterRequest;
    use plugins::deviceplugin::registration_client::RegistrationClient;
    let files = tempfile::tempdir()?;
    let (cdi, data) = (files.path().join("cdi"), files.path().join("toys"));
    std::fs::create_dir_all(&cdi)?;
    std::fs::create_dir_all(&data)?;
    std::fs::write(cdi.join("broken.json"), "{")?;
    let cluster = Cluster::start_with(&["--cdi-spec-dir", &cdi.display().to_string()])?;
    let folder = cluster.server.folder().join("data/kubelet/device-plugins");
    cluster.eventually("the kubelet listens for device plugins", || Ok(folder.join("kubelet.sock").exists()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = |version: &str, resource: &str, endpoint: &str| {
        let request = RegisterRequest {
            version: version.into(),
            resource_name: resource.into(),
            endpoint: endpoint.into(),
            options: None,
        };
        let mut kubelet =
            RegistrationClient::new(runtime.block_on(async { plugins::connect(&folder.join("kubelet.sock")) }));
        runtime.block_on(kubelet.register(request)).err().map(|status| status.message().to_string()).unwrap_or_default()
    };
    for (version, resource, endpoint, why) in [
        ("v9", RESOURCE, "toy.sock", "requested API version \"v9\" is not supported by kubelet"),
        ("v1beta1", "cpu", "toy.sock", "the ResourceName \"cpu\" is invalid"),
        ("v1beta1", "kubernetes.io/toy", "toy.sock", "is invalid"),
        ("v1beta1", RESOURCE, "../../toy.sock", "is no name of a socket"),
        ("v1beta1", RESOURCE, "kubelet.sock", "is no name of a socket"),
        ("v1beta1", RESOURCE, "absent.sock", "failed to get device plugin options"),
    ] {
        let told = refused(version, resource, endpoint);
        ensure!(told.contains(why), "{version} {resource} {endpoint}: {told:?}");
    }
    // What others advertise is allocatable, too; the kubelet says so.
    cluster.eventually("somebody advertises dongles", || {
        let mut node = cluster.get("node", "server-1")?;
        node["status"]["capacity"]["example.com/dongle"] = "3".into();
        let put = ["replace", "--raw", "/api/v1/nodes/server-1/status", "-f", "-"];
        Ok(cluster.kubectl_with(&put, &node.to_string()).code == 0)
    })?;
    cluster.eventually("dongles are allocatable", || {
        Ok(cluster.get("node", "server-1")?["status"]["allocatable"]["example.com/dongle"] == "3")
    })?;
    // A CDI device that no file has: the pod says which, and which file couldn't be read.
    let binary = beside_test("device-plugin")?.display().to_string();
    let command = [binary, folder.display().to_string(), RESOURCE.into(), data.display().to_string(), "red".into()];
    let _plugin = cluster.server.beside(&command)?;
    wait_for_amounts(&cluster, "1", "1")?;
    cluster.apply(&pod("one", 1))?;
    cluster.eventually("the container can't be made, and says why", || {
        let waiting = cluster.get("pod", "one")?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let message = waiting["message"].to_string();
        let is_told =
            message.contains("unresolvable CDI devices test.timonel.local/toy=red") && message.contains("broken.json");
        Ok(waiting["reason"] == "CreateContainerError" && is_told)
    })?;
    std::fs::remove_file(cdi.join("broken.json"))?;
    std::fs::write(cdi.join("toys.json"), CDI)?;
    cluster.wait_pod("one")?;
    Ok(())
}
