//! The command line. Flags and their defaults are the contract with users.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apimachinery::AddressRanges;
use clap::{Args, Parser, Subcommand};

use crate::memory_limit::MemoryLimit;
use crate::node_tools;

/// The default of `--cluster-cidr` and, below, of `--service-cidr`.
pub const DEFAULT_CLUSTER_CIDR: &str = "10.42.0.0/16";
pub const DEFAULT_SERVICE_CIDR: &str = "10.43.0.0/16";

/// A whole Kubernetes in one binary
#[derive(Debug, Parser)]
#[command(name = "timonel", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server: control plane and, unless disabled, an agent
    Server(Box<ServerArgs>),
    /// Run an agent: join this machine to a server
    Agent(Box<AgentArgs>),
    /// Check that this machine has what timonel needs, and say how to fix what is missing
    Check(DataArgs),
    /// Print the token that other machines need to join
    Token(DataArgs),
    /// Import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Stop timonel and its pods and remove both from this machine
    Uninstall(UninstallArgs),
    /// Say why things don't run: what is wrong first, what follows from it, and the next command to type
    Why(Box<why::WhyArgs>),
    /// Show the cluster at a glance: nodes, pods that aren't ready, volumes, certificates, backups, last warnings
    Status(why::ClusterArgs),
    /// List the pods of this node from its own state, also while its API is away
    Pods(node_tools::PodsArgs),
    /// Print the log of a container of this node, without the API
    Logs(node_tools::LogsArgs),
    /// Run a command in a container of this node, without the API
    Exec(node_tools::ExecArgs),
    /// List the images of this node
    Images(DataArgs),
    /// Run kubectl (also when this program is called kubectl)
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Why the value of a flag is refused.
#[derive(Debug, thiserror::Error)]
enum ArgumentError {
    #[error("{0:?} is no number of seconds, as 30s")]
    Seconds(String),
    #[error("it must be between 2s and 40s")]
    Timeout,
    /// Holds what follows the scheme.
    #[error("it must read https://ADDRESS:6443, as in https://{0}")]
    ServerAddress(String),
    #[error("it must be two ports, the lower one first, as in 30000-32767")]
    PortRange,
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    #[error(transparent)]
    Profile(#[from] scheduler::profile::ProfileError),
}

/// `30s`
fn seconds(text: &str) -> Result<Duration, ArgumentError> {
    kubelet::seconds(text).ok_or_else(|| ArgumentError::Seconds(text.into()))
}

/// The default of `--data-dir`.
pub const DATA_DIR: &str = "/var/lib/timonel";

/// The folder in which storage drivers look for the kubelet. Their manifests name `/var/lib/kubelet`; clusters
/// beside the usual one
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
    /// Data folder: database, certificates, images and volumes
    #[arg(long, default_value = DATA_DIR, env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Runtime folder: sockets, pinned namespaces and other state that a reboot clears
    #[arg(long, default_value = "/run/timonel", env = "TIMONEL_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Parent cgroup of all pods, as a path below the cgroup root
    #[arg(long, default_value = "timonel")]
    pub cgroup_root: String,
    /// Kubelet folder that CSI drivers use, if the cluster was started with --kubelet-dir
    #[arg(long, env = "TIMONEL_KUBELET_DIR")]
    pub kubelet_dir: Option<PathBuf>,
    /// Keep the data folder: database, volumes and images
    #[arg(long)]
    pub keep_data: bool,
    /// Don't ask for confirmation
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import image archives (docker save or OCI layout)
    Import {
        archives: Vec<PathBuf>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List images
    Ls(DataArgs),
    /// Write the built-in image timonel.local/hello:1 to the output, as an archive for other container runtimes
    BuiltIn,
}

/// Flags that server and agent share.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Data folder: database, certificates, images and volumes
    #[arg(long, default_value = DATA_DIR, env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Runtime folder: sockets, pinned namespaces and other state that a reboot clears
    #[arg(long, default_value = "/run/timonel", env = "TIMONEL_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Name of this node [default: the host name]
    #[arg(long, env = "TIMONEL_NODE_NAME")]
    pub node_name: Option<String>,
    /// IP address of this node, or one of each family (comma-separated) [default: the address of the default route]
    #[arg(long, env = "TIMONEL_NODE_IP", value_name = "ADDRESS", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Label to set on this node, as key=value (may be repeated)
    #[arg(long = "node-label", value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
    /// Taint to set on this node, as key=value:effect (may be repeated)
    #[arg(long = "node-taint", value_name = "KEY=VALUE:EFFECT")]
    pub node_taints: Vec<String>,
    /// File with mirrors and credentials of image registries
    #[arg(long, default_value = "/etc/timonel/registries.yaml")]
    pub private_registry: PathBuf,
    /// Kubelet folder that CSI drivers use [default: /var/lib/kubelet, or "kubelet" in a --data-dir other than the
    /// default]
    #[arg(long, env = "TIMONEL_KUBELET_DIR")]
    pub kubelet_dir: Option<PathBuf>,
    /// Folders with specifications of CDI devices, later ones take precedence (may be repeated)
    #[arg(long = "cdi-spec-dir", value_name = "FOLDER", default_values = ["/etc/cdi", "/var/run/cdi"])]
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Folder of static pod manifests [default: "agent/pod-manifests" in the data folder]
    #[arg(long, value_name = "FOLDER")]
    pub pod_manifest_path: Option<PathBuf>,
    /// File with the upstream name servers: for names outside of the cluster and for pods with dnsPolicy Default
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// CRI socket of another container runtime (containerd, CRI-O) that runs this node's pods, as in
    /// unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "ENDPOINT", env = "TIMONEL_CONTAINER_RUNTIME_ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// Folder of CNI configurations; with it, CNI plugins set up the pod network instead of timonel
    #[arg(long, value_name = "FOLDER")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Folders of CNI plugin binaries, searched in this order (may be repeated)
    #[arg(long = "cni-bin-dir", value_name = "FOLDER", default_values = ["/opt/cni/bin", "/usr/lib/cni"], requires = "cni_conf_dir")]
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Time that pods have to terminate when the machine shuts down, critical pods included; 0s turns graceful
    /// node shutdown off
    #[arg(long, default_value = "30s", value_parser = seconds)]
    pub shutdown_grace_period: Duration,
    /// Share of --shutdown-grace-period that is reserved for critical pods
    #[arg(long, default_value = "10s", value_parser = seconds)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Parent cgroup of all pods, as a path below the cgroup root
    #[arg(long, default_value = "timonel")]
    pub cgroup_root: String,
    /// Hard eviction thresholds: pods are evicted while a signal is below its threshold
    #[arg(long, default_value = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%")]
    pub eviction_hard: kubelet::Thresholds,
    /// Use the seccomp profile RuntimeDefault for containers that name none
    #[arg(long)]
    pub seccomp_default: bool,
    /// Comma-separated unsafe sysctls, or patterns that end in *, that pods may set: of kernel.shm*, kernel.msg*, kernel.sem,
    /// fs.mqueue.* and net.*
    #[arg(long, value_name = "SYSCTLS", default_value = "", hide_default_value = true)]
    pub allowed_unsafe_sysctls: kubelet::AllowedSysctls,
    /// Which images that are here pods get only if they may pull them: NeverVerify, NeverVerifyPreloadedImages (those that were
    /// pulled) or AlwaysVerify
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub image_pull_credentials_verification_policy: kubelet::CredentialVerification,
    /// Resources reserved for timonel itself (cpu, memory, ephemeral-storage, pid), as in cpu=200m,memory=512Mi
    #[arg(long, value_name = "RESOURCES", default_value = "", hide_default_value = true)]
    pub kube_reserved: kubelet::Reserved,
    /// Resources reserved for the rest of this machine, as in cpu=500m,memory=1Gi,pid=1000
    #[arg(long, value_name = "RESOURCES", default_value = "", hide_default_value = true)]
    pub system_reserved: kubelet::Reserved,
    /// Maximum number of processes and threads in a pod; -1 for no limit
    #[arg(long, value_name = "COUNT", default_value = "-1", allow_negative_numbers = true)]
    pub pod_max_pids: i64,
    /// Initial and maximum CrashLoopBackOff delay (upstream: 10s,300s)
    #[arg(long, value_name = "FIRST,LONGEST", default_value = "1s,60s")]
    pub restart_backoff: kubelet::Backoff,
    /// Memory limit of the control plane's process: bytes, an amount as 2Gi, or 60% of the machine's memory; 0 for
    /// no limit.
    /// The process is restarted when it exceeds the limit
    #[arg(long, value_name = "AMOUNT", default_value = "75%")]
    pub control_plane_memory_max: MemoryLimit,
    /// Memory limit of the node's process (kubelet, images, service proxy, DNS and ingress)
    #[arg(long, value_name = "AMOUNT", default_value = "50%")]
    pub node_memory_max: MemoryLimit,
    /// Log level: error, warn, info, debug, trace, or a filter of the Rust crate tracing
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
    /// Configuration file in YAML with these flags as keys; flags take precedence
    #[arg(long, default_value = crate::config_file::DEFAULT_CONFIG_FILE)]
    pub config: PathBuf,
    /// File to write the administrator's kubeconfig to
    #[arg(long, default_value = "/etc/timonel/kubeconfig.yaml")]
    pub write_kubeconfig: PathBuf,
    /// Port of the API server
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address that the API server listens on [default: all addresses]
    #[arg(long)]
    pub bind_address: Option<IpAddr>,
    /// Additional host name or IP address for the API server's certificate (may be repeated)
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// CIDR of pod addresses, or one of each family (comma-separated), as in 10.42.0.0/16,fd42::/56
    #[arg(long, default_value = DEFAULT_CLUSTER_CIDR)]
    pub cluster_cidr: AddressRanges,
    /// Prefix length of each node's IPv4 podCIDR: 24 has addresses for 253 pods, 23 for 310
    #[arg(long, default_value_t = 24, value_name = "BITS", value_parser = clap::value_parser!(u8).range(16..=28))]
    pub node_cidr_mask_size: u8,
    /// CIDR of service addresses, or one of each family (comma-separated), as in 10.43.0.0/16,fd43::/112
    #[arg(long, default_value = DEFAULT_SERVICE_CIDR)]
    pub service_cidr: AddressRanges,
    /// Range of ports for services of type NodePort
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Address of the cluster DNS [default: the tenth service address]
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Data store: sqlite
    #[arg(long, default_value = "sqlite")]
    pub datastore_endpoint: String,
    /// File with the EncryptionConfiguration: which resources are encrypted at rest, and with which keys
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Additional admission plugins: ExtendedResourceToleration, OwnerReferencesPermissionEnforcement (comma-separated)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<apiserver::Plugin>,
    /// CIDRs that services may use in externalIPs [default: none] (comma-separated or repeated)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub external_ips_allow: Vec<ipnet::IpNet>,
    /// File with the KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE", value_parser = scheduler_config)]
    pub scheduler_config: Option<scheduler::profile::Profiles>,
    /// Components to leave out (comma-separated)
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = ["dns", "ingress", "servicelb", "local-storage", "metrics", "snapshots"])]
    pub disable: Vec<String>,
    /// Run the control plane only: no pods on this machine
    #[arg(long)]
    pub disable_agent: bool,
    /// Secret part of the join token [default: random]
    #[arg(long, env = "TIMONEL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// The audit log's flags.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// File with the audit policy (Policy of audit.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File of the audit log, - for standard output
    #[arg(long, value_name = "FILE", default_value = "/var/log/timonel/audit.log")]
    pub audit_log_path: String,
    /// Size in MB at which the audit log is rotated, 0 for never
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Number of rotated audit logs to keep, 0 for all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// Days to keep rotated audit logs, 0 for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u64,
}

#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// URL of the server, as in https://192.0.2.1:6443
    #[arg(long, env = "TIMONEL_URL", value_parser = server_address)]
    pub server: String,
    /// Time without an answer after which the connection to the server is replaced
    #[arg(long, default_value = "30s", value_parser = timeout)]
    pub server_timeout: Duration,
    /// Join token of the server (`timonel token` prints it): K10…::server:…
    #[arg(long, env = "TIMONEL_TOKEN", hide_env_values = true)]
    pub token: String,
}

fn server_address(text: &str) -> Result<String, ArgumentError> {
    let example = |_| ArgumentError::ServerAddress(text.rsplit("//").next().unwrap_or(text).into());
    crate::transport::address(text).map(|_| text.into()).map_err(example)
}

/// More than a moment, and less than the time after which a node counts as lost.
fn timeout(text: &str) -> Result<Duration, ArgumentError> {
    let time = seconds(text)?;
    if (2..=40).contains(&time.as_secs()) { Ok(time) } else { Err(ArgumentError::Timeout) }
}

fn port_range(text: &str) -> Result<(u16, u16), ArgumentError> {
    let parse = || -> Option<(u16, u16)> {
        let (first, last) = text.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    match parse() {
        Some((first, last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err(ArgumentError::PortRange),
    }
}

/// Reads the scheduler's profiles.
fn scheduler_config(path: &str) -> Result<scheduler::profile::Profiles, ArgumentError> {
    let text = bounded::text(path, bounded::MAX_OWN_FILE_BYTES)?;
    Ok(scheduler::profile::Profiles::read(&text)?)
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
            assert_eq!(server_address(good).ok().as_deref(), Some(good));
        }
        for bad in ["10.96.1.10:6443", "http://192.0.2.1:6443", "https://", "server", "https://a:6443/path", "a b"] {
            assert!(
                server_address(bad).is_err_and(|e| e.to_string().starts_with("it must read https://ADDRESS:6443")),
                "{bad}"
            );
        }
        assert!(timeout("1s").is_err() && timeout("50s").is_err() && timeout("30s").is_ok());
    }
}
