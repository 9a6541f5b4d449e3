//! Families of addresses, and ranges of one family or both ("dual stack", KEP-563).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of an address as text. What is none passes for IPv4: it is refused elsewhere.
    pub fn of_text(address: &str) -> Self {
        if address.contains(':') { Family::V6 } else { Family::V4 }
    }

    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an address is that of one machine somewhere, neither every machine's own nor that of a link or a group: what Go
/// calls a global unicast address, and upstream demands of what it connects to for others.
pub fn is_global_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let special = v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            !special && !v4.is_unspecified() && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let link_local = v6.segments()[0] & 0xffc0 == 0xfe80;
            !link_local && !v6.is_loopback() && !v6.is_multicast() && !v6.is_unspecified()
        }
    }
}

/// Host and port as URLs and headers have them (RFC 3986, 3.2.2): an address of IPv6 stands in brackets.
pub fn authority(host: impl fmt::Display, port: impl fmt::Display) -> String {
    let host = host.to_string();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The address at a place in a range; the network's own is at 0. The place must be in the range.
pub fn nth(range: IpNet, place: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => (u32::from(base) + place).to_be_bytes().into(),
        IpAddr::V6(base) => (u128::from(base) + u128::from(place)).to_be_bytes().into(),
    }
}

/// Why a text isn't the ranges of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangesError {
    /// One of them isn't a range in CIDR notation.
    #[error("{0:?} is no range of addresses; one reads 10.42.0.0/16, the other family's fd42::/56")]
    Malformed(String),
    /// There is none, there are more than two, or two of one family.
    #[error("there may be one range of each family, separated by a comma, and {0:?} isn't that")]
    Number(String),
}

/// One range of addresses, or one of each family. The first one's family is that of the cluster: services have it unless
/// they ask for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRanges(Vec<IpNet>);

impl AddressRanges {
    /// The first range, which is of the cluster's own family.
    pub fn first(&self) -> IpNet {
        self.0.first().copied().unwrap_or_default()
    }

    /// The address at a place in the first range; the network's own is at 0.
    pub fn nth(&self, place: u32) -> IpAddr {
        nth(self.first(), place)
    }

    /// The ranges, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }

    /// The cluster's families, its own first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.iter().map(|range| Family::of(range.addr()))
    }

    /// The range of a family.
    pub fn of(&self, family: Family) -> Option<IpNet> {
        self.iter().find(|range| Family::of(range.addr()) == family)
    }

    /// Whether an address is in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|range| range.contains(&address))
    }

    /// Whether an address may be in both.
    pub fn overlaps(&self, other: &AddressRanges) -> bool {
        self.iter().any(|a| other.iter().any(|b| a.contains(&b) || b.contains(&a)))
    }
}

impl FromStr for AddressRanges {
    type Err = AddressRangesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |part: &str| part.trim().parse::<IpNet>().map_err(|_| AddressRangesError::Malformed(part.into()));
        let ranges: Vec<IpNet> = text.split(',').map(read).collect::<Result<_, _>>()?;
        match ranges.as_slice() {
            [_] => Ok(AddressRanges(ranges)),
            [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(AddressRanges(ranges)),
            _ => Err(AddressRangesError::Number(text.into())),
        }
    }
}

impl fmt::Display for AddressRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_machine_are_no_ones() {
        for (address, want) in [
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("febf::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:192.0.2.1", true),
        ] {
            assert_eq!(is_global_unicast(address.parse().unwrap()), want, "{address}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!([authority("fd42::2", 80), authority("web", "http")], ["[fd42::2]:80", "web:http"]);
    }

    #[test]
    fn ranges_are_one_of_a_family() {
        for good in ["10.42.0.0/16", "fd42::/56", "10.42.0.0/16,fd42::/56", "fd42::/56,10.42.0.0/16"] {
            assert_eq!(good.parse::<AddressRanges>().unwrap().to_string(), good);
        }
        for bad in ["", "10.42.0.0", "10.42.0.0/16,", "10.42.0.0/16,10.43.0.0/16", "fd42::/56,10.42.0.0/16,fd43::/56"] {
            assert!(bad.parse::<AddressRanges>().is_err(), "{bad}");
        }
        let dual: AddressRanges = "fd42::/56,10.42.0.0/16".parse().unwrap();
        assert_eq!(dual.families().collect::<Vec<_>>(), [Family::V6, Family::V4]);
        assert_eq!(dual.of(Family::V4), Some("10.42.0.0/16".parse().unwrap()));
        assert!(dual.overlaps(&"10.42.9.0/24".parse().unwrap()) && !dual.overlaps(&"10.43.0.0/16".parse().unwrap()));
    }
}
