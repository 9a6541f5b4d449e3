//! The `timonel` binary: reads the command line, builds the parts that a role needs, runs them, and drains.

mod agent;
mod check;
mod cli;
mod components;
mod files;
mod local;
mod manifests;
mod routes;
mod server;
mod shutdown;
mod uninstall;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A shim is this same binary, started by the runtime; it must not parse anything else or start a thread.
    if let Some(code) = runtime::shim_main() {
        return code;
    }
    runtime::share_heaps();
    // Called by the name kubectl, it is kubectl.
    let by_name = std::env::args_os().next().is_some_and(|name| std::path::Path::new(&name).ends_with("kubectl"));
    let cli = if by_name {
        let rest = std::env::args_os().skip(1);
        cli::Cli::parse_from(["timonel".into(), "kubectl".into()].into_iter().chain(rest))
    } else {
        cli::Cli::parse_from(cli::arguments())
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
