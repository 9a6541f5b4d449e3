//! Kubernetes' libraries for CEL: addresses, quantities, URLs, versions, regular expressions, lists.

use std::cmp::Ordering;
use std::net::IpAddr;

use cel::common::types::{self, CelBool, CelInt, CelList, CelOptional, CelString, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload, extensions};
use ipnet::IpNet;
use url::Url;

use crate::{authorizer, budget, format, loops, macros, quantity, texts};

pub(crate) type Outcome<T> = Result<T, ExecutionError>;

pub(crate) fn failed<T>(function: &str, why: impl ToString) -> Outcome<T> {
    Err(ExecutionError::function_error(function, why))
}

/// Makes a type of the language from a Rust type that can be compared and copied.
macro_rules! opaque {
    ($name:ident($inner:ty), $constant:ident = $text:literal) => {
        static $constant: cel::common::types::Type = cel::common::types::Type::new_unspecified_type($text);

        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name(pub $inner);

        impl cel::common::value::Val for $name {
            fn get_type(&self) -> &cel::common::types::Type {
                &$constant
            }
            fn cel_type() -> &'static cel::common::types::Type {
                &$constant
            }
            fn equals(&self, other: &dyn cel::common::value::Val) -> bool {
                other.downcast_ref::<$name>().is_some_and(|o| o == self)
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn cel::common::value::Val + 'v> {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn std::any::Any> {
                Some(self)
            }
        }
        impl cel::common::value::StaticVal for $name {}
    };
}
pub(crate) use opaque;

opaque!(Ip(IpAddr), IP = "net.IP");
opaque!(Cidr(IpNet), CIDR = "net.CIDR");
opaque!(Address(Url), URL = "kubernetes.URL");
opaque!(Version(semver::Version), VERSION = "kubernetes.Semver");

/// Whether a name is that of a type, which expressions may compare with.
pub fn is_type(name: &str) -> bool {
    matches!(
        name,
        "int"
            | "uint"
            | "double"
            | "string"
            | "bytes"
            | "bool"
            | "list"
            | "map"
            | "null_type"
            | "type"
            | "optional_type"
            | "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "net.IP"
            | "net.CIDR"
            | "kubernetes.URL"
            | "kubernetes.Quantity"
            | "kubernetes.Semver"
    )
}

/// Whether objects of a type may be made: those that mutating policies return.
pub fn is_made_type(name: &str) -> bool {
    name == "Object" || name.starts_with("Object.") || name == "JSONPatch"
}

/// The language with all its libraries.
pub fn environment() -> Env {
    let mut env = Env::stdlib();
    let declared = declare(&mut env);
    // Two overloads that collide are a mistake in this file, which every test of this crate would show.
    assert!(declared.is_ok(), "CEL's libraries collide: {declared:?}");
    env
}

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    extensions::strings(env)?;
    extensions::lists(env)?;
    macros::declare(env)?;
    loops::declare(env)?;
    texts::declare(env)?;
    format::declare(env)?;
    addresses(env)?;
    urls(env)?;
    versions(env)?;
    lists(env)?;
    quantity::declare(env)?;
    authorizer::declare(env)
}

/// `1h30m`: Go's durations.
pub fn duration(text: &str) -> Option<chrono::Duration> {
    apimachinery::duration::parse(text).map(chrono::Duration::nanoseconds)
}

// ---- IP addresses and networks

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

fn addresses(env: &mut Env) -> Result<(), DeclarationError> {
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

// ---- URLs: absolute ones, or absolute paths

pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let base = text.starts_with('/').then(|| Url::parse("path:/").ok()).flatten();
    Url::options()
        .base_url(base.as_ref())
        .parse(text)
        .map_err(|e| format!("URL parse error during conversion from string: {e}"))
}

fn url(text: &CelString<'_>) -> Outcome<Address> {
    parse_url(text.inner()).map(Address).or_else(|e| failed("url", e))
}

fn is_url(text: &CelString<'_>) -> CelBool {
    parse_url(text.inner()).is_ok().into()
}

fn get_scheme(of: &Address) -> CelString<'static> {
    let scheme = of.0.scheme();
    if scheme == "path" { String::new().into() } else { scheme.to_string().into() }
}

fn get_host(of: &Address) -> CelString<'static> {
    let host = of.0.host_str().unwrap_or("");
    of.0.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}")).into()
}

fn get_hostname(of: &Address) -> CelString<'static> {
    of.0.host_str().unwrap_or("").trim_matches(['[', ']']).to_string().into()
}

fn get_port(of: &Address) -> CelString<'static> {
    of.0.port().map(|p| p.to_string()).unwrap_or_default().into()
}

fn get_escaped_path(of: &Address) -> CelString<'static> {
    of.0.path().to_string().into()
}

fn get_query<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    use cel::common::types::{CelMap, CelMapKey};
    let Some(of) = arguments.first().and_then(|a| a.downcast_ref::<Address>()) else {
        return failed("getQuery", "it is for URLs");
    };
    let mut parts: std::collections::HashMap<String, Vec<Box<dyn Val + 'v>>> = std::collections::HashMap::new();
    for (key, value) in of.0.query_pairs() {
        parts.entry(key.into_owned()).or_default().push(Box::new(CelString::from(value.into_owned())));
    }
    let listed = parts
        .into_iter()
        .map(|(k, v)| -> (CelMapKey<'v>, Box<dyn Val + 'v>) { (CelMapKey::from(k), Box::new(CelList::from(v))) });
    Ok(CowVal::owned(CelMap::from(listed.collect::<std::collections::HashMap<_, _>>())))
}

fn escape_key(text: &CelString<'_>) -> CelString<'static> {
    text.inner().replace('~', "~0").replace('/', "~1").into()
}

fn urls(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(URL.to_owned())?;
    add_overload!(env, fn url: (CelString) -> Result<Address>)?;
    add_overload!(env, fn is_url: (CelString) -> CelBool, name = "isURL")?;
    add_member_overload!(env, fn get_scheme: (Address) -> CelString)?;
    add_member_overload!(env, fn get_host: (Address) -> CelString)?;
    add_member_overload!(env, fn get_hostname: (Address) -> CelString)?;
    add_member_overload!(env, fn get_port: (Address) -> CelString)?;
    add_member_overload!(env, fn get_escaped_path: (Address) -> CelString)?;
    env.add_member_overload("getQuery", "url_query", URL.to_owned(), vec![], get_query)?;
    add_overload!(env, fn escape_key: (CelString) -> CelString, name = "jsonpatch.escapeKey")
}

// ---- semantic versions

fn semver(text: &CelString<'_>) -> Outcome<Version> {
    semver::Version::parse(text.inner()).map(Version).or_else(|e| failed("semver", e))
}

fn is_semver(text: &CelString<'_>) -> CelBool {
    semver::Version::parse(text.inner()).is_ok().into()
}

/// Versions that people write: with a `v` before them, without minor or patch, with zeros at the front.
fn tolerant(text: &str) -> Result<semver::Version, semver::Error> {
    let text = text.trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<String> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_string(),
            other => other.to_string(),
        })
        .collect();
    // What comes after the numbers needs all three of them.
    if rest.is_empty() {
        parts.resize(parts.len().max(3), "0".into());
    }
    semver::Version::parse(&format!("{}{rest}", parts.join(".")))
}

fn semver_normalized(text: &CelString<'_>, normalize: &CelBool) -> Outcome<Version> {
    match *normalize.inner() {
        true => tolerant(text.inner()).map(Version).or_else(|e| failed("semver", e)),
        false => semver(text),
    }
}

fn is_semver_normalized(text: &CelString<'_>, normalize: &CelBool) -> CelBool {
    semver_normalized(text, normalize).is_ok().into()
}

fn part(number: u64) -> CelInt {
    CelInt::from(i64::try_from(number).unwrap_or(i64::MAX))
}

fn major(of: &Version) -> CelInt {
    part(of.0.major)
}

fn minor(of: &Version) -> CelInt {
    part(of.0.minor)
}

fn patch(of: &Version) -> CelInt {
    part(of.0.patch)
}

fn version_less(of: &Version, other: &Version) -> CelBool {
    (of.0.cmp_precedence(&other.0) == Ordering::Less).into()
}

fn version_greater(of: &Version, other: &Version) -> CelBool {
    (of.0.cmp_precedence(&other.0) == Ordering::Greater).into()
}

fn version_compare(of: &Version, other: &Version) -> CelInt {
    CelInt::from(of.0.cmp_precedence(&other.0) as i64)
}

fn versions(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(VERSION.to_owned())?;
    add_overload!(env, fn semver: (CelString) -> Result<Version>)?;
    add_overload!(env, fn is_semver: (CelString) -> CelBool)?;
    add_overload!(env, fn semver_normalized: (CelString, CelBool) -> Result<Version>, name = "semver")?;
    add_overload!(env, fn is_semver_normalized: (CelString, CelBool) -> CelBool, name = "isSemver")?;
    add_member_overload!(env, fn major: (Version) -> CelInt)?;
    add_member_overload!(env, fn minor: (Version) -> CelInt)?;
    add_member_overload!(env, fn patch: (Version) -> CelInt)?;
    add_member_overload!(env, fn version_less: (Version, Version) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn version_greater: (Version, Version) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn version_compare: (Version, Version) -> CelInt, name = "compareTo")
}

// ---- lists and sets

fn items<'a>(arguments: &'a [CowVal<'_, '_>], at: usize, function: &str) -> Outcome<Vec<&'a dyn Val>> {
    match arguments.get(at).and_then(|a| a.downcast_ref::<CelList>()) {
        Some(list) => Ok(list.inner().iter().map(|v| -> &dyn Val { v.as_ref() }).collect()),
        None => failed(function, "it is for lists"),
    }
}

fn compare(a: &dyn Val, b: &dyn Val) -> Outcome<Ordering> {
    a.as_comparer().map_or_else(|| failed("compare", "items can't be compared"), |c| c.compare(b))
}

fn is_sorted<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let items = items(&arguments, 0, "isSorted")?;
    for pair in items.windows(2) {
        if compare(pair[0], pair[1])? == Ordering::Greater {
            return Ok(CowVal::owned(CelBool::from(false)));
        }
    }
    Ok(CowVal::owned(CelBool::from(true)))
}

fn extreme<'b, 'v>(arguments: &[CowVal<'b, 'v>], wanted: Ordering, function: &str) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed(function, "it is for lists");
    };
    let mut best: Option<&Box<dyn Val + '_>> = None;
    for item in list.inner() {
        let better = match best {
            Some(best) => compare(item.as_ref(), best.as_ref())? == wanted,
            None => true,
        };
        best = if better { Some(item) } else { best };
    }
    match best {
        Some(item) => Ok(CowVal::Owned(item.clone())),
        None => failed(function, format!("{function} called on empty list")),
    }
}

fn min<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    extreme(&arguments, Ordering::Less, "min")
}

fn max<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    extreme(&arguments, Ordering::Greater, "max")
}

fn sum<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed("sum", "it is for lists");
    };
    let Some((first, rest)) = list.inner().split_first() else { return Ok(CowVal::owned(CelInt::from(0))) };
    let mut total: Box<dyn Val + 'v> = first.clone();
    for item in rest {
        let Some(adder) = total.as_adder() else { return failed("sum", "items can't be added") };
        total = adder.add(item.as_ref())?.into_owned();
    }
    Ok(CowVal::Owned(total))
}

fn index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let at = items(&arguments, 0, "indexOf")?.iter().position(|i| i.equals(arguments[1].as_ref()));
    Ok(CowVal::owned(CelInt::from(at.map_or(-1, |i| i as i64))))
}

fn last_index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let at = items(&arguments, 0, "lastIndexOf")?.iter().rposition(|i| i.equals(arguments[1].as_ref()));
    Ok(CowVal::owned(CelInt::from(at.map_or(-1, |i| i as i64))))
}

/// Whether a list has an item; whether anything else is the item.
fn includes<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let [of, item] = arguments.as_slice() else { return failed("includes", "it has one argument") };
    let found = match of.downcast_ref::<CelList>() {
        Some(list) => list.inner().iter().any(|known| known.equals(item.as_ref())),
        None => of.equals(item.as_ref()),
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

fn end_of<'b, 'v>(arguments: &[CowVal<'b, 'v>], function: &str, first: bool) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed(function, "it is for lists");
    };
    let item = if first { list.inner().first() } else { list.inner().last() };
    Ok(CowVal::owned(item.map_or_else(CelOptional::none, |item| CelOptional::of(item.clone()))))
}

fn first<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    end_of(&arguments, "first", true)
}

fn last<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    end_of(&arguments, "last", false)
}

/// The values that are there.
fn unwrap<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed("optional.unwrap", "it is for lists");
    };
    let there = list.inner().iter().filter_map(|item| item.downcast_ref::<CelOptional>()?.option());
    let there: Vec<Box<dyn Val + 'v>> = there.map(|value| value.clone_as_boxed()).collect();
    Ok(CowVal::owned(CelList::from(there)))
}

/// Comparing all items with all must be paid for, as no argument shows the product.
fn product(arguments: &[CowVal<'_, '_>], function: &str) -> Outcome<()> {
    let (a, b) = (items(arguments, 0, function)?.len(), items(arguments, 1, function)?.len());
    budget::spend(a as u64 * b as u64)
}

fn all_in(these: &[&dyn Val], those: &[&dyn Val]) -> bool {
    these.iter().all(|a| those.iter().any(|b| a.equals(*b)))
}

fn set_contains<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.contains")?;
    let (a, b) = (items(&arguments, 0, "sets.contains")?, items(&arguments, 1, "sets.contains")?);
    Ok(CowVal::owned(CelBool::from(all_in(&b, &a))))
}

fn set_equivalent<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.equivalent")?;
    let (a, b) = (items(&arguments, 0, "sets.equivalent")?, items(&arguments, 1, "sets.equivalent")?);
    Ok(CowVal::owned(CelBool::from(all_in(&a, &b) && all_in(&b, &a))))
}

fn set_intersects<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    product(&arguments, "sets.intersects")?;
    let (a, b) = (items(&arguments, 0, "sets.intersects")?, items(&arguments, 1, "sets.intersects")?);
    Ok(CowVal::owned(CelBool::from(a.iter().any(|x| b.iter().any(|y| x.equals(*y))))))
}

fn lists(env: &mut Env) -> Result<(), DeclarationError> {
    let list = || LIST_TYPE;
    let any = || types::DYN_TYPE;
    env.add_member_overload("isSorted", "list_is_sorted", list(), vec![], is_sorted)?;
    env.add_member_overload("sum", "list_sum", list(), vec![], sum)?;
    env.add_member_overload("min", "list_min", list(), vec![], min)?;
    env.add_member_overload("max", "list_max", list(), vec![], max)?;
    env.add_member_overload("indexOf", "list_index_of", list(), vec![any()], index_of)?;
    env.add_member_overload("lastIndexOf", "list_last_index_of", list(), vec![any()], last_index_of)?;
    env.add_member_overload("includes", "list_includes", any(), vec![any()], includes)?;
    env.add_member_overload("first", "list_first", list(), vec![], first)?;
    env.add_member_overload("last", "list_last", list(), vec![], last)?;
    env.add_overload("optional.unwrap", "optional_unwrap", vec![list()], unwrap)?;
    env.add_member_overload("unwrapOpt", "optional_unwrap_opt", list(), vec![], unwrap)?;
    env.add_overload("sets.contains", "list_sets_contains", vec![list(), list()], set_contains)?;
    env.add_overload("sets.equivalent", "list_sets_equivalent", vec![list(), list()], set_equivalent)?;
    env.add_overload("sets.intersects", "list_sets_intersects", vec![list(), list()], set_intersects)
}
