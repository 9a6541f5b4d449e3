//! Paths of URLs, as far as they name resources, and the verb that a method means for them.

use http::Method;

use super::Query;

/// The parts of a resource path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
    /// `status`, `exec`, … or empty. For `proxy` the rest of the path follows after a slash.
    pub subresource: String,
    pub rest: String,
}

/// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`; `None` for paths that name no resource.
pub fn resource_path(path: &str) -> Option<ResourcePath> {
    let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let decoded: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, sub, tail) = match rest {
        [plural] => (*plural, "", "", &[][..]),
        [plural, name] => (*plural, *name, "", &[][..]),
        [plural, name, sub, tail @ ..] => (*plural, *name, *sub, tail),
        [] => return None,
    };
    Some(ResourcePath {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        subresource: sub.into(),
        rest: tail.join("/"),
    })
}

/// The RBAC verb of a request.
pub fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Option<&'static str> {
    let one = !path.name.is_empty();
    Some(match *method {
        // The query below a subresource is for the backend that it leads to.
        Method::GET | Method::HEAD if one && (!query.flag("watch") || !path.subresource.is_empty()) => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        // A proxy passes it on for users with all rights: no rule can name this verb.
        Method::OPTIONS if path.subresource == "proxy" => "",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, want: &str) {
        let p = resource_path(path).unwrap();
        let got =
            format!("{}|{}|{}|{}|{}|{}|{}", p.group, p.version, p.plural, p.namespace, p.name, p.subresource, p.rest);
        assert_eq!(got, want, "{path}");
    }

    #[test]
    fn paths_are_taken_apart() {
        check("/api/v1/pods", "|v1|pods||||");
        check("/api/v1/namespaces", "|v1|namespaces||||");
        check("/api/v1/namespaces/a", "|v1|namespaces||a||");
        check("/api/v1/namespaces/a/status", "|v1|namespaces||a|status|");
        check("/api/v1/namespaces/a/pods/b/log", "|v1|pods|a|b|log|");
        check("/apis/apps/v1/namespaces/a/deployments/b", "apps|v1|deployments|a|b||");
        check("/api/v1/nodes/n/proxy/metrics/x", "|v1|nodes||n|proxy|metrics/x");
        check(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "rbac.authorization.k8s.io|v1|clusterroles||system:node||",
        );
        assert!(resource_path("/healthz").is_none());
        assert!(resource_path("/api/v1").is_none());
    }
}
