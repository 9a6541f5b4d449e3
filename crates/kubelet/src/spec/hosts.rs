//! The hosts files of pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// The most that is taken of the machine's `/etc/hosts`, in bytes.
pub const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// A pod's `/etc/hosts`, in upstream's words: people's scripts look for the first line. A pod in the machine's network has the machine's own
/// names.
pub fn hosts(of_machine: Option<&str>, ips: &[IpAddr], name: &str, full: Option<&str>, spec: &PodSpec) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
