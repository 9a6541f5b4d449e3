//! Measures the promises: `TIMONEL_BIN=target/release/timonel cargo run --release -p bench`.
//!
//! With arguments, only those groups are measured: `scheduler`, `idle`, `pods`, `burst`, `api`, `watch`, `scale`,
//! `services`, `node` (beside containerd and runc) and `network` (beside nginx and haproxy); what those two are beside
//! must be installed, and they are measured only when they are asked for.
//!
//! Prints a table: what, the figure, the promise, and their ratio (1 or more means that the promise is kept). Absolute
//! times are noisy; compare runs on one machine.

#![allow(clippy::disallowed_methods, reason = "who runs it sees a panic")]

mod api;
mod network;
mod node;
mod pods;
mod scale;
mod scheduling;
mod services;
mod watch;

use std::time::Instant;

use anyhow::Context as _;
use testkit::Cluster;

/// The product's own: planning is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A measured figure beside its promise.
pub struct Figure {
    pub what: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// `None` where nothing was promised.
    pub promise: Option<f64>,
    /// Whether less is better.
    pub less: bool,
}

fn print(figures: &[Figure]) {
    println!("| what | measured | promise | ratio |\n|---|---|---|---|");
    for f in figures {
        let Some(promise) = f.promise else {
            println!("| {} | {:.3} {} | – | – |", f.what, f.value, f.unit);
            continue;
        };
        let ratio = if f.less { promise / f.value } else { f.value / promise };
        let bound = if f.less { "≤" } else { "≥" };
        println!("| {} | {:.3} {} | {bound} {promise} {} | {ratio:.2} |", f.what, f.value, f.unit, f.unit);
    }
}

/// The figure below which a part of all is; `sorted` isn't empty.
fn at(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
}

/// Memory in MB (proportional set size, so that what processes share counts once) and processor seconds used, of processes together.
fn usage(processes: &[u32]) -> anyhow::Result<(f64, f64)> {
    let mut sum = (0.0, 0.0);
    for pid in processes {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        sum = (sum.0 + kib / 1024.0, sum.1 + ticks / 100.0);
    }
    Ok(sum)
}

/// What an idle server costs, over twenty seconds.
fn idle(processes: &[u32]) -> anyhow::Result<[Figure; 2]> {
    std::thread::sleep(std::time::Duration::from_secs(5));
    let before = usage(processes)?;
    std::thread::sleep(std::time::Duration::from_secs(20));
    let after = usage(processes)?;
    Ok([
        Figure {
            what: "memory of a server and its node, idle (Pss)",
            value: after.0,
            unit: "MB",
            promise: Some(110.0),
            less: true,
        },
        Figure {
            what: "idle CPU",
            value: (after.1 - before.1).max(0.01) / 20.0 * 100.0,
            unit: "% of a core",
            promise: Some(1.0),
            less: true,
        },
    ])
}

fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let groups: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |group: &str| groups.is_empty() || groups.iter().any(|g| g == group);
    let mut figures = Vec::new();
    if wanted("scheduler") {
        figures.extend(scheduling::measure()?);
        if groups.len() == 1 {
            print(&figures);
            return Ok(());
        }
    }
    let begun = Instant::now();
    // Ranges of addresses for a thousand nodes.
    let cluster = Cluster::start_with(&["--cluster-cidr", "10.128.0.0/9", "--node-cidr-mask-size", "23"])?;
    let ready = begun.elapsed().as_secs_f64();
    // The time includes making the namespaces and images and asking with kubectl; it is an upper bound.
    figures.push(Figure {
        what: "start to Ready (upper bound)",
        value: ready,
        unit: "s",
        promise: Some(1.0),
        less: true,
    });
    let processes = cluster.server.processes();
    anyhow::ensure!(processes.len() == 3, "the server's parts aren't running: {processes:?}");
    // Before the runtime starts, so that all its threads are in the server's network.
    enter(&cluster)?;
    if wanted("idle") {
        figures.extend(idle(&processes)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let kubeconfig = cluster.server.folder().join("kubeconfig");
    runtime.block_on(async {
        let text = std::fs::read_to_string(kubeconfig)?;
        let kubeconfig: kube::config::Kubeconfig = kube::config::Kubeconfig::from_yaml(&text)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        if wanted("watch") {
            figures.push(watch::memory(&config, &processes).await?);
            let promised = watch::Crowd { namespace: "watched", watchers: 200, updates: 250 };
            let value = watch::events(&config, &promised).await?;
            let promise = Some(200_000.0);
            figures.push(Figure { what: "events to 200 watchers, 1 KB", value, unit: "/s", promise, less: false });
            let many = watch::Crowd { namespace: "crowded", watchers: 1000, updates: 100 / 8 };
            let value = watch::events(&config, &many).await?;
            figures.push(Figure {
                what: "events to 1,000 watchers, 96 updates of 1 KB",
                value,
                unit: "/s",
                promise: None,
                less: false,
            });
        }
        if wanted("pods") {
            figures.push(pods::latency(kube::Client::try_from(config.clone())?).await?);
        }
        if wanted("burst") {
            figures.push(pods::burst(kube::Client::try_from(config.clone())?).await?);
        }
        if wanted("api") {
            figures.extend(api::measure(&config).await?);
        }
        if wanted("services") {
            figures.extend(services::measure().await?);
        }
        if groups.iter().any(|group| group == "node") {
            figures.extend(node::measure(&cluster, kube::Client::try_from(config.clone())?, &processes).await?);
        }
        if groups.iter().any(|group| group == "network") {
            figures.extend(network::measure(&cluster, kube::Client::try_from(config.clone())?).await?);
        }
        if wanted("scale") {
            figures.extend(scale::measure(&config, &processes).await?);
        }
        anyhow::Ok(())
    })?;
    print(&figures);
    Ok(())
}

/// Moves this thread, and those it starts, to the server's network.
fn enter(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = std::fs::File::open(cluster.server.network())?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    Ok(())
}
