//! The parts of a node: kubelet, proxy, network policies, ingress, DNS, routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use informer::Informers;
use ipnet::IpNet;
use kube::Client;
use kubelet::PodNetwork;
use network::cni::Cni;
use network::{AddressPool, Bridge, LocalPods};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cluster::{self, Cluster};
use super::identity::{addresses_for, any_address, label, taint};
use super::{Access, Away, Settings};
use crate::cli::{self, NodeArgs};
use crate::joining::{self, JoinError};
use crate::known::Known;
use crate::names::Names;
use crate::part::{self, Part};
use crate::waiting::Waiting;
use crate::{bridge, firewall, instance, private, resolvers, routes, runtimes};

pub const TABLE: &str = "timonel";
pub const POLICY_TABLE: &str = "timonel-policy";

/// A node, once the cluster's settings are known.
struct Node {
    args: NodeArgs,
    name: String,
    /// Its addresses, of the cluster's families.
    ips: Vec<IpAddr>,
    cluster: Cluster,
    is_server: bool,
    agent_dir: PathBuf,
    /// The plugins that connect pods in the place of the bridge. Whoever brings them has the routes between nodes, too.
    plugins: Option<Cni>,
}

/// Runs the parts of a node until `stop` is cancelled.
pub async fn run_node(settings: Settings, access: Access, stop: CancellationToken) -> anyhow::Result<()> {
    let client = access.client.clone();
    let known = known_settings(&access, &stop).await?;
    let node = Node::new(settings, &known, access.is_server)?;
    node.advise_firewall();
    let config = node.kubelet_config()?;
    for folder in [&node.args.data_dir, &config.data_dir, &config.run_dir] {
        private::folder(folder)?;
    }
    let quarantine = part::quarantine(Part::Node, &node.args.run_dir, &node.agent_dir)?;
    informer::quarantine::install(quarantine.clone());
    instance::record_network(&node.args.run_dir)?;
    let chosen = runtimes::choose(&node.args, &node.agent_dir).await?;
    let ranges = known_ranges(&access, &config, &stop).await?;
    let known = Known {
        node_name: node.name.clone(),
        authority_pem: access.authority_pem.clone(),
        settings: known,
        ranges: ranges.clone(),
    };
    let config = kubelet::Config { max_pods: kubelet::max_pods(&ranges), ..config };
    let anew = CancellationToken::new();
    match access.away {
        Some(away) => start_catch_up(away, &config, &client, &anew),
        None => known.save(&node.agent_dir)?,
    }
    let wanted = node.wanted_bridge(&ranges);
    let (serving, bridge) = tokio::join!(node.serving(&client, &access.authority_pem), wanted.ensure());
    let (serving, bridge) = (serving?, bridge?);
    let local = LocalPods::default();
    // Those that run already are known to DNS and policies at once.
    kubelet::restored_pods(&config).into_iter().for_each(|pod| local.add(pod));
    let (ranges_sender, new_ranges) = watch::channel(ranges.clone());
    follow_ranges(wanted, known, &bridge, &local, &new_ranges, &node.agent_dir);
    let network = node.pod_network(&config, &bridge, &ranges, ranges_sender);
    network.renew(&config).await;
    let informers = Informers::new(client.clone());
    node.start_services(&informers, &local);
    if node.plugins.is_none() {
        node.start_routes(&informers, &bridge, new_ranges);
    }
    // Images that lie ready are loaded before pods ask for them.
    let _ = chosen.archives.await;
    part::ready();
    let parts = kubelet::Parts {
        client,
        informers,
        runtime: chosen.runtime,
        connects_runtime: node.plugins.is_none(),
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

/// The cluster's settings: those that the node knows if its server is away.
async fn known_settings(access: &Access, stop: &CancellationToken) -> anyhow::Result<BTreeMap<String, String>> {
    match &access.away {
        Some(away) => Ok(away.known.settings.clone()),
        None => {
            let read = || cluster::settings(&access.client);
            retry_until_stopped("the cluster's settings can't be read", read, stop).await
        }
    }
}

/// The podCIDRs of the node, which is registered for that; those that it knows if its server is away.
async fn known_ranges(
    access: &Access,
    config: &kubelet::Config,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<IpNet>> {
    match &access.away {
        Some(away) => Ok(away.known.ranges.clone()),
        None => {
            let register = || async { Ok(kubelet::register(config, &access.client).await?) };
            retry_until_stopped("the node can't be registered", register, stop).await
        }
    }
}

/// Keeps the bridge, and what is known on the disk, in step with the node's ranges.
fn follow_ranges(
    wanted: bridge::Wanted,
    known: Known,
    bridge: &Bridge,
    local: &LocalPods,
    ranges: &watch::Receiver<Vec<IpNet>>,
    agent_dir: &Path,
) {
    let (of, pods, news) = (bridge.clone(), local.clone(), ranges.clone());
    tasks::supervise("bridge", move || wanted.clone().keep(of.clone(), pods.clone(), news.clone()));
    let (news, folder) = (ranges.clone(), agent_dir.to_path_buf());
    tasks::until_done("known-ranges", move || keep_known(known.clone(), news.clone(), folder.clone()));
}

fn start_catch_up(away: Away, config: &kubelet::Config, client: &Client, anew: &CancellationToken) {
    let (away, config, client, anew) = (Arc::new(away), config.clone(), client.clone(), anew.clone());
    tasks::until_done("catch-up", move || catch_up(away.clone(), config.clone(), client.clone(), anew.clone()));
}

impl Node {
    fn new(settings: Settings, known: &BTreeMap<String, String>, is_server: bool) -> anyhow::Result<Self> {
        let Settings { args, name, ips } = settings;
        let cluster = Cluster::read(known)?;
        let ips = addresses_for(&cluster.cidr, &cluster.service_cidr, &name, &ips)?;
        let agent_dir = args.data_dir.join("agent");
        let plugins = args.cni_conf_dir.as_ref().map(|folder| Cni::new(folder.clone(), args.cni_bin_dirs.clone()));
        Ok(Node { args, name, ips, cluster, is_server, agent_dir, plugins })
    }

    /// Says in the log what a firewall of the machine would have to let through.
    fn advise_firewall(&self) {
        let (pods, services) = (self.cluster.cidr.clone(), self.cluster.service_cidr.clone());
        let needs = firewall::Needs { pods, services, is_server: self.is_server };
        tokio::task::spawn_blocking(move || firewall::advise(&needs));
    }

    fn kubelet_config(&self) -> anyhow::Result<kubelet::Config> {
        let Node { args, agent_dir, cluster, .. } = self;
        Ok(kubelet::Config {
            node_name: self.name.clone(),
            node_ips: self.ips.clone(),
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
            is_server: self.is_server,
            snapshots: cluster.snapshots,
            eviction_hard: args.eviction_hard.clone(),
            reserved: args.reserved(),
            pod_max_pids: args.pod_max_pids.max(0),
            restart_backoff: args.restart_backoff,
            seccomp_default: args.seccomp_default,
            cdi_spec_dirs: args.cdi_spec_dirs.clone(),
            allowed_unsafe_sysctls: args.allowed_unsafe_sysctls.clone(),
            image_verification: args.image_pull_credentials_verification_policy.clone(),
            shutdown_grace: kubelet::ShutdownGrace {
                total: args.shutdown_grace_period,
                critical_pods: args.shutdown_grace_period_critical_pods,
            },
        })
    }

    /// The address of the cluster's DNS, if this node serves it.
    fn served_dns(&self) -> Option<IpAddr> {
        self.cluster.run_dns.then_some(self.cluster.dns)
    }

    /// The bridge; with plugins it is there for names and services alone.
    fn wanted_bridge(&self, ranges: &[IpNet]) -> bridge::Wanted {
        bridge::Wanted {
            ranges: if self.plugins.is_some() { Vec::new() } else { ranges.to_vec() },
            cluster_cidr: self.cluster.cidr.clone(),
            service_cidr: self.cluster.service_cidr.clone(),
            cluster_dns: self.served_dns(),
        }
    }

    fn pod_network(
        &self,
        config: &kubelet::Config,
        bridge: &Bridge,
        ranges: &[IpNet],
        known_ranges: watch::Sender<Vec<IpNet>>,
    ) -> PodNetwork {
        match self.plugins.clone() {
            Some(plugins) => PodNetwork::Plugins(plugins),
            None => {
                let addresses = AddressPool::new(ranges);
                for address in kubelet::restored_addresses(config) {
                    addresses.reserve(address);
                }
                PodNetwork::Own { bridge: bridge.clone(), addresses, ranges: known_ranges }
            }
        }
    }

    /// Starts what makes services, policies and names work on this node.
    fn start_services(&self, informers: &Informers, local: &LocalPods) {
        let cluster = &self.cluster;
        let proxy = proxy::Config {
            table: TABLE.into(),
            node_name: self.name.clone(),
            cluster_cidr: cluster.cidr.clone(),
            cluster_dns: self.served_dns(),
            bridge: self.plugins.is_none().then(|| bridge::NAME.into()),
        };
        let of_proxy = informers.clone();
        tasks::supervise("proxy", move || proxy::run(proxy.clone(), of_proxy.clone()));
        let policies = policy::Config {
            table: POLICY_TABLE.into(),
            node_name: self.name.clone(),
            cluster_dns: self.served_dns(),
            families: cluster.cidr.families().collect(),
        };
        let (of_policies, pods) = (informers.clone(), local.clone());
        tasks::supervise("network-policies", move || policy::run(policies.clone(), of_policies.clone(), pods.clone()));
        if cluster.run_ingress {
            let ingress =
                ingress::Config { bind: any_address(cluster.cidr.families()), http_port: 80, https_port: 443 };
            let of_ingress = informers.clone();
            tasks::supervise("ingress", move || ingress::run(ingress.clone(), of_ingress.clone()));
        }
        if cluster.run_dns {
            let dns = dns::Config {
                address: cluster.dns,
                domain: cluster.domain.clone(),
                local: local.clone(),
                upstreams: resolvers::follow(self.args.resolv_conf.clone(), cluster.dns),
            };
            let names = Names::new(dns, informers.clone());
            tasks::supervise("dns", move || names.clone().serve());
        }
    }

    /// Starts what keeps the routes to the pods of other nodes.
    fn start_routes(&self, informers: &Informers, bridge: &Bridge, ranges: watch::Receiver<Vec<IpNet>>) {
        let own = routes::Own {
            name: self.name.clone(),
            addresses: self.ips.clone(),
            ranges,
            cluster: self.cluster.cidr.clone(),
        };
        let (informers, bridge) = (informers.clone(), bridge.clone());
        tasks::supervise("routes", move || routes::keep(informers.clone(), bridge.clone(), own.clone()));
    }

    /// The kubelet's listener and certificate, which is renewed from here on.
    async fn serving(&self, client: &Client, authority_pem: &str) -> anyhow::Result<kubelet::Serving> {
        let names = [self.name.clone()].into_iter().chain(self.ips.iter().map(ToString::to_string));
        let certificate = joining::Serving {
            client: client.clone(),
            authority_pem: authority_pem.into(),
            name: self.name.clone(),
            names: names.collect(),
            folder: self.agent_dir.join("tls"),
        };
        let identity = certificate.begin().await?;
        let rotating = identity.clone();
        tasks::supervise("kubelet-certificate", move || certificate.clone().keep(rotating.clone()));
        let address: SocketAddr = (*self.ips.first().context("the node has no address")?, 10250).into();
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("can't listen on {address} for the kubelet's API (is another agent running?)"))?;
        Ok(kubelet::Serving { listener, identity, authority_pem: authority_pem.into() })
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
            let settings = cluster::settings(&client).await?;
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
