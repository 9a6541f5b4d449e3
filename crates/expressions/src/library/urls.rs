//! URLs: absolute ones, or absolute paths.

use cel::common::types::{CelBool, CelList, CelString};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, add_member_overload, add_overload};
use url::Url;

use super::function::{Outcome, failed, opaque};

opaque!(Address(Url), URL = "kubernetes.URL");

pub(super) fn parse_url(text: &str) -> Result<Url, String> {
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

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
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
