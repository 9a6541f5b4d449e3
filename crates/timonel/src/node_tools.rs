//! Hands on a node that has lost its API: its pods, their logs, and commands in their containers, from the node's own state.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use kubelet::offline::{self, OfflineContainer, OfflinePod};

/// The node's data folder.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Data folder of this node
    #[arg(long, default_value = "/var/lib/timonel", env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct PodsArgs {
    #[command(flatten)]
    pub data: NodeArgs,
    /// List finished pods, too
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Pod: NAME or NAMESPACE/NAME
    pub pod: String,
    /// Container [default: the only one]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Log of the run before
    #[arg(short, long)]
    pub previous: bool,
    /// Number of last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    #[command(flatten)]
    pub data: NodeArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Pod: NAME or NAMESPACE/NAME
    pub pod: String,
    /// Container [default: the only one]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Runtime folder, if the agent was started with --run-dir
    #[arg(long, default_value = "/run/timonel", env = "TIMONEL_RUN_DIR")]
    pub run_dir: PathBuf,
    #[command(flatten)]
    pub data: NodeArgs,
    /// Command and its arguments, after --
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

fn read(data: &NodeArgs) -> anyhow::Result<(PathBuf, Vec<OfflinePod>)> {
    let folder = data.data_dir.join("agent");
    let pods = offline::pods(&folder).with_context(|| {
        format!(
            "{} can't be read: is this a node, are you root, and is --data-dir its own?",
            folder.join("pods").display()
        )
    })?;
    Ok((folder, pods))
}

pub fn pods(args: &PodsArgs) -> anyhow::Result<ExitCode> {
    let (_, pods) = read(&args.data)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<20} {:<44} {:<28} STATE", "NAMESPACE", "POD", "CONTAINER")?;
    for pod in pods.iter().filter(|pod| args.all || !pod.is_finished) {
        for container in &pod.containers {
            let restarts =
                if container.attempt > 0 { format!(", {} restarts", container.attempt) } else { String::new() };
            let reason = if pod.reason.is_empty() { String::new() } else { format!(" ({})", pod.reason) };
            writeln!(
                out,
                "{:<20} {:<44} {:<28} {}{restarts}{reason}",
                pod.namespace, pod.name, container.name, container.state
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pod with a name, of the latest run if there were several of it.
fn find<'a>(pods: &'a [OfflinePod], wanted: &str) -> anyhow::Result<&'a OfflinePod> {
    let fits = |pod: &&OfflinePod| match wanted.split_once('/') {
        Some((namespace, name)) => pod.namespace == namespace && pod.name == name,
        None => pod.name == wanted,
    };
    let found: Vec<&OfflinePod> = pods.iter().filter(fits).collect();
    let alive: Vec<&OfflinePod> = found.iter().copied().filter(|pod| !pod.is_finished).collect();
    match (&alive[..], &found[..]) {
        ([one], _) | ([], [one]) => Ok(one),
        ([], []) => bail!("no pod {wanted:?} is on this node; `timonel pods -a` lists them"),
        (several, _) if several.len() > 1 => bail!("several pods are called {wanted:?}: NAMESPACE/NAME says which"),
        _ => found.last().copied().context("no pod"),
    }
}

fn container<'a>(pod: &'a OfflinePod, wanted: Option<&str>) -> anyhow::Result<&'a OfflineContainer> {
    let names = || pod.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, &pod.containers[..]) {
        (Some(wanted), all) => all
            .iter()
            .find(|c| c.name == wanted)
            .with_context(|| format!("pod {} has no container {wanted:?}: {}", pod.name, names())),
        (None, [one]) => Ok(one),
        (None, []) => bail!("pod {} has no container yet", pod.name),
        (None, _) => bail!("pod {} has several containers, -c says which: {}", pod.name, names()),
    }
}

pub fn logs(args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let (folder, pods) = read(&args.data)?;
    let pod = find(&pods, &args.pod)?;
    let container = container(pod, args.container.as_deref())?;
    let attempt = container.attempt.saturating_sub(i32::from(args.previous));
    let mut out = std::io::stdout().lock();
    offline::write_log(&folder, &pod.uid, &container.name, attempt, args.tail, &mut out)
        .with_context(|| format!("the log of container {:?} of pod {} can't be read", container.name, pod.name))?;
    Ok(ExitCode::SUCCESS)
}

pub fn exec(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let (folder, pods) = read(&args.data)?;
    let pod = find(&pods, &args.pod)?;
    let container = container(pod, args.container.as_deref())?;
    if !container.runs {
        bail!("container {:?} of pod {} doesn't run: {}", container.name, pod.name, container.state);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = offline::exec(&folder, &args.run_dir, &pod.uid, &container.id, &args.command);
    let code = runtime.block_on(work)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
