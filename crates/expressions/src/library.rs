//! Kubernetes' libraries for CEL: addresses, quantities, URLs, versions, regular expressions, lists.

use std::cmp::Ordering;
use std::net::IpAddr;

use cel::common::types::{self, CelBool, CelInt, CelList, CelString, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload, extensions};
use ipnet::IpNet;
use regex::Regex;
use url::Url;

use crate::{authorizer, budget, quantity, rewrite};

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

/// Names of the functions that an expression may call, besides operators; for errors when a rule is written, not when
/// it is first needed.
const FUNCTIONS: &[&str] = &[
    // the language
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "dyn",
    "type",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
    // texts, lists, numbers, sets
    "charAt",
    "indexOf",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "format",
    "quote",
    "strings.quote",
    "reverse",
    "base64.encode",
    "base64.decode",
    "slice",
    "flatten",
    "sort",
    "distinct",
    "first",
    "last",
    "lists.range",
    "isSorted",
    "sum",
    "min",
    "max",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "find",
    "findAll",
    "math.@max",
    "math.@min",
    "math.ceil",
    "math.floor",
    "math.round",
    "math.trunc",
    "math.isInf",
    "math.isNaN",
    "math.isFinite",
    "math.abs",
    "math.sign",
    "math.bitAnd",
    "math.bitOr",
    "math.bitXor",
    "math.bitNot",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.sqrt",
    // Kubernetes' types
    "ip",
    "isIP",
    "ip.isCanonical",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "cidr",
    "isCIDR",
    "containsIP",
    "containsCIDR",
    "masked",
    "prefixLength",
    "url",
    "isURL",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "semver",
    "isSemver",
    "major",
    "minor",
    "patch",
    "isLessThan",
    "isGreaterThan",
    "compareTo",
    "quantity",
    "isQuantity",
    "sign",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "add",
    "sub",
    "jsonpatch.escapeKey",
    // rights
    "path",
    "group",
    "serviceAccount",
    "resource",
    "subresource",
    "namespace",
    "name",
    "check",
    "allowed",
    "reason",
    "errored",
    "error",
    "fieldSelector",
    "labelSelector",
];

pub fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name) || name.contains(['_', '@']) && !name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

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
    extensions::math(env)?;
    extensions::encoders(env)?;
    env.add_overload(rewrite::PAY, "pay", vec![types::DYN_TYPE], budget::pay)?;
    addresses(env)?;
    urls(env)?;
    versions(env)?;
    expressions(env)?;
    lists(env)?;
    quantity::declare(env)?;
    authorizer::declare(env)
}

/// `1h30m`: Go's durations.
pub fn duration(text: &str) -> Option<chrono::Duration> {
    apimachinery::duration::parse(text).map(chrono::Duration::nanoseconds)
}

// ---- IP addresses and networks

fn ip(text: &CelString<'_>) -> Outcome<Ip> {
    text.inner().parse().map(Ip).or_else(|e| failed("ip", format!("IP Address {:?} parse error: {e}", text.inner())))
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<IpAddr>().is_ok().into()
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

fn parse_url(text: &str) -> Result<Url, String> {
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
    add_member_overload!(env, fn major: (Version) -> CelInt)?;
    add_member_overload!(env, fn minor: (Version) -> CelInt)?;
    add_member_overload!(env, fn patch: (Version) -> CelInt)?;
    add_member_overload!(env, fn version_less: (Version, Version) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn version_greater: (Version, Version) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn version_compare: (Version, Version) -> CelInt, name = "compareTo")
}

// ---- regular expressions

fn regular(text: &str) -> Outcome<Regex> {
    regex::RegexBuilder::new(text)
        .size_limit(1 << 20)
        .build()
        .or_else(|e| failed("find", format!("Illegal regex: {e}")))
}

fn find(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelString<'static>> {
    let found = regular(pattern.inner())?.find(text.inner()).map(|m| m.as_str().to_string());
    Ok(found.unwrap_or_default().into())
}

fn found(text: &str, pattern: &str, most: usize) -> Outcome<CelList<'static>> {
    let all = regular(pattern)?;
    let all = all.find_iter(text).take(most);
    let texts: Vec<Box<dyn Val>> =
        all.map(|m| -> Box<dyn Val> { Box::new(CelString::from(m.as_str().to_string())) }).collect();
    Ok(CelList::from(texts))
}

fn find_all(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelList<'static>> {
    found(text.inner(), pattern.inner(), usize::MAX)
}

fn find_some(text: &CelString<'_>, pattern: &CelString<'_>, most: &CelInt) -> Outcome<CelList<'static>> {
    found(text.inner(), pattern.inner(), usize::try_from(*most.inner()).unwrap_or(usize::MAX))
}

fn expressions(env: &mut Env) -> Result<(), DeclarationError> {
    add_member_overload!(env, fn find: (CelString, CelString) -> Result<CelString>)?;
    add_member_overload!(env, fn find_all: (CelString, CelString) -> Result<CelList>)?;
    add_member_overload!(env, fn find_some: (CelString, CelString, CelInt) -> Result<CelList>, name = "findAll")
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
    env.add_overload("sets.contains", "list_sets_contains", vec![list(), list()], set_contains)?;
    env.add_overload("sets.equivalent", "list_sets_equivalent", vec![list(), list()], set_equivalent)?;
    env.add_overload("sets.intersects", "list_sets_intersects", vec![list(), list()], set_intersects)
}
