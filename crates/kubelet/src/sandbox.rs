//! What a pod's containers share: namespaces, address, hosts and resolver files, shared memory.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use nix::mount::{MsFlags, mount};
use runtime::namespaces::Namespaces;
use runtime::{ShimClient, rootfs};
use serde::{Deserialize, Serialize};

use crate::{Agent, Config};

/// The folders and files of a pod on this node.
#[derive(Debug, Clone)]
pub struct Places {
    /// Survives a reboot: state, logs, volumes.
    pub data: PathBuf,
    /// Ends with the machine: namespaces, sockets.
    pub run: PathBuf,
}

impl Places {
    pub fn of(config: &Config, uid: &str) -> Self {
        Places { data: config.pods_dir().join(uid), run: config.run_dir.join("pods").join(uid) }
    }
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::in_folder(&self.run.join("ns"))
    }
    /// Bytes on disk: logs, volumes of its own, and what containers wrote.
    pub fn disk_use(&self) -> u64 {
        crate::stats::size_of(&self.data)
    }
    pub fn shm(&self) -> PathBuf {
        self.run.join("shm")
    }
    pub fn log(&self, container: &str, attempt: i32) -> PathBuf {
        self.data.join("logs").join(container).join(format!("{attempt}.log"))
    }
    /// The OCI bundle of a container and the place of its root: of no use after a reboot.
    pub fn container(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }
    /// What a container writes to its root.
    pub fn writable(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }
}

/// What is kept of a sandbox across restarts of the agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's addresses, that of the cluster's own family first.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// The name of a pod's bridge port: short, and the same for the same pod.
fn port_name(uid: &str) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
    format!("tp{hex}")
}

pub fn cgroup(config: &Config, pod: &Pod) -> String {
    let qos = match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Burstable") => "burstable/",
        Some("BestEffort") => "besteffort/",
        _ => "",
    };
    format!("/{}/{qos}pod{}", config.cgroup_root.trim_matches('/'), pod.uid().unwrap_or_default())
}

pub fn hostname(config: &Config, pod: &Pod) -> String {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return config.node_name.clone();
    }
    let name = spec.hostname.unwrap_or_else(|| pod.name_any());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
}

impl Agent {
    /// Makes a pod's sandbox, or takes up the one that is there.
    pub async fn ensure_sandbox(&self, pod: &Pod, places: &Places, present: Option<Sandbox>) -> io::Result<Sandbox> {
        let spec = spec(pod);
        let host_network = spec.host_network == Some(true);
        let namespaces = places.namespaces();
        if let Some(sandbox) = present.filter(|_| namespaces.exist()) {
            return Ok(sandbox);
        }
        let (name, made) = (hostname(&self.config, pod), namespaces.clone());
        tokio::task::spawn_blocking(move || made.create(&name, host_network)).await.map_err(io::Error::other)??;
        let shm = places.shm();
        std::fs::create_dir_all(&shm)?;
        if !rootfs::is_mounted(&shm) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))?;
        }
        let ips = if host_network {
            self.config.node_ips.clone()
        } else {
            let addresses = self.addresses.allocate().map_err(io::Error::other)?;
            let port = port_name(&pod.uid().unwrap_or_default());
            if let Err(error) = self.bridge.attach(&namespaces.net, &port, &addresses).await {
                self.addresses.release(&addresses);
                return Err(io::Error::other(error));
            }
            addresses
        };
        self.write_files(pod, &spec, places, &ips)?;
        Ok(Sandbox { ips, host_network })
    }

    fn write_files(&self, pod: &Pod, spec: &PodSpec, places: &Places, ips: &[IpAddr]) -> io::Result<()> {
        let etc = places.data.join("etc");
        std::fs::create_dir_all(&etc)?;
        let name = hostname(&self.config, pod);
        let domain = &self.config.cluster_domain;
        let namespace = pod.namespace().unwrap_or_default();
        let mut hosts =
            String::from("# Managed by timonel.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let full = spec.subdomain.as_ref().map(|s| format!("{name}.{s}.{namespace}.svc.{domain}\t"));
        let full = full.unwrap_or_default();
        for ip in ips {
            hosts.push_str(&format!("{ip}\t{full}{name}\n"));
        }
        for alias in spec.host_aliases.iter().flatten() {
            hosts.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
        }
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{name}\n"))?;
        std::fs::write(etc.join("resolv.conf"), self.resolv_conf(spec, &namespace))
    }

    fn resolv_conf(&self, spec: &PodSpec, namespace: &str) -> String {
        let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
        let of_host = policy == "Default" || (policy == "ClusterFirst" && spec.host_network == Some(true));
        let mut text = String::new();
        let custom = spec.dns_config.clone().unwrap_or_default();
        if of_host {
            text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        } else if policy != "None" {
            let domain = &self.config.cluster_domain;
            let mut search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            search.extend(custom.searches.iter().flatten().cloned());
            text = format!("search {}\nnameserver {}\noptions ndots:5\n", search.join(" "), self.config.cluster_dns);
        } else if let Some(search) = custom.searches.as_ref().filter(|s| !s.is_empty()) {
            text = format!("search {}\n", search.join(" "));
        }
        for server in custom.nameservers.iter().flatten() {
            text.push_str(&format!("nameserver {server}\n"));
        }
        for option in custom.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            match &option.value {
                Some(value) => text.push_str(&format!("options {name}:{value}\n")),
                None => text.push_str(&format!("options {name}\n")),
            }
        }
        text
    }

    /// Removes all that a pod had on this node except, with `keep_logs`, its logs.
    pub async fn remove_sandbox(&self, uid: &str, places: &Places, sandbox: Option<&Sandbox>, keep_logs: bool) {
        let _ = ShimClient::at(&places.run).quit().await;
        if let Err(error) = self.bridge.detach(&port_name(uid)).await {
            tracing::warn!(%error, "a pod's interface can't be removed");
        }
        if let Some(sandbox) = sandbox.filter(|s| !s.host_network) {
            self.addresses.release(&sandbox.ips);
        }
        let (places, cgroup_root) = (places.clone(), format!("/{}", self.config.cgroup_root.trim_matches('/')));
        let uid = uid.to_string();
        let _ = tokio::task::spawn_blocking(move || {
            for qos in ["", "/burstable", "/besteffort"] {
                let cgroup = format!("{cgroup_root}{qos}/pod{uid}");
                runtime::cgroup::destroy(&cgroup);
            }
            rootfs::unmount_below(&[&places.data, &places.run]);
            places.namespaces().remove();
            let _ = std::fs::remove_dir_all(&places.run);
            if keep_logs {
                for part in ["containers", "volumes", "etc"] {
                    let _ = std::fs::remove_dir_all(places.data.join(part));
                }
            } else {
                let _ = std::fs::remove_dir_all(&places.data);
            }
        })
        .await;
    }
}

/// Where a file or folder of a pod's own is, for its mounts.
pub fn etc(places: &Places, file: &str) -> PathBuf {
    Path::new(&places.data).join("etc").join(file)
}
