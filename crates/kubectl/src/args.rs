//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Talk to the cluster. This is a part of kubectl; the stock one works with the same kubeconfig
#[derive(Debug, Parser)]
#[command(name = "kubectl")]
pub struct Kubectl {
    /// File that says where the cluster is
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace to work in
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, global = true)]
    pub all_namespaces: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show objects
    Get {
        /// TYPE [NAME…], TYPE/NAME or TYPE,TYPE
        #[arg(required = true)]
        what: Vec<String>,
        /// wide, json, yaml or name
        #[arg(short, long)]
        output: Option<String>,
        /// Labels that they must have
        #[arg(short = 'l', long)]
        selector: Option<String>,
    },
    /// Make objects be as files say
    Apply {
        #[arg(short = 'f', long = "filename", required = true)]
        files: Vec<String>,
    },
    /// Delete objects
    Delete {
        what: Vec<String>,
        #[arg(short = 'f', long = "filename")]
        files: Vec<String>,
        /// Labels that they must have
        #[arg(short = 'l', long)]
        selector: Option<String>,
    },
    /// Show a pod's output
    Logs {
        pod: String,
        #[arg(short, long)]
        container: Option<String>,
        #[arg(short, long)]
        follow: bool,
        #[arg(long)]
        tail: Option<i64>,
    },
    /// Run a command in a container, without a terminal
    Exec {
        pod: String,
        #[arg(short, long)]
        container: Option<String>,
        /// Pass standard input on
        #[arg(short = 'i', long)]
        stdin: bool,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Set the number of replicas
    Scale {
        #[arg(required = true)]
        what: Vec<String>,
        #[arg(long)]
        replicas: u32,
    },
    /// Show versions
    Version,
}
