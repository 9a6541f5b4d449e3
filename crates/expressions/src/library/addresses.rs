//! IP addresses and networks: `ip('10.0.0.1')`, `cidr('10.0.0.0/8')`.

use std::net::IpAddr;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, add_member_overload, add_overload};
use ipnet::IpNet;

use super::function::{Outcome, failed, opaque};

opaque!(Ip(IpAddr), IP = "net.IP");
opaque!(Cidr(IpNet), CIDR = "net.CIDR");

/// An address; one of IPv4 that is written as one of IPv6 is none here.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr =
        text.parse().map_err(|e| format!("IP Address {text:?} parse error during conversion from string: {e}"))?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        _ => Ok(address),
    }
}

fn ip(text: &CelString<'_>) -> Outcome<Ip> {
    parse_ip(text.inner()).map(Ip).or_else(|e| failed("ip", e))
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    parse_ip(text.inner()).is_ok().into()
}

fn is_canonical(text: &CelString<'_>) -> Outcome<CelBool> {
    Ok((ip(text)?.0.to_string() == text.inner()).into())
}

fn family(of: &Ip) -> CelInt {
    CelInt::from(if of.0.is_ipv4() { 4 } else { 6 })
}

fn is_unspecified(of: &Ip) -> CelBool {
    of.0.is_unspecified().into()
}

fn is_loopback(of: &Ip) -> CelBool {
    of.0.is_loopback().into()
}

fn link_local(of: IpAddr) -> bool {
    match of {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(of: &Ip) -> CelBool {
    match of.0 {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
    .into()
}

fn is_link_local_unicast(of: &Ip) -> CelBool {
    link_local(of.0).into()
}

fn is_global_unicast(of: &Ip) -> CelBool {
    let broadcast = matches!(of.0, IpAddr::V4(v4) if v4.is_broadcast());
    (!(of.0.is_unspecified() || of.0.is_loopback() || of.0.is_multicast() || link_local(of.0) || broadcast)).into()
}

fn ip_text(of: &Ip) -> CelString<'static> {
    of.0.to_string().into()
}

fn cidr(text: &CelString<'_>) -> Outcome<Cidr> {
    text.inner().parse().map(Cidr).or_else(|e| failed("cidr", format!("network address parse error: {e}")))
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<IpNet>().is_ok().into()
}

fn contains_ip(of: &Cidr, address: &Ip) -> CelBool {
    of.0.contains(&address.0).into()
}

fn contains_ip_text(of: &Cidr, address: &CelString<'_>) -> Outcome<CelBool> {
    Ok(of.0.contains(&ip(address)?.0).into())
}

fn contains_cidr(of: &Cidr, other: &Cidr) -> CelBool {
    of.0.contains(&other.0).into()
}

fn contains_cidr_text(of: &Cidr, other: &CelString<'_>) -> Outcome<CelBool> {
    Ok(of.0.contains(&cidr(other)?.0).into())
}

fn address_of(of: &Cidr) -> Ip {
    Ip(of.0.addr())
}

fn masked(of: &Cidr) -> Cidr {
    Cidr(of.0.trunc())
}

fn prefix_length(of: &Cidr) -> CelInt {
    CelInt::from(i64::from(of.0.prefix_len()))
}

fn cidr_text(of: &Cidr) -> CelString<'static> {
    of.0.to_string().into()
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(IP.to_owned())?;
    env.add_type(CIDR.to_owned())?;
    add_overload!(env, fn ip: (CelString) -> Result<Ip>)?;
    add_overload!(env, fn is_ip: (CelString) -> CelBool, name = "isIP")?;
    add_overload!(env, fn is_canonical: (CelString) -> Result<CelBool>, name = "ip.isCanonical")?;
    add_member_overload!(env, fn family: (Ip) -> CelInt)?;
    add_member_overload!(env, fn is_unspecified: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_loopback: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_link_local_multicast: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_link_local_unicast: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_global_unicast: (Ip) -> CelBool)?;
    add_overload!(env, fn ip_text: (Ip) -> CelString, name = "string")?;
    add_overload!(env, fn cidr: (CelString) -> Result<Cidr>)?;
    add_overload!(env, fn is_cidr: (CelString) -> CelBool, name = "isCIDR")?;
    add_member_overload!(env, fn contains_ip: (Cidr, Ip) -> CelBool, name = "containsIP")?;
    add_member_overload!(env, fn contains_ip_text: (Cidr, CelString) -> Result<CelBool>, name = "containsIP")?;
    add_member_overload!(env, fn contains_cidr: (Cidr, Cidr) -> CelBool, name = "containsCIDR")?;
    add_member_overload!(env, fn contains_cidr_text: (Cidr, CelString) -> Result<CelBool>, name = "containsCIDR")?;
    add_member_overload!(env, fn address_of: (Cidr) -> Ip, name = "ip")?;
    add_member_overload!(env, fn masked: (Cidr) -> Cidr)?;
    add_member_overload!(env, fn prefix_length: (Cidr) -> CelInt)?;
    add_overload!(env, fn cidr_text: (Cidr) -> CelString, name = "string")
}
