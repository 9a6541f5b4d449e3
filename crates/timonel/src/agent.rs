//! The node's part: joins a server and runs what a node runs. The server's own node takes the same way from [`run_node`] on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use apimachinery::{AddressRanges, Family};
use informer::Informers;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use kubelet::PodNetwork;
use network::cni::Cni;
use network::{Addresses, LocalPods};
use pki::JoinToken;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::{AgentArgs, NodeArgs, ServerArgs};
use crate::part::Part;
use crate::{bridge, check, cli, firewall, local_api, part, resolvers, routes, runtimes, shutdown};

/// How the node reaches the API.
pub struct Access {
    pub client: Client,
    pub authority_pem: String,
    pub is_server: bool,
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
    let token: JoinToken = args.token.parse()?;
    let name = node_name(args.node.node_name.as_deref())?;
    let ips = node_ips(&args.node.node_ip).await?;
    let authority_pem = fetch_authority(&args.server).await?;
    if !token.trusts(&authority_pem) {
        bail!(
            "the server at {} isn't the one that the token is of (its CA certificate has another hash): check --server, or take the token from that server's file server/node-token",
            args.server
        );
    }
    let folder = args.node.data_dir.join("agent/tls");
    let client = node_client(&args.server, &authority_pem, &token, &name, &folder).await?;
    let access = Access { client, authority_pem, is_server: false };
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
    let access = Access { client, authority_pem, is_server: true };
    run_node(Settings::new(&args.node, name, ips), access, stop).await
}

/// The server's CA certificate, over a connection that isn't trusted yet; the token tells whether it is the right one.
async fn fetch_authority(server: &str) -> anyhow::Result<String> {
    let mut config = kube::Config::new(
        server.parse().with_context(|| format!("--server {server:?} is no URL; it must read https://ADDRESS:6443"))?,
    );
    config.accept_invalid_certs = true;
    let client = Client::try_from(config)?;
    let request = http::Request::get("/cacerts").body(Vec::new())?;
    client.request_text(request).await.with_context(|| format!("the server at {server} can't be reached"))
}

fn config(server: &str, authority_pem: &str) -> anyhow::Result<kube::Config> {
    use base64::Engine as _;
    let mut config = kube::Config::new(server.parse()?);
    let body: String = authority_pem.lines().filter(|l| !l.starts_with("-----")).collect();
    config.root_cert = Some(vec![base64::engine::general_purpose::STANDARD.decode(body)?]);
    config.read_timeout = None;
    Ok(config)
}

/// A client with the node's certificate; one is asked for with the join token if there is none yet.
async fn node_client(
    server: &str,
    authority_pem: &str,
    token: &JoinToken,
    name: &str,
    folder: &Path,
) -> anyhow::Result<Client> {
    let (certificate_path, key_path) = (folder.join("client.crt"), folder.join("client.key"));
    let user = format!("system:node:{name}");
    let usable = std::fs::read_to_string(&certificate_path)
        .ok()
        .and_then(|pem| pki::certificate_facts(&pem).ok())
        .is_some_and(|facts| facts.common_name == user && !facts.is_aging());
    if !usable {
        let mut bootstrap = config(server, authority_pem)?;
        bootstrap.auth_info.token = Some(token.secret.clone().into());
        let client = Client::try_from(bootstrap)?;
        let key = pki::new_key()?;
        let certificate = sign(&client, &key, &user, "kubernetes.io/kube-apiserver-client-kubelet", &[]).await.map_err(|error| {
            let refused = matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(s)) if s.code == 401);
            if refused { anyhow::anyhow!("the server refuses the token: its secret is wrong; the right one is in the server's file server/node-token") } else { error }
        })?;
        pki::write_private(&key_path, key.as_bytes())?;
        pki::write_private(&certificate_path, certificate.as_bytes())?;
    }
    let mut config = config(server, authority_pem)?;
    config.auth_info.client_certificate = Some(certificate_path.display().to_string());
    config.auth_info.client_key = Some(key_path.display().to_string());
    Ok(Client::try_from(config)?)
}

/// Has a certificate signed through the API.
async fn sign(client: &Client, key: &str, user: &str, signer: &str, names: &[String]) -> anyhow::Result<String> {
    use base64::Engine as _;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = pki::request(key, user, "system:nodes", names)?;
    let usage = if signer.ends_with("serving") { "server auth" } else { "client auth" };
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {"signerName": signer, "usages": ["digital signature", "key encipherment", usage],
                 "request": base64::engine::general_purpose::STANDARD.encode(request)}});
    let created = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let name = created.name_any();
    let done = |c: Option<&CertificateSigningRequest>| {
        let status = c.and_then(|c| c.status.as_ref());
        status.is_some_and(|s| {
            s.certificate.is_some()
                || s.conditions.iter().flatten().any(|c| matches!(c.type_.as_str(), "Denied" | "Failed"))
        })
    };
    let waited =
        tokio::time::timeout(Duration::from_secs(60), kube::runtime::wait::await_condition(api.clone(), &name, done))
            .await;
    let signed = waited.context("the server signed no certificate within a minute")??;
    let status = signed.and_then(|c| c.status).unwrap_or_default();
    match status.certificate {
        Some(certificate) => Ok(String::from_utf8(certificate.0)?),
        None => bail!("the server refused to sign a certificate: {:?}", status.conditions),
    }
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

async fn cluster(client: &Client) -> anyhow::Result<Cluster> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = api
        .get("timonel-cluster")
        .await
        .context("the cluster's settings (ConfigMap kube-system/timonel-cluster) can't be read")?;
    let data = map.data.unwrap_or_default();
    let get = |key: &str| {
        data.get(key).cloned().with_context(|| format!("ConfigMap kube-system/timonel-cluster lacks {key}"))
    };
    Ok(Cluster {
        cidr: get("cluster-cidr")?.parse()?,
        service_cidr: get("service-cidr")?.parse()?,
        dns: get("cluster-dns")?.parse()?,
        domain: get("cluster-domain")?,
        run_dns: !get("disable")?.split(',').any(|d| d == "dns"),
        run_ingress: !get("disable")?.split(',').any(|d| d == "ingress"),
        snapshots: !get("disable")?.split(',').any(|d| d == "snapshots"),
    })
}

/// Runs the parts of a node until `stop` is cancelled.
pub async fn run_node(settings: Settings, access: Access, stop: CancellationToken) -> anyhow::Result<()> {
    let Settings { args, name, ips } = settings;
    let client = access.client.clone();
    let cluster = cluster(&client).await?;
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
        shutdown_grace: kubelet::ShutdownGrace {
            whole: args.shutdown_grace_period,
            critical: args.shutdown_grace_period_critical_pods,
        },
    };
    for folder in [&config.data_dir, &config.run_dir] {
        // Secrets and other pods' files are below: nobody else on this machine may look.
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("can't make {}", folder.display()))?;
    }
    let quarantine = part::quarantine(Part::Node, &args.run_dir, &agent_dir)?;
    let chosen = runtimes::choose(&args, &agent_dir).await?;
    let ranges = kubelet::register(&config, &client).await.context("the node can't be registered")?;
    let config = kubelet::Config { max_pods: kubelet::max_pods(&ranges), ..config };
    let tls = agent_dir.join("tls");
    let serving = serving(&client, &access.authority_pem, &name, &ips, &tls);
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
    tokio::spawn(wanted.keep(bridge.clone(), local.clone(), new_ranges.clone()));
    let network = match plugins.clone() {
        Some(plugins) => PodNetwork::Plugins(plugins),
        None => {
            let addresses = Addresses::new(&ranges);
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
    tokio::spawn(proxy::run(proxy, informers.clone()));
    let policies = policy::Config {
        table: POLICY_TABLE.into(),
        node_name: name.clone(),
        cluster_dns: served_dns,
        families: cluster.cidr.families().collect(),
    };
    tokio::spawn(policy::run(policies, informers.clone(), local.clone()));
    if cluster.run_ingress {
        let ingress = ingress::Config { bind: any_address(cluster.cidr.families()), http_port: 80, https_port: 443 };
        tokio::spawn(ingress::run(ingress, informers.clone()));
    }
    if cluster.run_dns {
        let dns = dns::Config {
            address: cluster.dns,
            domain: cluster.domain,
            local: local.clone(),
            upstreams: resolvers::follow(args.resolv_conf.clone(), cluster.dns),
        };
        let informers = informers.clone();
        tokio::spawn(async move {
            if let Err(error) = dns::run(dns, informers).await {
                tracing::error!(%error, "the cluster's DNS isn't served on this node");
            }
        });
    }
    if plugins.is_none() {
        tokio::spawn(routes::keep(
            informers.clone(),
            bridge,
            routes::Own { name, addresses: ips, ranges: new_ranges, cluster: cluster.cidr.clone() },
        ));
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
    kubelet::run(config, parts, stop).await;
    Ok(())
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

/// The kubelet's listener and certificate; a new one is asked for through the API when there is no good one.
async fn serving(
    client: &Client,
    authority_pem: &str,
    name: &str,
    ips: &[IpAddr],
    folder: &Path,
) -> anyhow::Result<kubelet::Serving> {
    let (certificate_path, key_path) = (folder.join("kubelet.crt"), folder.join("kubelet.key"));
    let names: Vec<String> = [name.to_string()].into_iter().chain(ips.iter().map(ToString::to_string)).collect();
    let present = std::fs::read_to_string(&certificate_path).ok().zip(std::fs::read_to_string(&key_path).ok());
    let good = present.filter(|(certificate, _)| {
        pki::certificate_facts(certificate).is_ok_and(|f| !f.is_aging() && names.iter().all(|n| f.names.contains(n)))
    });
    let (certificate_pem, key_pem) = match good {
        Some(present) => present,
        None => {
            let key = pki::new_key()?;
            let user = format!("system:node:{name}");
            let certificate = sign(client, &key, &user, "kubernetes.io/kubelet-serving", &names).await?;
            pki::write_private(&key_path, key.as_bytes())?;
            pki::write_private(&certificate_path, certificate.as_bytes())?;
            (certificate, key)
        }
    };
    let address: SocketAddr = (*ips.first().context("the node has no address")?, 10250).into();
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} for the kubelet's API (is another agent running?)"))?;
    let identity = pki::Identity { certificate_pem, key_pem };
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
