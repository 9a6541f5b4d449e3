//! The command line. Flags and their defaults are the contract with users.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use apimachinery::AddressRanges;
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::memory_limit::MemoryLimit;
use crate::part::{self, Part};
use crate::supervisor;

/// The ranges of a cluster that nobody chose others for.
pub const PODS: &str = "10.42.0.0/16";
pub const SERVICES: &str = "10.43.0.0/16";

/// A whole Kubernetes in one binary
#[derive(Debug, Parser)]
#[command(name = "timonel", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server: control plane and, unless disabled, an agent
    Server(Box<ServerArgs>),
    /// Run an agent: join this machine to a server
    Agent(Box<AgentArgs>),
    /// Look whether this machine has all that is needed, and say what to do where it hasn't
    Check(DataArgs),
    /// Print the token with which machines join
    Token(DataArgs),
    /// Import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Stop everything and remove it from this machine
    Uninstall(UninstallArgs),
    /// Talk to the cluster: get, apply, delete, logs, exec
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// `30s`
fn seconds(text: &str) -> Result<Duration, String> {
    kubelet::seconds(text).ok_or_else(|| format!("{text:?} is no number of seconds, as 30s"))
}

/// Where all state is unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/timonel";

/// The folder in which storage drivers look for the kubelet. Their manifests name `/var/lib/kubelet`; clusters beside the usual one
/// keep to their own folders.
pub fn kubelet_dir(asked: Option<&Path>, data_dir: &Path) -> PathBuf {
    match asked {
        Some(asked) => asked.into(),
        None if data_dir == Path::new(DATA_DIR) => "/var/lib/kubelet".into(),
        None => data_dir.join("kubelet"),
    }
}

#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Folder for all state
    #[arg(long, default_value = DATA_DIR, env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Folder for sockets, namespaces and what else ends with the machine
    #[arg(long, default_value = "/run/timonel", env = "TIMONEL_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Path below the cgroup root for all pods
    #[arg(long, default_value = "timonel")]
    pub cgroup_root: String,
    /// Folder in which storage drivers look for the kubelet, if it was another than usual
    #[arg(long, env = "TIMONEL_KUBELET_DIR")]
    pub kubelet_dir: Option<PathBuf>,
    /// Keep the database, the volumes and the images
    #[arg(long)]
    pub keep_data: bool,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Put archives (docker save, OCI layout) where the agent loads them
    Import {
        archives: Vec<PathBuf>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List images
    Ls(DataArgs),
}

/// Flags that server and agent share.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Folder for all state
    #[arg(long, default_value = DATA_DIR, env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Folder for sockets, namespaces and what else ends with the machine
    #[arg(long, default_value = "/run/timonel", env = "TIMONEL_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Name of this node, the host's name by default
    #[arg(long, env = "TIMONEL_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of this node, or one of each family, separated by a comma; that of the default route by default
    #[arg(long, env = "TIMONEL_NODE_IP", value_name = "ADDRESS", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Label of this node, as key=value (may be repeated)
    #[arg(long = "node-label", value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
    /// Taint of this node, as key=value:effect (may be repeated)
    #[arg(long = "node-taint", value_name = "KEY=VALUE:EFFECT")]
    pub node_taints: Vec<String>,
    /// Registries' mirrors and credentials
    #[arg(long, default_value = "/etc/timonel/registries.yaml")]
    pub private_registry: PathBuf,
    /// Folder in which storage drivers look for the kubelet; /var/lib/kubelet by default, or "kubelet" in the data folder if
    /// that is another than usual
    #[arg(long, env = "TIMONEL_KUBELET_DIR")]
    pub kubelet_dir: Option<PathBuf>,
    /// Folder of static pods, which run on this node whatever the API says; "agent/pod-manifests" in the data folder by default
    #[arg(long, value_name = "FOLDER")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Resolvers that are asked for names outside of the cluster, and that pods with dnsPolicy Default get
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Socket of another container runtime (containerd, CRI-O) that is to run this node's pods, as unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "ENDPOINT", env = "TIMONEL_CONTAINER_RUNTIME_ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// Folder of CNI configurations, whose plugins then make the network of this node's pods in place of timonel
    #[arg(long, value_name = "FOLDER")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folders of CNI plugins, looked through in this order
    #[arg(long = "cni-bin-dir", value_name = "FOLDER", default_values = ["/opt/cni/bin", "/usr/lib/cni"], requires = "cni_conf_dir")]
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Time that pods have to end when the machine goes down, the critical ones included; 0s leaves them to the machine
    #[arg(long, default_value = "30s", value_parser = seconds)]
    pub shutdown_grace_period: Duration,
    /// The last part of it, which is for critical pods
    #[arg(long, default_value = "10s", value_parser = seconds)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Path below the cgroup root for all pods
    #[arg(long, default_value = "timonel")]
    pub cgroup_root: String,
    /// What must be left of the machine, else pods are evicted
    #[arg(long, default_value = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%")]
    pub eviction_hard: kubelet::Thresholds,
    /// Containers that ask for no seccomp profile get the runtime's default one
    #[arg(long)]
    pub seccomp_default: bool,
    /// What of cpu, memory, ephemeral-storage and pid is kept from pods for this program, as in cpu=200m,memory=512Mi
    #[arg(long, value_name = "RESOURCES", default_value = "", hide_default_value = true)]
    pub kube_reserved: kubelet::Reserved,
    /// What is kept from pods for all else on this machine, as in cpu=500m,memory=1Gi,pid=1000
    #[arg(long, value_name = "RESOURCES", default_value = "", hide_default_value = true)]
    pub system_reserved: kubelet::Reserved,
    /// Processes and threads that a pod may have; -1 for any number
    #[arg(long, value_name = "COUNT", default_value = "-1", allow_negative_numbers = true)]
    pub pod_max_pids: i64,
    /// First and longest wait of containers that end again and again (upstream's are 10s,300s)
    #[arg(long, value_name = "FIRST,LONGEST", default_value = "1s,60s")]
    pub restart_backoff: kubelet::Backoff,
    /// Memory that the control plane's process may use, in bytes or as 2Gi or 60% of the machine's; 0 for any amount. More than that,
    /// and it is started again
    #[arg(long, value_name = "AMOUNT", default_value = "75%")]
    pub control_plane_memory_max: MemoryLimit,
    /// The same for the node's process: kubelet, images, service proxy, DNS and ingress
    #[arg(long, value_name = "AMOUNT", default_value = "50%")]
    pub node_memory_max: MemoryLimit,
    /// Messages to print: error, warn, info, debug, trace, or tracing's filter syntax
    #[arg(long, default_value = "info", env = "TIMONEL_LOG_LEVEL")]
    pub log_level: String,
}

impl NodeArgs {
    /// All that is kept from pods.
    pub fn reserved(&self) -> kubelet::Reserved {
        self.kube_reserved.and(&self.system_reserved)
    }
}

#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// File with the same keys as these flags, which win over it
    #[arg(long, default_value = CONFIG)]
    pub config: PathBuf,
    /// Where to write the administrator's kubeconfig
    #[arg(long, default_value = "/etc/timonel/kubeconfig.yaml")]
    pub write_kubeconfig: PathBuf,
    /// Port of the API
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address to listen on, all by default
    #[arg(long)]
    pub bind_address: Option<IpAddr>,
    /// Further names and addresses of this server (may be repeated)
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// Addresses of pods: a range, or one of each family, separated by a comma (10.42.0.0/16,fd42::/56)
    #[arg(long, default_value = PODS)]
    pub cluster_cidr: AddressRanges,
    /// Length of the prefix that the IPv4 addresses of a node's pods have in common: 24 leaves room for 253 pods on a node, 23
    /// for 310
    #[arg(long, default_value_t = 24, value_name = "BITS", value_parser = clap::value_parser!(u8).range(16..=28))]
    pub node_cidr_mask_size: u8,
    /// Addresses of services: a range, or one of each family (10.43.0.0/16,fd43::/112)
    #[arg(long, default_value = SERVICES)]
    pub service_cidr: AddressRanges,
    /// Ports for NodePort services
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Address of the cluster's DNS server, the tenth of the services' addresses by default
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster's DNS names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where objects are kept: sqlite
    #[arg(long, default_value = "sqlite")]
    pub datastore_endpoint: String,
    /// File that says which objects are encrypted in the database, and with which keys (EncryptionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Admission plugins to turn on: ExtendedResourceToleration, OwnerReferencesPermissionEnforcement (comma-separated)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<apiserver::Plugin>,
    /// Ranges of addresses that services may name in externalIPs; none if not given (may be repeated, or comma-separated)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub external_ips_allow: Vec<ipnet::IpNet>,
    /// File with the scheduler's profiles (KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE", value_parser = scheduler_config)]
    pub scheduler_config: Option<scheduler::profile::Profiles>,
    /// Parts to leave out (comma-separated)
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = ["dns", "ingress", "servicelb", "local-storage", "metrics", "snapshots"])]
    pub disable: Vec<String>,
    /// Run no pods on this machine
    #[arg(long)]
    pub disable_agent: bool,
    /// Secret for machines that join, made by chance by default
    #[arg(long, env = "TIMONEL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// The audit log.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// File that says what of which requests is logged (Policy of audit.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where the audit log goes, - for standard output
    #[arg(long, value_name = "FILE", default_value = "/var/log/timonel/audit.log")]
    pub audit_log_path: String,
    /// Size in MB at which the audit log is put aside, 0 for never
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Files of the audit log that are kept aside, 0 for all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// Days for which files of the audit log are kept, 0 for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u64,
}

#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// The server's address, as in https://192.0.2.1:6443
    #[arg(long, env = "TIMONEL_URL", value_parser = server_address)]
    pub server: String,
    /// How long the server may be silent before the connection to it is given up for another
    #[arg(long, default_value = "30s", value_parser = timeout)]
    pub server_timeout: Duration,
    /// The server's token: K10…::server:…
    #[arg(long, env = "TIMONEL_TOKEN", hide_env_values = true)]
    pub token: String,
}

fn server_address(text: &str) -> Result<String, String> {
    let example =
        |_| format!("it must read https://ADDRESS:6443, as in https://{}", text.rsplit("//").next().unwrap_or(text));
    crate::transport::address(text).map(|_| text.into()).map_err(example)
}

/// More than a moment, and less than the time after which a node counts as lost.
fn timeout(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    if (2..=40).contains(&time.as_secs()) { Ok(time) } else { Err("it must be between 2s and 40s".into()) }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let parse = || -> Option<(u16, u16)> {
        let (first, last) = text.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    match parse() {
        Some((first, last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err("it must be two ports, the lower one first, as in 30000-32767".into()),
    }
}

impl Cli {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // Only fails when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match self.command {
            Command::Server(args) => {
                log_to_stderr(&args.node.log_level)?;
                let parts =
                    if args.disable_agent { vec![Part::ControlPlane] } else { vec![Part::ControlPlane, Part::Node] };
                match role(parts, &args.node)? {
                    Run::Parts(supervisor) => supervisor::run(&supervisor),
                    Run::Part(Part::ControlPlane, _settled) => block_on(crate::server::run(*args)),
                    Run::Part(Part::Node, _settled) => block_on(crate::agent::run_beside_server(*args)),
                }
            }
            Command::Agent(args) => {
                log_to_stderr(&args.node.log_level)?;
                match role(vec![Part::Node], &args.node)? {
                    Run::Parts(supervisor) => supervisor::run(&supervisor),
                    Run::Part(_, _settled) => block_on(crate::agent::run(*args)),
                }
            }
            Command::Check(args) => crate::check::run(&args),
            Command::Token(args) => crate::local::print_token(&args),
            Command::Image(command) => crate::local::image(command),
            Command::Uninstall(args) => crate::uninstall::run(&args),
            Command::Kubectl { arguments } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let code = runtime.block_on(kubectl::run(arguments))?;
                // A terminal that is read from must not hold the process.
                runtime.shutdown_background();
                Ok(ExitCode::from(code))
            }
        }
    }
}

/// What this process of a role does.
enum Run {
    /// It is the parent of the role's parts.
    Parts(supervisor::Config),
    /// It is one of them.
    Part(Part, part::Settled),
}

/// Sets this process up as the part of a role that it is, or says how to run all of them.
fn role(parts: Vec<Part>, args: &NodeArgs) -> anyhow::Result<Run> {
    if let Some(part) = Part::own() {
        let settled = part.settle(&args.run_dir)?;
        return Ok(Run::Part(part, settled));
    }
    let limits = [(Part::ControlPlane, args.control_plane_memory_max), (Part::Node, args.node_memory_max)];
    Ok(Run::Parts(supervisor::Config {
        parts,
        run_dir: args.run_dir.clone(),
        cgroup: supervisor::cgroup(&args.cgroup_root),
        memory_limits: limits.into_iter().map(|(part, limit)| (part, limit.bytes(part))).collect(),
        shutdown_grace: args.shutdown_grace_period,
    }))
}

fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .build()
        .context("the async runtime can't start")?;
    runtime.block_on(task)?;
    // What was acknowledged is on the disk, and blocking reads (a log that is followed) must not hold the process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    use std::io::IsTerminal as _;
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log-level {level:?} is malformed"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

const CONFIG: &str = "/etc/timonel/config.yaml";

/// The arguments, with those of the configuration file in front of the flags, so that flags win.
pub fn arguments() -> Vec<OsString> {
    let given: Vec<OsString> = std::env::args_os().collect();
    if given.get(1).is_none_or(|role| role != "server") {
        return given;
    }
    let named = config_flag(&given);
    let path = named.clone().unwrap_or_else(|| CONFIG.into());
    let settings = match std::fs::read_to_string(&path) {
        Ok(text) => from_file(&text).map_err(|e| format!("is malformed: {e}")),
        // Only a file that was asked for must be there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return given,
        Err(error) => Err(format!("(--config) can't be read: {error}")),
    };
    match settings {
        Ok(settings) => given.iter().take(2).cloned().chain(settings).chain(given.iter().skip(2).cloned()).collect(),
        Err(error) => {
            eprintln!("error: {} {error}", path.display());
            std::process::exit(2);
        }
    }
}

/// The value of `--config`, before there are parsed arguments.
fn config_flag(given: &[OsString]) -> Option<PathBuf> {
    given.iter().enumerate().find_map(|(i, word)| {
        if word == "--config" {
            return given.get(i + 1).map(PathBuf::from);
        }
        word.to_str()?.strip_prefix("--config=").map(PathBuf::from)
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Setting {
    // The first that fits is taken.
    Many(Vec<String>),
    One(serde_json::Value),
}

/// `key: value` as `--key=value`.
fn from_file(text: &str) -> anyhow::Result<Vec<OsString>> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let settings: std::collections::BTreeMap<String, Setting> = apimachinery::yaml::from_str(text)?;
    let mut arguments = Vec::new();
    for (key, setting) in settings {
        match setting {
            Setting::Many(values) => arguments.extend(values.into_iter().map(|v| format!("--{key}={v}").into())),
            Setting::One(serde_json::Value::Bool(true)) => arguments.push(format!("--{key}").into()),
            Setting::One(serde_json::Value::Bool(false)) => {}
            Setting::One(serde_json::Value::String(s)) => arguments.push(format!("--{key}={s}").into()),
            Setting::One(serde_json::Value::Number(n)) => arguments.push(format!("--{key}={n}").into()),
            Setting::One(_) => anyhow::bail!("{key} must be a text, a number, true, false or a list of texts"),
        }
    }
    Ok(arguments)
}

/// Reads the scheduler's profiles.
fn scheduler_config(path: &str) -> Result<scheduler::profile::Profiles, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    scheduler::profile::Profiles::read(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_servers_address_is_checked_before_it_is_used() {
        for good in ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443/", "https://server.example.org"] {
            assert_eq!(server_address(good).as_deref(), Ok(good));
        }
        for bad in ["10.96.1.10:6443", "http://192.0.2.1:6443", "https://", "server", "https://a:6443/path", "a b"] {
            assert!(server_address(bad).is_err_and(|e| e.starts_with("it must read https://ADDRESS:6443")), "{bad}");
        }
        assert!(timeout("1s").is_err() && timeout("50s").is_err() && timeout("30s").is_ok());
    }

    #[test]
    fn config_flag_is_found_in_both_forms() {
        let find = |line: &str| config_flag(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find("timonel server --config a.yaml"), Some("a.yaml".into()));
        assert_eq!(find("timonel server --config=b.yaml"), Some("b.yaml".into()));
        assert_eq!(find("timonel server"), None);
    }

    #[test]
    fn file_settings_become_flags() {
        let got = from_file("https-listen-port: 7000\ndisable: [dns, ingress]\ndisable-agent: true\n").unwrap();
        assert_eq!(got, ["--disable=dns", "--disable=ingress", "--disable-agent", "--https-listen-port=7000"]);
        assert!(from_file("a: {b: c}").is_err());
    }
}
