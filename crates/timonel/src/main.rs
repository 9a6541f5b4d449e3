//! The `timonel` binary: reads the command line, builds the parts that a role needs, runs them, and drains.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod agent;
mod bridge;
mod check;
mod cli;
mod commands;
mod components;
mod config_file;
mod explain;
mod firewall;
mod instance;
mod joining;
mod known;
mod local;
mod local_api;
mod manifests;
mod memory_limit;
mod names;
mod node_tools;
mod own_log;
mod part;
mod private;
mod ranges;
mod renewal;
mod resolvers;
mod routes;
mod runtimes;
mod server;
mod shutdown;
mod supervisor;
mod transport;
mod uninstall;
mod waiting;

use std::process::ExitCode;

use clap::Parser as _;

/// Threads that share heaps, and what is freed goes back to the kernel: with the C library's allocator, the control plane of ten
/// thousand pods took half as much time again (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A shim is this same binary, started by the runtime; it must not parse anything else or start a thread.
    if let Some(code) = runtime::shim_main() {
        return code;
    }
    // So is the network plugin, which a container runtime calls.
    if let Some(code) = network::plugin::main() {
        return code;
    }
    // Called by the name kubectl, it is kubectl.
    let by_name = std::env::args_os().next().is_some_and(|name| std::path::Path::new(&name).ends_with("kubectl"));
    let cli = if by_name {
        let rest = std::env::args_os().skip(1);
        cli::Cli::parse_from(["timonel".into(), "kubectl".into()].into_iter().chain(rest))
    } else {
        cli::Cli::parse_from(config_file::arguments())
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
