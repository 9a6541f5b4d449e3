//! Firewalls that other programs keep on this machine: nothing of theirs is touched; who runs one is told what to allow.

use std::process::Command;

use apimachinery::AddressRanges;
use ipnet::IpNet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    Firewalld,
    Ufw,
}

/// What the cluster needs to let through on this machine.
#[derive(Debug, Clone)]
pub struct Needs {
    pub pods: AddressRanges,
    pub services: AddressRanges,
    pub is_server: bool,
}

/// Port and protocol: what every node has open, and the server besides.
const OF_NODES: [(&str, &str); 5] =
    [("10250", "tcp"), ("8472", "udp"), ("80", "tcp"), ("443", "tcp"), ("30000-32767", "tcp")];
const OF_SERVERS: [(&str, &str); 1] = [("6443", "tcp")];

impl Needs {
    fn ranges(&self) -> impl Iterator<Item = IpNet> {
        self.pods.iter().chain(self.services.iter())
    }

    fn ports(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        OF_SERVERS.iter().filter(|_| self.is_server).chain(&OF_NODES)
    }
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = bounded::output_blocking(Command::new(program).args(arguments), b"", 1 << 20).ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The firewall that is at work here, if there is one.
pub fn active() -> Option<Firewall> {
    if said("firewall-cmd", &["--state"]).is_some() {
        return Some(Firewall::Firewalld);
    }
    said("ufw", &["status"]).filter(|status| status.contains("Status: active")).map(|_| Firewall::Ufw)
}

impl Firewall {
    pub fn name(self) -> &'static str {
        match self {
            Firewall::Firewalld => "firewalld",
            Firewall::Ufw => "ufw",
        }
    }

    /// The commands that let the cluster's traffic through.
    pub fn commands(self, needs: &Needs) -> Vec<String> {
        let mut commands = Vec::new();
        match self {
            Firewall::Firewalld => {
                let permanent = |what: String| format!("firewall-cmd --permanent {what}");
                commands.extend(needs.ranges().map(|range| permanent(format!("--zone=trusted --add-source={range}"))));
                let ports = needs.ports().map(|(port, protocol)| permanent(format!("--add-port={port}/{protocol}")));
                commands.extend(ports);
                commands.push("firewall-cmd --reload".into());
            }
            Firewall::Ufw => {
                commands.extend(needs.ranges().map(|range| format!("ufw allow from {range}")));
                // What is passed on: to pods, and from them.
                for range in needs.pods.iter() {
                    commands.push(format!("ufw route allow to {range}"));
                    commands.push(format!("ufw route allow from {range}"));
                }
                let ports =
                    needs.ports().map(|(port, protocol)| format!("ufw allow {}/{protocol}", port.replace('-', ":")));
                commands.extend(ports);
            }
        }
        commands
    }

    /// Whether the pods' addresses are let through already.
    fn allows(self, needs: &Needs) -> bool {
        let status = match self {
            Firewall::Firewalld => said("firewall-cmd", &["--zone=trusted", "--list-sources"]),
            Firewall::Ufw => said("ufw", &["status"]),
        };
        let status = status.unwrap_or_default();
        needs.pods.iter().all(|range| status.contains(&range.to_string()))
    }
}

/// Tells what to allow, unless it is allowed.
pub fn advise(needs: &Needs) {
    if let Some(firewall) = active().filter(|firewall| !firewall.allows(needs)) {
        tracing::warn!(
            "{} is active on this machine and may keep pods and nodes from each other; what lets them through:\n  {}",
            firewall.name(),
            firewall.commands(needs).join("\n  ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(is_server: bool) -> Needs {
        Needs { pods: "10.42.0.0/16".parse().unwrap(), services: "10.43.0.0/16".parse().unwrap(), is_server }
    }

    #[test]
    fn commands_are_exact() {
        let firewalld = Firewall::Firewalld.commands(&needs(true)).join("\n");
        let want = "firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16
firewall-cmd --permanent --zone=trusted --add-source=10.43.0.0/16
firewall-cmd --permanent --add-port=6443/tcp
firewall-cmd --permanent --add-port=10250/tcp
firewall-cmd --permanent --add-port=8472/udp
firewall-cmd --permanent --add-port=80/tcp
firewall-cmd --permanent --add-port=443/tcp
firewall-cmd --permanent --add-port=30000-32767/tcp
firewall-cmd --reload";
        assert_eq!(firewalld, want);
        let ufw = Firewall::Ufw.commands(&needs(false)).join("\n");
        let want = "ufw allow from 10.42.0.0/16
ufw allow from 10.43.0.0/16
ufw route allow to 10.42.0.0/16
ufw route allow from 10.42.0.0/16
ufw allow 10250/tcp
ufw allow 8472/udp
ufw allow 80/tcp
ufw allow 443/tcp
ufw allow 30000:32767/tcp";
        assert_eq!(ufw, want);
    }
}
