//! The `timonel` binary: reads the command line, builds the parts that a role needs, runs them, and drains.

mod agent;
mod cli;
mod components;
mod server;
mod shutdown;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A shim is this same binary, started by the runtime; it must not parse anything else or start a thread.
    if let Some(code) = runtime::shim_main() {
        return code;
    }
    let cli = cli::Cli::parse_from(cli::arguments());
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
