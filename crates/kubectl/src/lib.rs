//! kubectl, for any Kubernetes: the commands and flags of v1.37.
//!
//! Layers, each knows those after it: `commands` (one file each) → `describe`, `print` (formats) → `select` (which objects), `files` (`-f`) →
//! `discovery` (which resources) → `client` (requests) → `context` (kubeconfig and flags) → `flags`, `error`.
//!
//! The crate knows no cluster but by the API, and prints to standard output what upstream's kubectl prints, as scripts parse it.
//! `crates/e2e/tests/kubectl.rs` holds both beside each other.

#![warn(missing_docs, clippy::missing_errors_doc)]

mod client;
mod commands;
mod context;
mod describe;
mod discovery;
mod error;
mod files;
mod flags;
mod print;
mod resources;
mod select;
mod threeway;
mod workload;

use std::ffi::OsString;

/// Runs one command; returns the exit code.
///
/// # Errors
/// None: what goes wrong is told on standard error, in upstream's words.
pub async fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let outcome = commands::dispatch(arguments).await;
    let (text, code) = match outcome {
        Ok(()) => return Ok(0),
        Err(error) => error.report(),
    };
    eprint!("{text}");
    Ok(code)
}
