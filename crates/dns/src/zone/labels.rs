//! Addresses as labels and names.

use std::net::IpAddr;

use hickory_proto::rr::Name;

pub(super) fn parse_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_default();
    name.set_fqdn(true);
    name
}

/// `10.42.0.2` → `10-42-0-2`, the label of an endpoint without a host name.
pub(super) fn address_label(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    // A label can't end with a hyphen.
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

/// The address of a label of [`address_label`].
pub(super) fn parse_address_label(label: &str) -> Option<IpAddr> {
    let separator = if label.matches('-').count() == 3 && !label.contains("--") { "." } else { ":" };
    label.replace('-', separator).parse().ok()
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
pub(super) fn parse_reverse_name(text: &str) -> Option<IpAddr> {
    if let Some(v4) = text.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = v4.rsplit('.').collect();
        return parts.join(".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = text.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    if nibbles.len() != 32 {
        return None;
    }
    let mut address = 0u128;
    for nibble in nibbles {
        let value = u128::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
        address = address << 4u32 | value;
    }
    Some(IpAddr::V6(address.into()))
}
