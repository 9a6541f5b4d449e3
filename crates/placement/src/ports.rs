//! Host ports of pods, and their conflicts.

use k8s_openapi::api::core::v1::ContainerPort;

/// A `hostPort` of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty for all addresses of the node.
    address: String,
    protocol: String,
    number: i32,
}

impl HostPort {
    /// The host port of a container's port, if it has one.
    pub fn of(port: &ContainerPort) -> Option<Self> {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.clone().filter(|address| address != "0.0.0.0").unwrap_or_default();
        Some(HostPort { address, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()), number })
    }

    fn conflicts_with(&self, other: &HostPort) -> bool {
        let shares_address = self.address.is_empty() || other.address.is_empty() || self.address == other.address;
        self.number == other.number && self.protocol == other.protocol && shares_address
    }
}

/// Whether two pods can't be on the same node, since both want the same host port.
pub fn host_ports_conflict(one: &[HostPort], other: &[HostPort]) -> bool {
    one.iter().any(|port| other.iter().any(|taken| port.conflicts_with(taken)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_collide_by_number_protocol_and_address() {
        let port = |address: Option<&str>, protocol: Option<&str>, number: i32| {
            let port = json!({"containerPort": 80, "hostPort": number, "hostIP": address, "protocol": protocol});
            HostPort::of(&serde_json::from_value(port).unwrap())
        };
        assert_eq!(port(None, None, 0), None);
        let taken = [port(Some("10.0.0.1"), None, 80).unwrap()];
        for (address, protocol, number, wanted) in [
            (None, None, 80, true),
            (Some(""), Some("TCP"), 80, true),
            (Some("0.0.0.0"), None, 80, true),
            (Some("10.0.0.1"), None, 80, true),
            (Some("127.0.0.1"), None, 80, false),
            (None, Some("UDP"), 80, false),
            (None, None, 81, false),
        ] {
            let own = [port(address, protocol, number).unwrap()];
            assert_eq!(host_ports_conflict(&own, &taken), wanted, "{address:?} {protocol:?} {number}");
            assert_eq!(host_ports_conflict(&taken, &own), wanted, "{address:?} {protocol:?} {number}");
        }
        assert!(!host_ports_conflict(&taken, &[]));
    }
}
