//! What a request asks for: its path, verb and query, and the options in them.

mod options;
mod path;
mod query;

use api::{Kind, Subresource, Verbs, kinds};
use apimachinery::Status;
use http::{Method, Uri};

use crate::registry::{Catalog, object_key};

pub use options::{DeleteOptions, FieldValidation, dry_run};
pub use path::{ResourcePath, resource_path, verb};
pub use query::Query;

/// What a request asks for, read once when it comes in (upstream's `RequestInfo`). What is wrong with it is found out later.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    pub query: Query,
    /// The RBAC verb: for paths that are no resource, the method. None where there is none for the method.
    pub verb: Option<&'static str>,
    /// None for paths that are no resource.
    pub resource: Option<ResourceInfo>,
}

/// A resource that a path names.
#[derive(Debug, Clone)]
pub struct ResourceInfo {
    pub path: ResourcePath,
    /// None if this server doesn't serve it.
    pub kind: Option<&'static Kind>,
    /// The kind's subresource that the path names; none where it names none, or one that the kind hasn't got.
    pub subresource: Option<Subresource>,
}

impl RequestInfo {
    /// Reads method and URL.
    pub fn read(catalog: &Catalog, method: &Method, uri: &Uri) -> Self {
        let query = Query::parse(uri);
        let Some(path) = resource_path(uri.path()) else {
            let verb = match *method {
                Method::GET => Some("get"),
                Method::HEAD => Some("head"),
                Method::POST => Some("post"),
                Method::PUT => Some("put"),
                Method::PATCH => Some("patch"),
                Method::DELETE => Some("delete"),
                Method::OPTIONS => Some("options"),
                _ => None,
            };
            return RequestInfo { query, verb, resource: None };
        };
        let verb = verb(method, &path, &query);
        let kind = catalog.find(&path.group, &path.version, &path.plural);
        let subresource = kind.and_then(|kind| kind.subresource(&path.subresource));
        RequestInfo { query, verb, resource: Some(ResourceInfo { path, kind, subresource }) }
    }

    /// Whether it is for a subresource that streams.
    pub fn is_stream(&self) -> bool {
        self.resource.as_ref().and_then(|resource| resource.subresource).is_some_and(Subresource::is_stream)
    }
}

/// A request for a resource of this server.
#[derive(Debug, Clone)]
pub struct ResourceRequest {
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

impl ResourceRequest {
    /// `pods` or `pods/log`, as RBAC names it.
    pub fn resource(&self) -> String {
        match self.path.subresource.as_str() {
            "" => self.path.plural.clone(),
            sub => format!("{}/{sub}", self.path.plural),
        }
    }

    /// The object's key in its resource.
    pub fn key(&self) -> String {
        object_key(&self.path.namespace, &self.path.name)
    }

    /// The namespace whose rights count. A namespace belongs to itself: rights in it are rights to it.
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
        // Reviews aren't stored, so none has a name.
        let named = self.kind.verbs != Verbs::Create || path.name.is_empty();
        subresource && scope && named
    }

    /// 404 for the object that the path names.
    pub fn not_found(&self) -> Status {
        self.kind.not_found(&self.path.name)
    }
}

/// The field manager of a request: `fieldManager`, else the program in `User-Agent`, else the user.
///
/// # Errors
/// When the client's name for it is too long or can't be printed.
pub fn manager(query: &Query, headers: &http::HeaderMap, user: &str) -> Result<String, Status> {
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
    let name = user.strip_prefix("system:").unwrap_or(user);
    Ok(if name.starts_with("node:") { "kubelet".into() } else { name.into() })
}
