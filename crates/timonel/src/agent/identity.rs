//! What a node is, from its flags: name, addresses, labels, taints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, bail};
use apimachinery::{AddressRanges, Family};

pub fn node_name(given: Option<&str>) -> anyhow::Result<String> {
    let name = match given {
        Some(name) => name.to_string(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_ascii_lowercase(),
    };
    apimachinery::names::dns1123_subdomain(&name)
        .map_err(|e| anyhow::anyhow!("the node's name {name:?} can't be used: {e}; --node-name gives another"))?;
    Ok(name)
}

pub async fn node_ips(given: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    match given {
        [] => {
            let found = network::default_addresses().await;
            found.context("this machine's address can't be found out; --node-ip names it")
        }
        [_] => Ok(given.to_vec()),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(given.to_vec()),
        _ => bail!("--node-ip may name one address of each family, separated by a comma"),
    }
}

/// Those of a node's addresses that are of the cluster's families, that of the first one first. None may be one of the cluster's own.
pub fn addresses_for(
    pods: &AddressRanges,
    services: &AddressRanges,
    name: &str,
    ips: &[IpAddr],
) -> anyhow::Result<Vec<IpAddr>> {
    let of = |family| ips.iter().copied().find(|ip| Family::of(*ip) == family);
    let found: Vec<IpAddr> = pods.families().filter_map(of).collect();
    if found.is_empty() {
        bail!("node {name} has no address of the families of --cluster-cidr {pods}, only {ips:?}: --node-ip names one");
    }
    for (flag, ranges) in [("--cluster-cidr", pods), ("--service-cidr", services)] {
        if let Some(address) = found.iter().find(|ip| ranges.contains(**ip)) {
            bail!(
                "this machine's address {address} is one of {flag} {ranges}: the machine's network couldn't be reached any more; choose another range with {flag}, or another address with --node-ip"
            );
        }
    }
    Ok(found)
}

/// All addresses of this machine that are of the cluster's families.
pub fn any_address(mut families: impl Iterator<Item = Family>) -> IpAddr {
    if families.any(|family| family == Family::V6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// `key=value`
pub(super) fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) =
        text.split_once('=').with_context(|| format!("--node-label {text:?} is malformed: it must be key=value"))?;
    Ok((key.into(), value.into()))
}

/// `key=value:effect` or `key:effect`
pub(super) fn taint(text: &str) -> anyhow::Result<(String, String, String)> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let parts = text.rsplit_once(':').filter(|(rest, effect)| !rest.is_empty() && effects.contains(effect));
    let (rest, effect) = parts.with_context(|| {
        format!("--node-taint {text:?} is malformed: it must be key=value:effect, the effect one of {effects:?}")
    })?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    Ok((key.into(), value.into(), effect.into()))
}
