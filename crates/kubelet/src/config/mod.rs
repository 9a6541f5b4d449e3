//! Configuration of the node agent, upstream's `KubeletConfiguration`.

mod reserved;
mod sysctls;
mod thresholds;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use apimachinery::ExponentialBackoff;
use ipnet::IpNet;

pub use reserved::{BadReservation, Reserved};
pub use sysctls::{AllowedSysctls, NotNamespaced, dotted as dotted_sysctl};
pub use thresholds::{EvictionSignal, MalformedThreshold, MetThreshold, Observation, Thresholds};

/// The port of the kubelet's own API, upstream's default for `--port`.
pub const PORT: u16 = 10250;

/// The most pods that one node is known to run well.
const MAX_PODS: u32 = 310;

/// The folder of CSI drivers' registration sockets below `kubelet_dir`, by upstream's name.
const PLUGINS_REGISTRY: &str = "plugins_registry";

/// What the node agent has to know about its node and its cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the Node object.
    pub node_name: String,
    /// The node's addresses: one of each family that both the cluster and the node have. The node is known by the first.
    pub node_ips: Vec<IpAddr>,
    /// State that survives a reboot: manifests, logs, volumes, images.
    pub data_dir: PathBuf,
    /// State that ends with the machine: namespaces, sockets, mounts.
    pub run_dir: PathBuf,
    /// The folder where CSI drivers expect what upstream's kubelet has in `/var/lib/kubelet`.
    pub kubelet_dir: PathBuf,
    /// The folder with the manifests of static pods (upstream's `staticPodPath`).
    pub static_pods: PathBuf,
    /// The cgroup of all pods, below the root of each cgroup hierarchy (upstream's `cgroupRoot`).
    pub cgroup_root: String,
    /// The node's resolver configuration (upstream's `resolvConf`).
    pub resolv_conf: PathBuf,
    /// The most pods that the node takes (upstream's `maxPods`): no more than it has addresses for.
    pub max_pods: u32,
    /// The address of the cluster's DNS service.
    pub cluster_dns: IpAddr,
    /// The domain of the cluster's DNS names, such as `cluster.local`.
    pub cluster_domain: String,
    /// Labels for the Node object.
    pub labels: Vec<(String, String)>,
    /// Taints for a new Node object: key, value, effect (upstream's `registerWithTaints`).
    pub taints: Vec<(String, String, String)>,
    /// Whether this machine runs the control plane, too.
    pub is_server: bool,
    /// Whether the node takes VolumeSnapshots of its `local-path` volumes.
    pub snapshots: bool,
    /// Hard eviction thresholds.
    pub eviction_hard: Thresholds,
    /// Resources that are kept from pods (upstream's `kubeReserved` and `systemReserved` together).
    pub reserved: Reserved,
    /// The most processes and threads of one pod (upstream's `podPidsLimit`); zero sets no limit.
    pub pod_max_pids: i64,
    /// Back-off between restarts of a container.
    pub restart_backoff: Backoff,
    /// Whether containers without a seccomp profile get the runtime's (upstream's `seccompDefault`).
    pub seccomp_default: bool,
    /// Kernel parameters that pods may set beside the safe ones (upstream's `allowedUnsafeSysctls`).
    pub allowed_unsafe_sysctls: AllowedSysctls,
    /// Folders with specifications of CDI devices, in the order of their precedence, the highest last.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Which images are verified with a pod's pull secrets although they are present.
    pub image_verification: CredentialVerification,
    /// Grace periods at graceful node shutdown.
    pub shutdown_grace: ShutdownGrace,
}

impl Config {
    /// The address that the node is known by.
    pub fn node_ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }

    /// The folder with one folder for each pod, which survives a reboot.
    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// The folder of `local-path` volumes.
    pub fn storage_dir(&self) -> PathBuf {
        self.data_dir.join("storage")
    }

    /// The folder where CSI drivers put their registration sockets.
    pub fn registry_dir(&self) -> PathBuf {
        self.kubelet_dir.join(PLUGINS_REGISTRY)
    }

    /// The folder where CSI drivers have their own folders and stage volumes.
    pub fn plugins_dir(&self) -> PathBuf {
        self.kubelet_dir.join("plugins")
    }

    /// The folder of device plugins' sockets and of the kubelet's, by upstream's name.
    pub fn device_plugins_dir(&self) -> PathBuf {
        self.kubelet_dir.join("device-plugins")
    }

    /// The socket of the pod resources API, by upstream's name.
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.kubelet_dir.join("pod-resources").join("kubelet.sock")
    }

    /// The folder where CSI drivers publish the volumes of a pod.
    pub fn published_dir(&self, uid: &str) -> PathBuf {
        self.kubelet_dir.join("pods").join(uid)
    }

    /// The folder of seccomp profiles of type `Localhost`.
    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }
}

/// How many pods a node with these ranges (`podCIDRs`) has addresses for, bounded by what a node is known to run well.
pub fn max_pods(ranges: &[IpNet]) -> u32 {
    // The first address is the node's own; the network's and the last address aren't used.
    let capacity = |range: &IpNet| match range.max_prefix_len() - range.prefix_len() {
        bits @ 0..=16 => (1u32 << bits).saturating_sub(3),
        _ => MAX_PODS,
    };
    ranges.iter().map(capacity).min().unwrap_or(MAX_PODS).min(MAX_PODS)
}

/// Back-off between restarts of a container that ends again and again (`CrashLoopBackOff`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait before the second restart.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after so many earlier failures: zero at first, then `initial`, doubled with each failure up to `max`.
    pub fn after(self, failures: u32) -> Duration {
        ExponentialBackoff::new(self.initial, self.max).after(failures)
    }
}

/// Parses a whole number of seconds with its unit: `10s`.
pub fn seconds(text: &str) -> Option<Duration> {
    Some(Duration::from_secs(text.strip_suffix('s')?.parse().ok()?))
}

/// A value of `--restart-backoff` that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBackoff {
    /// It isn't two times.
    #[error("it wants two times, as in 1s,60s")]
    NotTwo,
    /// The first wait exceeds the longest one.
    #[error("the first wait {initial} is longer than the longest, {max}")]
    Reversed {
        /// The first wait as it was given.
        initial: String,
        /// The longest wait as it was given.
        max: String,
    },
    /// One of the two isn't a number of seconds.
    #[error("{0:?} has a time that isn't a number of seconds, as 10s")]
    Malformed(String),
}

impl FromStr for Backoff {
    type Err = BadBackoff;

    /// Parses the first wait and the longest one: `1s,60s`.
    fn from_str(text: &str) -> Result<Self, BadBackoff> {
        let (initial, max) = text.split_once(',').ok_or(BadBackoff::NotTwo)?;
        match (seconds(initial.trim()), seconds(max.trim())) {
            (Some(first), Some(longest)) if first <= longest => Ok(Backoff { initial: first, max: longest }),
            (Some(_), Some(_)) => Err(BadBackoff::Reversed { initial: initial.into(), max: max.into() }),
            _ => Err(BadBackoff::Malformed(text.into())),
        }
    }
}

/// Grace periods at graceful node shutdown (KEP-2000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownGrace {
    /// The time for all pods together (upstream's `shutdownGracePeriod`). Zero turns graceful node shutdown off.
    pub total: Duration,
    /// The share of it that is reserved for critical pods (upstream's `shutdownGracePeriodCriticalPods`).
    pub critical_pods: Duration,
}

impl Default for ShutdownGrace {
    fn default() -> Self {
        ShutdownGrace { total: Duration::from_secs(30), critical_pods: Duration::from_secs(10) }
    }
}

/// Which present images are verified with a pod's pull secrets (KEP-2535): upstream's `imagePullCredentialsVerificationPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialVerification {
    /// Every pod may use every image that is present.
    NeverVerify,
    /// Images that no kubelet pulled are for every pod.
    #[default]
    NeverVerifyPreloadedImages,
    /// All images are verified.
    AlwaysVerify,
}

/// A value of `--image-pull-credentials-verification-policy` that names no policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be NeverVerify, NeverVerifyPreloadedImages or AlwaysVerify")]
pub struct UnknownVerification;

impl FromStr for CredentialVerification {
    type Err = UnknownVerification;

    fn from_str(text: &str) -> Result<Self, UnknownVerification> {
        match text {
            "NeverVerify" => Ok(CredentialVerification::NeverVerify),
            "NeverVerifyPreloadedImages" => Ok(CredentialVerification::NeverVerifyPreloadedImages),
            "AlwaysVerify" => Ok(CredentialVerification::AlwaysVerify),
            _ => Err(UnknownVerification),
        }
    }
}

impl fmt::Display for CredentialVerification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CredentialVerification::NeverVerify => "NeverVerify",
            CredentialVerification::NeverVerifyPreloadedImages => "NeverVerifyPreloadedImages",
            CredentialVerification::AlwaysVerify => "AlwaysVerify",
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn a_node_takes_as_many_pods_as_it_has_addresses_for() {
        let of = |text: &str| max_pods(&text.split(',').map(|r| r.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(of("10.42.0.0/24"), 253);
        assert_eq!(of("10.42.0.0/23"), 310);
        assert_eq!(of("10.42.0.0/28,fd42::/64"), 13);
        assert_eq!(of("fd42::/64"), 310);
    }

    #[test]
    fn verification_policies_are_parsed_as_they_are_printed() {
        use CredentialVerification::{AlwaysVerify, NeverVerify, NeverVerifyPreloadedImages};
        for policy in [NeverVerify, NeverVerifyPreloadedImages, AlwaysVerify] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("Sometimes".parse::<CredentialVerification>(), Err(UnknownVerification));
    }

    #[test]
    fn restart_back_off_doubles_up_to_its_longest_wait() {
        let backoff: Backoff = "1s, 5s".parse().unwrap();
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|n| backoff.after(n).as_secs()), [0, 1, 2, 4, 5, 5]);
        for bad in ["1s", "2s,1s", "1,2", "s,s"] {
            assert!(bad.parse::<Backoff>().is_err(), "{bad}");
        }
    }

    /// The configuration of a node with nothing special.
    pub fn config() -> Config {
        Config {
            node_name: "node".into(),
            node_ips: Vec::new(),
            data_dir: "/data".into(),
            run_dir: "/run".into(),
            kubelet_dir: "/kubelet".into(),
            static_pods: "/static".into(),
            cgroup_root: "timonel".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 10,
            cluster_dns: std::net::Ipv4Addr::LOCALHOST.into(),
            cluster_domain: "cluster.local".into(),
            labels: Vec::new(),
            taints: Vec::new(),
            is_server: false,
            snapshots: true,
            eviction_hard: Thresholds::default(),
            reserved: Reserved::default(),
            pod_max_pids: 0,
            restart_backoff: Backoff::default(),
            seccomp_default: false,
            allowed_unsafe_sysctls: AllowedSysctls::default(),
            cdi_spec_dirs: Vec::new(),
            image_verification: CredentialVerification::default(),
            shutdown_grace: ShutdownGrace::default(),
        }
    }
}
