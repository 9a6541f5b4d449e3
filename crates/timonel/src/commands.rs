//! What the subcommands of the command line do.

use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, ImageCommand, NodeArgs};
use crate::part::{self, Part};
use crate::{agent, check, explain, local, node_tools, server, supervisor, uninstall};

/// Runs a command line to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Only fails when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        Command::Server(args) => {
            log_to_stderr(&args.node.log_level)?;
            let parts =
                if args.disable_agent { vec![Part::ControlPlane] } else { vec![Part::ControlPlane, Part::Node] };
            match role(parts, &args.node)? {
                Run::Parts(supervisor) => supervisor::run(&supervisor),
                Run::Part(Part::ControlPlane, _settled) => block_on(server::run(*args)),
                Run::Part(Part::Node, _settled) => block_on(agent::run_beside_server(*args)),
            }
        }
        Command::Agent(args) => {
            log_to_stderr(&args.node.log_level)?;
            match role(vec![Part::Node], &args.node)? {
                Run::Parts(supervisor) => supervisor::run(&supervisor),
                Run::Part(_, _settled) => block_on(agent::run(*args)),
            }
        }
        Command::Check(args) => check::run(&args),
        Command::Token(args) => local::print_token(&args),
        Command::Image(command) => local::image(command),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Why(args) => explain::why(*args),
        Command::Status(args) => explain::status(args),
        Command::Pods(args) => node_tools::pods(&args),
        Command::Logs(args) => node_tools::logs(&args),
        Command::Exec(args) => node_tools::exec(&args),
        Command::Images(args) => local::image(ImageCommand::Ls(args)),
        Command::Kubectl { arguments } => {
            if let Some(args) = explain::kubectl_why(&arguments) {
                return explain::why(args);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let code = runtime.block_on(kubectl::run(arguments))?;
            // A terminal that is read from must not hold the process.
            runtime.shutdown_background();
            Ok(ExitCode::from(code))
        }
    }
}

/// What this process of a role does.
enum Run {
    /// It is the parent of the role's parts.
    Parts(supervisor::Config),
    /// It is one of them.
    Part(Part, part::Settled),
}

/// Sets this process up as the part of a role that it is, or says how to run all of them.
fn role(parts: Vec<Part>, args: &NodeArgs) -> anyhow::Result<Run> {
    if let Some(part) = Part::own() {
        let settled = part.settle(&args.run_dir)?;
        return Ok(Run::Part(part, settled));
    }
    let limits = [(Part::ControlPlane, args.control_plane_memory_max), (Part::Node, args.node_memory_max)];
    Ok(Run::Parts(supervisor::Config {
        parts,
        run_dir: args.run_dir.clone(),
        cgroup: supervisor::cgroup(&args.cgroup_root),
        memory_limits: limits.into_iter().map(|(part, limit)| (part, limit.bytes(part))).collect(),
        shutdown_grace: args.shutdown_grace_period,
    }))
}

fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .build()
        .context("the async runtime can't start")?;
    runtime.block_on(task)?;
    // What was acknowledged is on the disk, and blocking reads (a log that is followed) must not hold the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log-level {level:?} is malformed"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
