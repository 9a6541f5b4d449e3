//! What a URL asks for.

use apimachinery::{FieldSelector, LabelSelector, Status};
use http::{Method, Uri};

use api::{Kind, Subresource, Verbs, kinds};

use crate::auth::User;
use crate::managed::Writer;
use crate::object::Filter;

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

/// A request after its URL is understood.
#[derive(Debug, Clone)]
pub struct Info {
    pub kind: &'static Kind,
    pub path: ResourcePath,
    /// The kind's subresource that the path names; none where it names none, or one that the kind hasn't got.
    pub subresource: Option<Subresource>,
    /// The RBAC verb.
    pub verb: &'static str,
    pub query: Query,
    /// Who the fields that are written belong to.
    pub manager: String,
}

/// The field manager of a request: what the client says, else the program's name, else the user's.
///
/// # Errors
/// When the client's name for it is too long or can't be printed.
pub fn manager(query: &Query, headers: &http::HeaderMap, user: &User) -> Result<String, Status> {
    let said = query.get("fieldManager");
    if said.chars().count() > 128 {
        return Err(Status::bad_request("fieldManager: Too long: may not be more than 128 bytes"));
    }
    if said.chars().any(char::is_control) {
        return Err(Status::bad_request("fieldManager: Invalid value: should only contain printable characters"));
    }
    if !said.is_empty() {
        return Ok(said.into());
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let program = agent.split('/').next().unwrap_or("");
    if !program.is_empty() {
        return Ok(program.chars().take(128).collect());
    }
    let name = user.name.strip_prefix("system:").unwrap_or(&user.name);
    Ok(if name.starts_with("node:") { "kubelet".into() } else { name.into() })
}

impl Info {
    /// The writer, for `metadata.managedFields`.
    pub fn writer(&self) -> Writer {
        Writer { manager: self.manager.clone(), subresource: self.path.subresource.clone() }
    }

    /// `pods` or `pods/log`, as RBAC names it.
    pub fn resource(&self) -> String {
        match self.path.subresource.as_str() {
            "" => self.path.plural.clone(),
            sub => format!("{}/{sub}", self.path.plural),
        }
    }

    pub fn key(&self) -> String {
        crate::cache::object_key(&self.path.namespace, &self.path.name)
    }

    /// The namespace whose rights count. A namespace belongs to itself, so that whoever may read in it may read it.
    pub fn namespace(&self) -> &str {
        if self.kind == kinds::NAMESPACES { &self.path.name } else { &self.path.namespace }
    }

    /// Whether the path is one that the kind has: rights are asked about before, as they are upstream.
    pub fn is_served(&self) -> bool {
        let path = &self.path;
        let subresource = match self.subresource {
            Some(sub) => path.rest.is_empty() || sub.is_proxy(),
            None => path.subresource.is_empty(),
        };
        let scope = match (self.kind.namespaced, path.namespace.is_empty()) {
            (true, true) => path.name.is_empty(),
            (true, false) | (false, true) => true,
            (false, false) => false,
        };
        // Reviews are answered, not kept, so none has a name.
        let named = self.kind.verbs != Verbs::Create || path.name.is_empty();
        subresource && scope && named
    }

    pub fn not_found(&self) -> Status {
        self.kind.not_found(&self.path.name)
    }
}

/// The query's parameters, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or("").as_bytes());
        Query { pairs: pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect() }
    }

    pub fn get(&self, key: &str) -> &str {
        self.pairs.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    /// All parameters, decoded.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// All values of a parameter that may be given several times.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
    }

    pub fn flag(&self, key: &str) -> bool {
        self.pairs.iter().any(|(k, v)| k == key && matches!(v.as_str(), "" | "1" | "true" | "True"))
    }

    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{key}: Invalid value: {text:?}: it must be a number"))),
        }
    }

    /// Selectors of a list, watch or deletecollection of `kind`.
    pub fn filter(&self, kind: &Kind, namespace: &str) -> Result<Filter, Status> {
        let labels = LabelSelector::parse(self.get("labelSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields =
            FieldSelector::parse(self.get("fieldSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        for (path, _, _) in &mut fields.terms {
            let common = path == "metadata.name" || (kind.namespaced && path == "metadata.namespace");
            if !common && !kind.selectable.contains(&path.as_str()) {
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
            // What is kept calls its fields by other names.
            let place = kind.selectable.iter().position(|selectable| *selectable == path.as_str());
            let kept = kind.kept_as().and_then(|kept| kept.selectable.get(place?));
            if let Some(kept) = kept {
                *path = (*kept).into();
            }
        }
        Ok(Filter { namespace: namespace.into(), labels, fields })
    }
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
        // The parameters of a subresource's path are those of whom it leads to.
        Method::GET | Method::HEAD if one && (!query.flag("watch") || !path.subresource.is_empty()) => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        // What a proxy passes on, for those who may do everything: no rule can name it.
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

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(&"/x?labelSelector=a%3Db%2Cc&watch=1&limit=5&x".parse().unwrap());
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
        assert_eq!(query.number::<u32>("limit").unwrap(), Some(5));
        assert!(query.number::<u32>("labelSelector").is_err());
    }
}
