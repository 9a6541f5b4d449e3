//! `timonel why` and `timonel status`, with what this machine knows of itself.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::agent::node_name;
use crate::firewall;

fn machine(data_dir: &std::path::Path) -> Option<why::machine::Machine> {
    let firewall = firewall::active().map(|firewall| firewall.name().to_string());
    why::machine::Machine::read(data_dir, node_name(None).ok()?, firewall)
}

fn run(work: impl Future<Output = u8>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(ExitCode::from(runtime.block_on(work)))
}

pub fn why(args: why::WhyArgs) -> anyhow::Result<ExitCode> {
    let data_dir = args.cluster.data_dir.clone();
    run(why::why(args, || machine(&data_dir)))
}

pub fn status(args: why::ClusterArgs) -> anyhow::Result<ExitCode> {
    let data_dir = args.data_dir.clone();
    run(why::status(args, || machine(&data_dir)))
}

/// `kubectl why …`
#[derive(Parser)]
#[command(name = "kubectl why")]
struct KubectlWhy {
    #[command(flatten)]
    args: why::WhyArgs,
}

/// Reads the words of `kubectl why`, if that is what they are.
pub fn kubectl_why(words: &[OsString]) -> Option<why::WhyArgs> {
    let rest = words.strip_prefix(&[OsString::from("why")][..])?;
    Some(KubectlWhy::parse_from([OsString::from("kubectl why")].iter().chain(rest)).args)
}
