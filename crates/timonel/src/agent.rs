//! The node's part: joins a server and runs what a node runs. The server's own node takes the same way from [`run_node`] on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use apimachinery::{AddressRanges, Family};
use informer::Informers;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kubelet::PodNetwork;
use network::cni::Cni;
use network::{AddressPool, LocalPods};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::{AgentArgs, NodeArgs, ServerArgs};
use crate::joining::{self, JoinError, Joined, Joining};
use crate::known::Known;
use crate::names::Names;
use crate::part::Part;
use crate::transport::Limits;
use crate::waiting::Waiting;
use crate::{
    bridge, check, cli, firewall, instance, local_api, own_log, part, private, resolvers, routes, runtimes, shutdown,
};

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

pub const TABLE: &str = "timonel";
pub const POLICY_TABLE: &str = "timonel-policy";

pub fn node_name(given: Option<&str>) -> anyhow::Result<String> {
    let name = match given {
        Some(name) => name.to_string(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_ascii_lowercase(),
    };
    apimachinery::names::dns1123_subdomain(&name)
        .map_err(|e| anyhow::anyhow!("the node's name {name:?} can't be used: {e}; --node-name gives another"))?;
    Ok(name)
}

pub async fn node_ips(given: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    match given {
        [] => {
            let found = network::default_addresses().await;
            found.context("this machine's address can't be found out; --node-ip names it")
        }
        [_] => Ok(given.to_vec()),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(given.to_vec()),
        _ => bail!("--node-ip may name one address of each family, separated by a comma"),
    }
}

/// Those of a node's addresses that are of the cluster's families, that of the first one first. None may be one of the cluster's own.
pub fn addresses_for(
    pods: &AddressRanges,
    services: &AddressRanges,
    name: &str,
    ips: &[IpAddr],
) -> anyhow::Result<Vec<IpAddr>> {
    let of = |family| ips.iter().copied().find(|ip| Family::of(*ip) == family);
    let found: Vec<IpAddr> = pods.families().filter_map(of).collect();
    if found.is_empty() {
        bail!("node {name} has no address of the families of --cluster-cidr {pods}, only {ips:?}: --node-ip names one");
    }
    for (flag, ranges) in [("--cluster-cidr", pods), ("--service-cidr", services)] {
        if let Some(address) = found.iter().find(|ip| ranges.contains(**ip)) {
            bail!(
                "this machine's address {address} is one of {flag} {ranges}: the machine's network couldn't be reached any more; choose another range with {flag}, or another address with --node-ip"
            );
        }
    }
    Ok(found)
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

/// What the server tells every node of the cluster.
struct Cluster {
    cidr: AddressRanges,
    service_cidr: AddressRanges,
    dns: IpAddr,
    domain: String,
    run_dns: bool,
    run_ingress: bool,
    snapshots: bool,
}

/// The settings, as the server keeps them for its nodes.
async fn cluster_settings(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = api
        .get("timonel-cluster")
        .await
        .context("the cluster's settings (ConfigMap kube-system/timonel-cluster) can't be read")?;
    Ok(map.data.unwrap_or_default())
}

fn cluster(settings: &BTreeMap<String, String>) -> anyhow::Result<Cluster> {
    let get = |key: &str| {
        settings.get(key).cloned().with_context(|| format!("ConfigMap kube-system/timonel-cluster lacks {key}"))
    };
    let disabled = get("disable")?;
    let runs = |part: &str| !disabled.split(',').any(|d| d == part);
    Ok(Cluster {
        cidr: get("cluster-cidr")?.parse()?,
        service_cidr: get("service-cidr")?.parse()?,
        dns: get("cluster-dns")?.parse()?,
        domain: get("cluster-domain")?,
        run_dns: runs("dns"),
        run_ingress: runs("ingress"),
        snapshots: runs("snapshots"),
    })
}

/// Runs the parts of a node until `stop` is cancelled.
pub async fn run_node(settings: Settings, access: Access, stop: CancellationToken) -> anyhow::Result<()> {
    let Settings { args, name, ips } = settings;
    let client = access.client.clone();
    let known = match &access.away {
        Some(away) => away.known.settings.clone(),
        None => {
            retry_until_stopped("the cluster's settings can't be read", || cluster_settings(&client), &stop).await?
        }
    };
    let cluster = cluster(&known)?;
    let ips = addresses_for(&cluster.cidr, &cluster.service_cidr, &name, &ips)?;
    let (pods, services) = (cluster.cidr.clone(), cluster.service_cidr.clone());
    let needs = firewall::Needs { pods, services, is_server: access.is_server };
    tokio::task::spawn_blocking(move || firewall::advise(&needs));
    let agent_dir = args.data_dir.join("agent");
    let config = kubelet::Config {
        node_name: name.clone(),
        node_ips: ips.clone(),
        data_dir: agent_dir.clone(),
        run_dir: args.run_dir.clone(),
        kubelet_dir: cli::kubelet_dir(args.kubelet_dir.as_deref(), &args.data_dir),
        static_pods: args.pod_manifest_path.clone().unwrap_or_else(|| agent_dir.join("pod-manifests")),
        cgroup_root: args.cgroup_root.clone(),
        resolv_conf: args.resolv_conf.clone(),
        // Its ranges are known once it is registered.
        max_pods: 0,
        cluster_dns: cluster.dns,
        cluster_domain: cluster.domain.clone(),
        labels: args.node_labels.iter().map(|l| label(l)).collect::<anyhow::Result<_>>()?,
        taints: args.node_taints.iter().map(|t| taint(t)).collect::<anyhow::Result<_>>()?,
        is_server: access.is_server,
        snapshots: cluster.snapshots,
        eviction_hard: args.eviction_hard.clone(),
        reserved: args.reserved(),
        pod_max_pids: args.pod_max_pids.max(0),
        restart_backoff: args.restart_backoff,
        seccomp_default: args.seccomp_default,
        allowed_unsafe_sysctls: args.allowed_unsafe_sysctls.clone(),
        image_verification: args.image_pull_credentials_verification_policy.clone(),
        shutdown_grace: kubelet::ShutdownGrace {
            total: args.shutdown_grace_period,
            critical_pods: args.shutdown_grace_period_critical_pods,
        },
    };
    for folder in [&args.data_dir, &config.data_dir, &config.run_dir] {
        private::folder(folder)?;
    }
    let quarantine = part::quarantine(Part::Node, &args.run_dir, &agent_dir)?;
    informer::quarantine::install(quarantine.clone());
    instance::record_network(&args.run_dir)?;
    let chosen = runtimes::choose(&args, &agent_dir).await?;
    let ranges = match &access.away {
        Some(away) => away.known.ranges.clone(),
        None => {
            let register = || async { Ok(kubelet::register(&config, &client).await?) };
            retry_until_stopped("the node can't be registered", register, &stop).await?
        }
    };
    let known = Known {
        node_name: name.clone(),
        authority_pem: access.authority_pem.clone(),
        settings: known,
        ranges: ranges.clone(),
    };
    let config = kubelet::Config { max_pods: kubelet::max_pods(&ranges), ..config };
    let anew = CancellationToken::new();
    match access.away {
        Some(away) => {
            let (away, config, client, anew) = (Arc::new(away), config.clone(), client.clone(), anew.clone());
            tasks::until_done("catch-up", move || catch_up(away.clone(), config.clone(), client.clone(), anew.clone()));
        }
        None => known.save(&agent_dir)?,
    }
    let serving = serving(&client, &access.authority_pem, &name, &ips, &agent_dir);
    let plugins = args.cni_conf_dir.as_ref().map(|folder| Cni::new(folder.clone(), args.cni_bin_dirs.clone()));
    // Who brings plugins has pods, and the ways between nodes, to himself; the bridge is there for names and services.
    let served_dns = cluster.run_dns.then_some(cluster.dns);
    let wanted = bridge::Wanted {
        ranges: if plugins.is_some() { Vec::new() } else { ranges.clone() },
        cluster_cidr: cluster.cidr.clone(),
        service_cidr: cluster.service_cidr.clone(),
        cluster_dns: served_dns,
    };
    let (serving, bridge) = tokio::join!(serving, wanted.ensure());
    let (serving, bridge) = (serving?, bridge?);
    let local = LocalPods::default();
    // Those that run already are known to DNS and policies at once.
    kubelet::restored_pods(&config).into_iter().for_each(|pod| local.add(pod));
    let (known_ranges, new_ranges) = watch::channel(ranges.clone());
    let (of, pods, news) = (bridge.clone(), local.clone(), new_ranges.clone());
    tasks::supervise("bridge", move || wanted.clone().keep(of.clone(), pods.clone(), news.clone()));
    let (news, folder) = (new_ranges.clone(), agent_dir.clone());
    tasks::until_done("known-ranges", move || keep_known(known.clone(), news.clone(), folder.clone()));
    let network = match plugins.clone() {
        Some(plugins) => PodNetwork::Plugins(plugins),
        None => {
            let addresses = AddressPool::new(&ranges);
            for address in kubelet::restored_addresses(&config) {
                addresses.reserve(address);
            }
            PodNetwork::Own { bridge: bridge.clone(), addresses, ranges: known_ranges }
        }
    };
    network.renew(&config).await;
    let informers = Informers::new(client.clone());
    let proxy = proxy::Config {
        table: TABLE.into(),
        node_name: name.clone(),
        cluster_cidr: cluster.cidr.clone(),
        cluster_dns: served_dns,
        bridge: plugins.is_none().then(|| bridge::NAME.into()),
    };
    let of_proxy = informers.clone();
    tasks::supervise("proxy", move || proxy::run(proxy.clone(), of_proxy.clone()));
    let policies = policy::Config {
        table: POLICY_TABLE.into(),
        node_name: name.clone(),
        cluster_dns: served_dns,
        families: cluster.cidr.families().collect(),
    };
    let (of_policies, pods) = (informers.clone(), local.clone());
    tasks::supervise("network-policies", move || policy::run(policies.clone(), of_policies.clone(), pods.clone()));
    if cluster.run_ingress {
        let ingress = ingress::Config { bind: any_address(cluster.cidr.families()), http_port: 80, https_port: 443 };
        let of_ingress = informers.clone();
        tasks::supervise("ingress", move || ingress::run(ingress.clone(), of_ingress.clone()));
    }
    if cluster.run_dns {
        let dns = dns::Config {
            address: cluster.dns,
            domain: cluster.domain,
            local: local.clone(),
            upstreams: resolvers::follow(args.resolv_conf.clone(), cluster.dns),
        };
        let informers = informers.clone();
        let names = Names::new(dns, informers);
        tasks::supervise("dns", move || names.clone().serve());
    }
    if plugins.is_none() {
        let own = routes::Own { name, addresses: ips, ranges: new_ranges, cluster: cluster.cidr.clone() };
        let informers = informers.clone();
        tasks::supervise("routes", move || routes::keep(informers.clone(), bridge.clone(), own.clone()));
    }
    // Images that lie ready are loaded before pods ask for them.
    let _ = chosen.archives.await;
    part::ready();
    let connects_runtime = plugins.is_none();
    let parts = kubelet::Parts {
        client,
        informers,
        runtime: chosen.runtime,
        connects_runtime,
        network,
        local,
        serving,
        quarantine,
    };
    tokio::select! {
        () = kubelet::run(config, parts, stop) => Ok(()),
        // The parent starts this part again, and pods notice nothing.
        () = anew.cancelled() => bail!("the cluster isn't as this node knew it"),
    }
}

/// Writes down which ranges the node has when it gets others.
async fn keep_known(mut known: Known, mut ranges: watch::Receiver<Vec<IpNet>>, agent_dir: PathBuf) {
    while ranges.changed().await.is_ok() {
        known.ranges.clone_from(&ranges.borrow_and_update());
        if let Err(error) = known.save(&agent_dir) {
            tracing::warn!(error = format!("{error:#}"), "failed to write the new podCIDRs of this node to disk");
        }
    }
}

/// Does what a server that is being restarted may not be able to answer; what it refuses is told at once.
async fn retry_until_stopped<T, F: Future<Output = anyhow::Result<T>>>(
    what: &'static str,
    mut work: impl FnMut() -> F,
    stop: &CancellationToken,
) -> anyhow::Result<T> {
    let mut waiting = Waiting::default();
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let is_refused = matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(s)) if (400..500).contains(&s.code) && !matches!(s.code, 408 | 409 | 429));
        if is_refused {
            return Err(error.context(what));
        }
        let why = format!("{error:#}");
        if waiting.is_news(&why) {
            tracing::warn!(why, "{what}; retrying");
        }
        part::ready();
        tokio::select! {
            () = tokio::time::sleep(waiting.next()) => {}
            () = stop.cancelled() => bail!("stopped before the node was up"),
        }
    }
}

/// Registers the node once its server answers again. If the cluster isn't what it was, the agent begins anew.
async fn catch_up(away: Arc<Away>, config: kubelet::Config, client: Client, anew: CancellationToken) {
    let Away { known, joining } = &*away;
    let mut waiting = Waiting::default();
    loop {
        tokio::time::sleep(waiting.next()).await;
        let now = async {
            let joined = match joining.once().await {
                Ok(joined) => joined,
                Err(JoinError::Permanent(error) | JoinError::Retriable(error)) => return Err(error),
            };
            let settings = cluster_settings(&client).await?;
            let ranges = kubelet::register(&config, &client).await?;
            let node_name = known.node_name.clone();
            Ok(Known { node_name, authority_pem: joined.authority_pem, settings, ranges })
        };
        match now.await {
            Ok(now) if now == *known => {
                tracing::info!("the server answers again, and this node's settings are unchanged");
                return;
            }
            Ok(_) => return anew.cancel(),
            Err(error) => joining.tell(&mut waiting, &error),
        }
    }
}

/// All addresses of this machine that are of the cluster's families.
pub fn any_address(mut families: impl Iterator<Item = Family>) -> IpAddr {
    if families.any(|family| family == Family::V6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// `key=value:effect` or `key:effect`
fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) =
        text.split_once('=').with_context(|| format!("--node-label {text:?} is malformed: it must be key=value"))?;
    Ok((key.into(), value.into()))
}

fn taint(text: &str) -> anyhow::Result<(String, String, String)> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let parts = text.rsplit_once(':').filter(|(rest, effect)| !rest.is_empty() && effects.contains(effect));
    let (rest, effect) = parts.with_context(|| {
        format!("--node-taint {text:?} is malformed: it must be key=value:effect, the effect one of {effects:?}")
    })?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    Ok((key.into(), value.into(), effect.into()))
}

/// The kubelet's listener and certificate, which is renewed from here on.
async fn serving(
    client: &Client,
    authority_pem: &str,
    name: &str,
    ips: &[IpAddr],
    agent_dir: &Path,
) -> anyhow::Result<kubelet::Serving> {
    let certificate = joining::Serving {
        client: client.clone(),
        authority_pem: authority_pem.into(),
        name: name.into(),
        names: [name.to_string()].into_iter().chain(ips.iter().map(ToString::to_string)).collect(),
        folder: agent_dir.join("tls"),
    };
    let identity = certificate.begin().await?;
    let rotating = identity.clone();
    tasks::supervise("kubelet-certificate", move || certificate.clone().keep(rotating.clone()));
    let address: SocketAddr = (*ips.first().context("the node has no address")?, 10250).into();
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} for the kubelet's API (is another agent running?)"))?;
    Ok(kubelet::Serving { listener, identity, authority_pem: authority_pem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_within_the_clusters_ranges_are_told() {
        let (pods, services) = ("10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap());
        let chosen = |ip: &str| addresses_for(&pods, &services, "n", &[ip.parse().unwrap()]);
        assert!(chosen("10.42.7.7").unwrap_err().to_string().contains("--cluster-cidr 10.42.0.0/16"));
        assert!(chosen("10.43.7.7").unwrap_err().to_string().contains("--service-cidr 10.43.0.0/16"));
        assert_eq!(chosen("10.44.0.1").unwrap(), ["10.44.0.1".parse::<IpAddr>().unwrap()]);
    }
}
