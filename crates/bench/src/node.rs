//! What a node does, beside Debian's containerd and runc in the same run. containerd is driven by its own `ctr`, which starts
//! containers without a network, a pod or an API: what it measures is less than what a pod is.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use testkit::{Cluster, Registry, registry};

use crate::{Figure, at, pods, usage};

const IMAGE: &str = "docker.io/library/busybox:1.28";
/// The image that is pulled: layers and the bytes of each.
const LARGE: (usize, usize) = (5, 100_000_000);

/// A containerd of its own folder and socket, in the server's network. Dropping it ends it and all its containers.
struct Containerd {
    process: Child,
    folder: PathBuf,
    network: PathBuf,
}

impl Containerd {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let folder = cluster.server.folder().join("containerd");
        std::fs::create_dir_all(&folder)?;
        let text = |path: &str| folder.join(path).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            text("root"),
            text("state"),
            text("socket")
        );
        std::fs::write(folder.join("config.toml"), config)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let network = cluster.server.network();
        let process = Command::new("nsenter")
            .arg(format!("--net={}", network.display()))
            .args(["containerd", "--config", &text("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd can't be started (Debian: containerd, runc)")?;
        let containerd = Containerd { process, folder, network };
        let begun = Instant::now();
        while containerd.ctr(&["version"]).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "containerd doesn't answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.network.display()))
            .args(["ctr", "--address"])
            .arg(self.folder.join("socket"))
            .args(["--namespace", "bench"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&self, name: &str) -> anyhow::Result<()> {
        self.ctr(&["run", "--detach", IMAGE, name, "sleep", "3600"]).map(|_| ())
    }

    fn remove(&self, name: &str) {
        let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", name]);
        let _ = self.ctr(&["task", "delete", "--force", name]);
        let _ = self.ctr(&["container", "delete", name]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for name in self.ctr(&["container", "list", "--quiet"]).unwrap_or_default().lines() {
            self.remove(name);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn figure(what: &'static str, value: f64, unit: &'static str, promise: Option<f64>) -> Figure {
    Figure { what, value, unit, promise, less: true }
}

/// The median and the slowest of seconds, ours and theirs.
fn compared(what: &'static str, mut ours: Vec<f64>, mut theirs: Vec<f64>) -> [Figure; 2] {
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    [(what, 0.5), ("the same, p99", 0.99)]
        .map(|(what, part)| figure(what, at(&ours, part), "s", Some(at(&theirs, part))))
}

/// The memory of the processes whose command line has `word`, in MB, what they share divided among them (`proc(5)`, Pss), and
/// how many they are.
fn memory(word: &str) -> (f64, usize) {
    let (mut kib, mut count) = (0.0, 0);
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&line).contains(word) {
            continue;
        }
        let text = std::fs::read_to_string(process.path().join("smaps_rollup")).unwrap_or_default();
        let pss = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or("0 kB");
        kib += pss.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0);
        count += 1;
    }
    (kib / 1024.0, count)
}

async fn scaled(api: &Api<Deployment>, replicas: i32) -> anyhow::Result<f64> {
    let version = api.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await?);
    let begun = Instant::now();
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch("crowd", &PatchParams::default(), &patch).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Modified(deployment) = event
            && deployment.status.and_then(|s| s.ready_replicas) == Some(replicas)
        {
            break;
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

async fn exec(pods: &Api<Pod>, name: &str) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut running = pods.exec(name, ["true"], &AttachParams::default().stderr(false)).await?;
    let status = running.take_status().context("no status")?.await.context("no status came")?;
    ensure!(status.status.as_deref() == Some("Success"), "{status:?}");
    Ok(begun.elapsed().as_secs_f64())
}

pub async fn measure(cluster: &Cluster, client: Client, processes: &[u32]) -> anyhow::Result<Vec<Figure>> {
    let containerd = Containerd::start(cluster)?;
    let archive = cluster.server.folder().join("data/agent/images/busybox.tar").display().to_string();
    containerd.ctr(&["image", "import", &archive])?;
    let mut figures = Vec::from(starts(&containerd, client.clone()).await?);
    figures.extend(executions(&containerd, client.clone()).await?);
    figures.extend(crowds(cluster, &containerd, client.clone(), processes).await?);
    figures.extend(pull(cluster, &containerd, client).await?);
    Ok(figures)
}

async fn starts(containerd: &Containerd, client: Client) -> anyhow::Result<[Figure; 2]> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same machine.
    for i in 0..40 {
        ours.push(pods::start(&client, &format!("start-{i}")).await?);
        let begun = Instant::now();
        let name = format!("start-{i}");
        containerd.run(&name)?;
        theirs.push(begun.elapsed().as_secs_f64());
        containerd.remove(&name);
    }
    Ok(compared("pod POST to Ready, p50 of 40; beside it a container of containerd", ours, theirs))
}

async fn executions(containerd: &Containerd, client: Client) -> anyhow::Result<[Figure; 2]> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods::start_and_keep(&client, "exec").await?;
    containerd.run("exec")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for i in 0..50 {
        ours.push(exec(&api, "exec").await?);
        let begun = Instant::now();
        containerd.ctr(&["task", "exec", "--exec-id", &format!("e{i}"), "exec", "true"])?;
        theirs.push(begun.elapsed().as_secs_f64());
    }
    api.delete("exec", &DeleteParams::default()).await?;
    containerd.remove("exec");
    Ok(compared("exec through the API, p50 of 50; beside it containerd's", ours, theirs))
}

async fn crowds(
    cluster: &Cluster,
    containerd: &Containerd,
    client: Client,
    processes: &[u32],
) -> anyhow::Result<Vec<Figure>> {
    let api: Api<Deployment> = Api::namespaced(client, "default");
    let labels = json!({"app": "crowd"});
    let deployment = json!({"metadata": {"name": "crowd"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"]}]}}}});
    api.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = usage(processes)?.0;
    let mut figures = Vec::new();
    let fifty = scaled(&api, 50).await?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|w| scope.spawn(move || (w..50).step_by(4).try_for_each(|i| containerd.run(&format!("crowd-{i}")))))
            .collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a worker died"))?)
    })?;
    let theirs = begun.elapsed().as_secs_f64();
    figures.push(figure(
        "50 pods of a Deployment Ready; beside it 50 containers, four at a time",
        fifty,
        "s",
        Some(theirs),
    ));
    // The shims of this cluster have their folders in their command lines.
    let place = cluster.server.run_dir() + "/pods/";
    let (own, own_count) = memory(&place);
    let (other, other_count) = memory("containerd-shim-runc-v2");
    ensure!(own_count >= 50 && other_count >= 50, "{own_count} and {other_count} shims");
    let bound = Some(other / other_count as f64);
    figures.push(figure("memory of a pod's shim; beside it containerd's", own / own_count as f64, "MB", bound));
    for i in 0..50 {
        containerd.remove(&format!("crowd-{i}"));
    }
    figures.push(figure("150 pods more Ready", scaled(&api, 200).await?, "s", None));
    figures.push(figure("100 pods more Ready, 300 in all", scaled(&api, 300).await?, "s", None));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (memory_then, cpu) = usage(processes)?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (_, cpu_then) = usage(processes)?;
    let (shims, count) = memory(&place);
    let per_pod = (memory_then - before) / 300.0 + shims / count as f64;
    figures.push(figure(
        "memory of an idle pod beside the container's own, shim and server, 300 pods",
        per_pod,
        "MB",
        Some(3.0),
    ));
    figures.push(figure("server's CPU with 300 idle pods", (cpu_then - cpu) / 20.0 * 100.0, "% of a core", None));
    let begun = Instant::now();
    api.delete("crowd", &DeleteParams::foreground()).await?;
    while api.get_opt("crowd").await?.is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figures.push(figure("300 pods ended", begun.elapsed().as_secs_f64(), "s", None));
    Ok(figures)
}

/// Two images of 500 MB from a registry of the same machine, and as much written to the disk.
async fn pull(cluster: &Cluster, containerd: &Containerd, client: Client) -> anyhow::Result<Vec<Figure>> {
    let registry = Registry::start(&cluster.server, 5000)?;
    for name in ["ours", "theirs"] {
        registry.put_large(name, "1", LARGE.0, LARGE.1)?;
    }
    let (user, password) = registry::LOGIN;
    let config = json!({"auths": {"127.0.0.1:5000": {"username": user, "password": password}}}).to_string();
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), "default");
    let secret = json!({"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson",
                        "stringData": {".dockerconfigjson": config}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    nix::unistd::sync();
    let begun = Instant::now();
    let login = format!("{user}:{password}");
    containerd.ctr(&["image", "pull", "--plain-http", "--user", &login, "127.0.0.1:5000/theirs:1"])?;
    let theirs = begun.elapsed().as_secs_f64();
    nix::unistd::sync();
    let pod = json!({"metadata": {"name": "pull"}, "spec": {"terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": "login"}],
        "containers": [{"name": "c", "image": "127.0.0.1:5000/ours:1", "command": ["sleep", "3600"]}]}});
    let ours = pods::until_ready(&client, serde_json::from_value(pod)?).await?;
    nix::unistd::sync();
    let target = cluster.server.folder().join("plain");
    let begun = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=477", "conv=fsync"])
        .arg(format!("of={}", target.display()))
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "dd failed");
    let disk = begun.elapsed().as_secs_f64();
    Ok(vec![
        figure(
            "a pod with an image of 500 MB from a registry, POST to Ready; beside it ctr pull",
            ours,
            "s",
            Some(theirs),
        ),
        figure("500 MB written to the disk", disk, "s", None),
    ])
}
