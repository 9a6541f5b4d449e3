//! Kinds by their names, as references have them.

use api::KINDS;
use kube::Client;
use serde_json::Value;

use super::Result;
use super::dynamic::request;

/// A kind that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub plural: String,
    pub namespaced: bool,
}

/// The path of a version of a group: `/api/v1`, `/apis/apps/v1`. Names that come from objects are not trusted to be names.
pub fn root(api_version: &str) -> Option<String> {
    let well_formed = |part: &&str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            && !part.starts_with('.')
    };
    let parts: Vec<&str> = api_version.split('/').collect();
    if !parts.iter().all(well_formed) {
        return None;
    }
    match parts[..] {
        [version] => Some(format!("/api/{version}")),
        [group, version] => Some(format!("/apis/{group}/{version}")),
        _ => None,
    }
}

/// A name from an object as a part of a path: whatever it holds, it stays one part.
pub fn segment(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':');
    let write = |mut text: String, byte: u8| {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    };
    name.bytes().fold(String::new(), write)
}

/// A kind of the API, also an older version, of a definition or of a further API server; `None` if it isn't served now.
///
/// # Errors
/// The API refuses to list the resources of the group, other than because it isn't served or its server doesn't answer.
pub async fn served(client: &Client, api_version: &str, kind: &str) -> Result<Option<Served>> {
    if let Some(known) = KINDS.iter().find(|k| k.kind == kind && k.api_version() == api_version) {
        return Ok(Some(Served { plural: known.plural().into(), namespaced: known.namespaced }));
    }
    let Some(root) = root(api_version) else { return Ok(None) };
    let found = match request(client, "GET", &root, &Value::Null).await {
        // An API server that doesn't answer is no news of its objects.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code >= 500 => return Ok(None),
        found => found?,
    };
    let is_meant = |r: &&Value| r["kind"] == kind && r["name"].as_str().is_some_and(|n| !n.contains('/'));
    let resource = found["resources"].as_array().into_iter().flatten().find(is_meant);
    Ok(resource
        .map(|r| Served { plural: r["name"].as_str().unwrap_or_default().into(), namespaced: r["namespaced"] == true }))
}

/// A resource as the API lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub api_version: String,
    pub kind: String,
    pub plural: String,
    pub verbs: Vec<String>,
}

/// A resource of a group, in the version that the API prefers; `None` if nobody serves it now.
///
/// # Errors
/// The API refuses to list the group or its resources, other than because nobody serves them.
pub async fn resource(client: &Client, group: &str, plural: &str) -> Result<Option<Resource>> {
    let found = |answer: Result<Value>| match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        other => other,
    };
    let mut versions = vec!["v1".to_string()];
    if !group.is_empty() {
        let listed = found(request(client, "GET", &format!("/apis/{}", segment(group)), &Value::Null).await)?;
        let of = |version: &Value| version["groupVersion"].as_str().map(String::from);
        versions = of(&listed["preferredVersion"]).into_iter().collect();
        // What the preferred version hasn't got, another may have.
        versions.extend(listed["versions"].as_array().into_iter().flatten().filter_map(of));
    }
    for version in versions {
        let Some(root) = root(&version) else { continue };
        let listed = found(request(client, "GET", &root, &Value::Null).await)?;
        let listed = listed["resources"].as_array().into_iter().flatten();
        if let Some(resource) = listed.into_iter().find(|resource| resource["name"] == plural) {
            let verbs = resource["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            return Ok(Some(Resource {
                api_version: version,
                kind: resource["kind"].as_str().unwrap_or_default().into(),
                plural: plural.into(),
                verbs: verbs.map(String::from).collect(),
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_groups_have_paths_and_nothing_else_has() {
        assert_eq!(root("v1").as_deref(), Some("/api/v1"));
        assert_eq!(root("apps/v1").as_deref(), Some("/apis/apps/v1"));
        for bad in ["", "/", "apps/", "/v1", "a/b/c", "../v1", "apps/v1?x=", "a b/v1", "a%2f/v1"] {
            assert_eq!(root(bad), None, "{bad}");
        }
        assert_eq!(segment("system:node-1.x_y"), "system:node-1.x_y");
        assert_eq!(segment("a/../b?c d%é"), "a%2F..%2Fb%3Fc%20d%25%C3%A9");
    }
}
