//! The node's part: joins a server and runs what a node runs. The server's own node takes the same way from `run_node` on.

mod cluster;
mod identity;
mod node;

use std::net::IpAddr;

use anyhow::Context as _;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::{AgentArgs, NodeArgs, ServerArgs};
use crate::joining::{JoinError, Joined, Joining};
use crate::known::Known;
use crate::transport::Limits;
use crate::waiting::Waiting;
use crate::{check, local_api, own_log, part, private, shutdown};

pub use identity::{addresses_for, any_address, node_ips, node_name};
use node::run_node;
pub use node::{POLICY_TABLE, TABLE};

/// How the node reaches the API.
pub struct Access {
    pub client: Client,
    pub authority_pem: String,
    pub is_server: bool,
    /// If the server doesn't answer yet.
    pub away: Option<Away>,
}

/// What a node goes on with while its server doesn't answer.
pub struct Away {
    pub known: Known,
    pub joining: Joining,
}

/// What a node is, from its flags.
pub struct Settings {
    pub args: NodeArgs,
    pub name: String,
    /// At most one of each family.
    pub ips: Vec<IpAddr>,
}

impl Settings {
    pub fn new(args: &NodeArgs, name: String, ips: Vec<IpAddr>) -> Self {
        Settings { args: args.clone(), name, ips }
    }
}

pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    check::require(&args.node)?;
    let stop = shutdown::on_signal()?;
    tasks::until_done("own-log", own_log::keep_small);
    let name = node_name(args.node.node_name.as_deref())?;
    let joining = joining(&args, &name)?;
    let ips = node_ips(&args.node.node_ip);
    let Some(ips) = address(ips.await, &args.node.node_ip, &stop).await? else { return Ok(()) };
    let Some((joined, known)) = join(&args.node, &joining, &stop).await? else { return Ok(()) };
    let (of, kept) = (joining.clone(), joined.clone());
    tasks::supervise("client-certificate", move || of.clone().keep(kept.clone()));
    let access = Access {
        client: joined.client.clone(),
        authority_pem: joined.authority_pem.clone(),
        is_server: false,
        away: known.map(|known| Away { known, joining: joining.clone() }),
    };
    run_node(Settings::new(&args.node, name, ips), access, stop).await
}

/// Runs the node of a server's own machine, beside its control plane.
pub async fn run_beside_server(args: ServerArgs) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let name = node_name(args.node.node_name.as_deref())?;
    let ips = node_ips(&args.node.node_ip).await?;
    let client = local_api::client(&args.node.run_dir);
    let request = http::Request::get("/cacerts").body(Vec::new())?;
    let authority_pem = client.request_text(request).await.context("the API of this server can't be reached")?;
    let access = Access { client, authority_pem, is_server: true, away: None };
    run_node(Settings::new(&args.node, name, ips), access, stop).await
}

/// Waits for an address where none was named and the machine has none yet, as when it has just started.
async fn address(
    mut found: anyhow::Result<Vec<IpAddr>>,
    given: &[IpAddr],
    stop: &CancellationToken,
) -> anyhow::Result<Option<Vec<IpAddr>>> {
    let mut waiting = Waiting::default();
    loop {
        let error = match found {
            Ok(ips) => return Ok(Some(ips)),
            Err(error) if !given.is_empty() => return Err(error),
            Err(error) => error,
        };
        let why = format!("{error:#}");
        if waiting.is_news(&why) {
            tracing::warn!(why, "waiting for this machine to have an address");
        }
        part::ready();
        tokio::select! {
            () = tokio::time::sleep(waiting.next()) => {}
            () = stop.cancelled() => return Ok(None),
        }
        found = node_ips(given).await;
    }
}

fn joining(args: &AgentArgs, name: &str) -> anyhow::Result<Joining> {
    let agent_dir = args.node.data_dir.join("agent");
    private::folder(&args.node.data_dir)?;
    Ok(Joining {
        server: args.server.clone(),
        token: args.token.parse()?,
        name: name.into(),
        password: private::password(&agent_dir)?,
        folder: agent_dir.join("tls"),
        limits: Limits::of(args.server_timeout),
    })
}

/// Joins, or goes on with what was known last while the server can't be asked. Nothing if it is to stop first.
async fn join(
    args: &NodeArgs,
    joining: &Joining,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Joined, Option<Known>)>> {
    let why = match joining.once().await {
        Ok(joined) => return Ok(Some((joined, None))),
        Err(JoinError::Permanent(error)) => return Err(error),
        Err(JoinError::Retriable(error)) => error,
    };
    // Flags and token are all that could be wrong with this start: what fails from here on is tried again.
    part::ready();
    let known = Known::load(&args.data_dir.join("agent"));
    let known = known.filter(|k| k.node_name == joining.name && joining.token.trusts(&k.authority_pem));
    if let Some(known) = known
        && let Some(joined) = joining.as_before(&known.authority_pem)
    {
        let why = format!("{why:#}");
        tracing::warn!(
            server = joining.server,
            why,
            "this node goes on with the pods that it had; the server is asked again and again"
        );
        return Ok(Some((joined, Some(known))));
    }
    let mut waiting = Waiting::default();
    joining.tell(&mut waiting, &why);
    Ok(joining.insist(waiting, stop).await?.map(|joined| (joined, None)))
}

#[cfg(test)]
mod tests;
