//! What a pod's containers share: namespaces, address, hosts and resolver files, shared memory.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, ResourceExt as _};
use network::cni::Membership;
use runtime::namespaces::Namespaces;
use runtime::{Users, rootfs};
use serde::{Deserialize, Serialize};

use crate::Agent;
use crate::Config;

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
        crate::node::stats::size_of(&self.data)
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
    /// A volume that is a folder on the node's disk and ends with the pod.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }
    /// Where the parts of volumes (`subPath`) of a container are mounted.
    pub fn parts(&self, container: &str) -> PathBuf {
        self.run.join("parts").join(container)
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
    #[serde(default, alias = "ip", deserialize_with = "one_or_many")]
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
    /// The first of the machine's users who stand for the pod's, if it has users of its own.
    #[serde(default)]
    pub first_user: Option<u32>,
    /// Of a network that somebody's plugins make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// What the runtime calls it, where that isn't ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Sandbox {
    /// The pod's users, if they are its own.
    pub fn users(&self, places: &Places) -> Option<Users> {
        self.first_user.map(|first| Users { namespace: places.namespaces().user, first })
    }
}

/// Agents before IPv6 wrote one address, or none.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Written::deserialize(from)? {
        Written::Many(ips) => ips,
        Written::One(ip) => ip.into_iter().collect(),
    })
}

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
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
    if let Some(name) = spec.hostname_override {
        return name;
    }
    let name = spec.hostname.unwrap_or_else(|| pod.name_any());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
}

/// The name that the kernel tells a pod's programs: the whole one where the pod wants that (KEP-1797).
pub fn kernel_name(config: &Config, pod: &Pod) -> io::Result<String> {
    let (name, spec) = (hostname(config, pod), spec(pod));
    let wants_all = spec.set_hostname_as_fqdn == Some(true) && spec.hostname_override.is_none();
    let Some(subdomain) = spec.subdomain.filter(|_| wants_all) else { return Ok(name) };
    let whole = format!("{name}.{subdomain}.{}.svc.{}", pod.namespace().unwrap_or_default(), config.cluster_domain);
    match whole.len() {
        0..=HOST_NAME => Ok(whole),
        length => Err(io::Error::other(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {whole} is too long ({HOST_NAME} characters is the max, {length} characters requested)"
        ))),
    }
}

/// Bytes that the kernel has for a host name (uname(2)).
const HOST_NAME: usize = 64;

impl Agent {
    /// Makes a pod's sandbox, or makes it anew if it isn't whole.
    pub async fn make_sandbox(&self, pod: &Pod, places: &Places, lost: Option<&Sandbox>) -> io::Result<Sandbox> {
        let spec = spec(pod);
        self.check_handler(&spec).await?;
        self.bound_pod(pod)?;
        let sandbox = self.engine.make(self, pod, places, lost).await?;
        self.write_files(pod, &spec, places, &sandbox.ips)?;
        Ok(sandbox)
    }

    /// The handler that the pod's RuntimeClass names (KEP-585); the default's is empty.
    pub async fn handler(&self, spec: &PodSpec) -> io::Result<String> {
        let Some(class) = &spec.runtime_class_name else { return Ok(String::new()) };
        let found = Api::<RuntimeClass>::all(self.client.clone()).get_opt(class).await.map_err(io::Error::other)?;
        found.map(|class| class.handler).ok_or_else(|| io::Error::other(format!("RuntimeClass {class:?} not found")))
    }

    /// Whether who runs the containers can what the pod asks of it.
    async fn check_handler(&self, spec: &PodSpec) -> io::Result<()> {
        let handler = self.handler(spec).await?;
        let abilities = self.engine.abilities();
        let class = spec.runtime_class_name.as_deref().unwrap_or("");
        if let Some(known) = abilities.handlers
            && !handler.is_empty()
            && !known.contains(&handler)
        {
            return Err(io::Error::other(format!(
                "no runtime for {handler:?} is configured: the handler of RuntimeClass {class:?} may be one of {known:?}"
            )));
        }
        if spec.host_users == Some(false) && !abilities.user_namespaces.contains(&handler) {
            return Err(io::Error::other(format!("RuntimeClass handler {handler:?} does not support user namespaces")));
        }
        Ok(())
    }

    fn write_files(&self, pod: &Pod, spec: &PodSpec, places: &Places, ips: &[IpAddr]) -> io::Result<()> {
        let etc = places.data.join("etc");
        std::fs::create_dir_all(&etc)?;
        let name = hostname(&self.config, pod);
        let domain = &self.config.cluster_domain;
        let namespace = pod.namespace().unwrap_or_default();
        let of_machine = (spec.host_network == Some(true)).then(|| {
            let file = std::fs::File::open("/etc/hosts");
            let read = file.and_then(|file| bounded::beginning(file, MAX_HOSTS_BYTES));
            read.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
        });
        let full = spec.subdomain.as_ref().map(|s| format!("{name}.{s}.{namespace}.svc.{domain}"));
        let hosts = hosts(of_machine.as_deref(), ips, &name, full.as_deref(), spec);
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("hostname"), format!("{name}\n"))?;
        std::fs::write(etc.join("resolv.conf"), self.resolver(spec, &namespace).text())
    }

    pub fn resolver(&self, spec: &PodSpec, namespace: &str) -> Resolver {
        let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
        let of_host = policy == "Default" || (policy == "ClusterFirst" && spec.host_network == Some(true));
        let dns = self.config.cluster_dns;
        let of_machine = || Resolver::read(&bounded::text(&self.config.resolv_conf, bounded::OWN).unwrap_or_default());
        let mut resolver = match policy {
            _ if of_host && spec.host_network == Some(true) => of_machine(),
            _ if of_host => of_machine().reachable(dns),
            "None" => Resolver::default(),
            _ => {
                let domain = &self.config.cluster_domain;
                let mut resolver = Resolver {
                    searches: vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()],
                    servers: vec![dns.to_string()],
                    options: vec!["ndots:5".into()],
                };
                // As upstream: names of the machine's own domains are found, too.
                let domains = of_machine().searches.into_iter().filter(|domain| domain != ".").collect();
                resolver.add(domains, Vec::new(), Vec::new());
                resolver
            }
        };
        let custom = spec.dns_config.clone().unwrap_or_default();
        let own = custom.options.into_iter().flatten().map(|option| {
            let name = option.name.unwrap_or_default();
            option.value.map_or(name.clone(), |value| format!("{name}:{value}"))
        });
        resolver.add(custom.searches.unwrap_or_default(), custom.nameservers.unwrap_or_default(), own.collect());
        resolver
    }

    /// Removes all that a pod had on this node except, with `keep_logs`, its logs.
    pub async fn remove_sandbox(&self, uid: &str, places: &Places, sandbox: Option<&Sandbox>, keep_logs: bool) {
        self.engine.remove(self, uid, places, sandbox).await;
        self.local.remove(uid);
        self.users.release(uid);
        let (places, cgroup_root) = (places.clone(), format!("/{}", self.config.cgroup_root.trim_matches('/')));
        let uid = uid.to_string();
        let _ = tokio::task::spawn_blocking(move || {
            for qos in ["", "/burstable", "/besteffort"] {
                let cgroup = format!("{cgroup_root}{qos}/pod{uid}");
                runtime::cgroup::destroy(&cgroup);
            }
            if let Err(error) = rootfs::unmount_below(&[&places.data, &places.run]) {
                tracing::error!(%uid, %error, "failed to clean up after a pod");
                return;
            }
            places.namespaces().remove();
            let _ = runtime::remove_tree(&places.run);
            if keep_logs {
                for part in ["containers", "volumes", "etc"] {
                    let _ = runtime::remove_tree(&places.data.join(part));
                }
            } else {
                let _ = runtime::remove_tree(&places.data);
            }
        })
        .await;
    }
}

/// The most that is taken of the machine's `/etc/hosts`, in bytes.
const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// A pod's `/etc/hosts`, in upstream's words: people's scripts look for the first line. A pod in the machine's network has the machine's own
/// names.
fn hosts(of_machine: Option<&str>, ips: &[IpAddr], name: &str, full: Option<&str>, spec: &PodSpec) -> String {
    let mut hosts = match of_machine {
        Some(text) => format!("# Kubernetes-managed hosts file (host network).\n{text}"),
        None => {
            let fixed = [
                ("127.0.0.1", "localhost"),
                ("::1", "localhost ip6-localhost ip6-loopback"),
                ("fe00::0", "ip6-localnet"),
                ("fe00::0", "ip6-mcastprefix"),
                ("fe00::1", "ip6-allnodes"),
                ("fe00::2", "ip6-allrouters"),
            ];
            let mut hosts = String::from("# Kubernetes-managed hosts file.\n");
            fixed.iter().for_each(|(ip, names)| hosts.push_str(&format!("{ip}\t{names}\n")));
            let full = full.map(|full| format!("{full}\t")).unwrap_or_default();
            ips.iter().for_each(|ip| hosts.push_str(&format!("{ip}\t{full}{name}\n")));
            hosts
        }
    };
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        hosts.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        hosts.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
    }
    hosts
}

/// What a resolv.conf says (resolv.conf(5)).
#[derive(Debug, Default, PartialEq)]
pub struct Resolver {
    pub searches: Vec<String>,
    pub servers: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let key = words.next().unwrap_or("");
            let words = words.map(String::from);
            match key {
                // The last one counts.
                "search" => resolver.searches = words.collect(),
                "nameserver" => resolver.servers.extend(words.take(1)),
                "options" => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    /// For a pod, in whose network the machine's loopback isn't (systemd-resolved and dnsmasq listen there): the cluster's DNS, which asks
    /// the machine's resolvers, stands for it.
    fn reachable(mut self, dns: IpAddr) -> Self {
        let is_loopback = |server: &String| server.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if self.servers.iter().any(is_loopback) {
            self.servers.retain(|server| !is_loopback(server));
            self.servers.insert(0, dns.to_string());
        }
        self
    }

    /// Adds what isn't there; an option takes the place of one with the same name.
    fn add(&mut self, searches: Vec<String>, servers: Vec<String>, options: Vec<String>) {
        fn append(list: &mut Vec<String>, more: Vec<String>) {
            for item in more {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
        append(&mut self.searches, searches);
        append(&mut self.servers, servers);
        let name = |option: &str| option.split(':').next().unwrap_or("").to_string();
        for option in options {
            match self.options.iter_mut().find(|old| name(old) == name(&option)) {
                Some(old) => *old = option,
                None => self.options.push(option),
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (key, words) in [("search", &self.searches), ("options", &self.options)] {
            if key == "options" {
                self.servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
            }
            if !words.is_empty() {
                text.push_str(&format!("{key} {}\n", words.join(" ")));
            }
        }
        text
    }
}

/// Where a file or folder of a pod's own is, for its mounts.
pub fn etc(places: &Places, file: &str) -> PathBuf {
    Path::new(&places.data).join("etc").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_agents_wrote_is_read() {
        let read = |text: &str| serde_json::from_str::<Sandbox>(text).unwrap().ips;
        let one: IpAddr = "10.42.0.2".parse().unwrap();
        assert_eq!(read(r#"{"ip": "10.42.0.2", "host_network": false}"#), [one]);
        assert!(read(r#"{"ip": null, "host_network": false}"#).is_empty());
        let two = Sandbox { ips: vec![one, "fd42::2".parse().unwrap()], ..Sandbox::default() };
        assert_eq!(read(&serde_json::to_string(&two).unwrap()), two.ips);
    }

    #[test]
    fn resolvers_are_merged() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let mut resolver =
            Resolver::read("# c\nsearch old\nsearch a b\nnameserver 192.0.2.1\noptions ndots:5 rotate\n");
        resolver.add(words("b c"), words("192.0.2.1 192.0.2.2"), words("ndots:2 edns0"));
        let wanted = "search a b c\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 rotate edns0\n";
        assert_eq!(resolver.text(), wanted);
        assert_eq!(Resolver::default().text(), "");
        let dns = "10.43.0.10".parse().unwrap();
        let stub = Resolver::read("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch corp.example\n");
        let wanted = "search corp.example\nnameserver 10.43.0.10\nnameserver 192.0.2.1\n";
        assert_eq!(stub.reachable(dns).text(), wanted);
    }

    #[test]
    fn hosts_are_written_in_upstreams_words() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({"containers": [],
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["foo", "bar"]}]}))
        .unwrap();
        let ips = ["10.42.0.2".parse().unwrap()];
        let plain = hosts(None, &ips, "web", Some("web.sub.default.svc.cluster.local"), &PodSpec::default());
        assert!(plain.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{plain}");
        assert!(plain.ends_with("\n10.42.0.2\tweb.sub.default.svc.cluster.local\tweb\n"), "{plain}");
        let host = hosts(Some("127.0.0.1 localhost\n127.0.1.1 node\n"), &ips, "node", None, &spec);
        let want = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n127.0.1.1 node\n\n\
                    # Entries added by HostAliases.\n192.0.2.7\tfoo\tbar\n";
        assert_eq!(host, want);
    }
}
