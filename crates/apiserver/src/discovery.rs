//! Discovery documents: which groups, versions and resources there are. Made anew when a custom resource
//! definition changes, and kept until then.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use api::{Kind, Subresource, Verbs};
use apimachinery::ObjectExt as _;
use parking_lot::Mutex;

use crate::aggregator::{Aggregator, Served};
use crate::registry::Catalog;
use crate::response::{self, Body};

/// Discovery documents, kept until kinds or further API servers change.
pub struct Discovery {
    catalog: Arc<Catalog>,
    aggregator: Arc<Aggregator>,
    made: Mutex<Option<Arc<Documents>>>,
}

struct Documents {
    /// Of the catalog, and of what other servers serve.
    generation: (u64, u64),
    kinds: Vec<&'static Kind>,
    aggregated_core: Bytes,
    aggregated_groups: Bytes,
    groups: Vec<&'static str>,
    /// Groups and versions of other servers.
    others: Vec<(String, String)>,
}

const ALL_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn verbs(kind: &Kind) -> Value {
    match kind.verbs {
        Verbs::All if !kind.strategy.deletion.by_collection => {
            json!(ALL_VERBS.iter().filter(|verb| **verb != "deletecollection").collect::<Vec<_>>())
        }
        Verbs::All => json!(ALL_VERBS),
        Verbs::Create => json!(["create"]),
        Verbs::Read => json!(["get", "list"]),
    }
}

/// Group, version and kind of what is sent to a subresource.
fn body_of(kind: &Kind, sub: Subresource) -> (&'static str, &'static str, &'static str) {
    sub.body().unwrap_or((kind.group, kind.version, kind.kind))
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let scope = if kind.namespaced { "Namespaced" } else { "Cluster" };
    let mut value = json!({"resource": kind.plural(), "responseKind": gvk(kind.group, kind.version, kind.kind),
        "scope": scope, "singularResource": kind.singular(), "verbs": verbs(kind)});
    if !kind.short_names.is_empty() {
        value["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        value["categories"] = json!(kind.categories);
    }
    let subs: Vec<Value> = kind
        .subresources()
        .iter()
        .map(|&s| {
            let (group, version, of) = body_of(kind, s);
            json!({"subresource": s.name(), "responseKind": gvk(group, version, of), "verbs": s.verbs()})
        })
        .collect();
    if !subs.is_empty() {
        value["subresources"] = json!(subs);
    }
    value
}

/// What another server serves, as the aggregated form has it.
fn aggregated_other(group: &str, version: &str, served: &Served) -> Value {
    let listed = &served.resources;
    let gvk_of = |r: &Value| {
        let or = |key: &str, own: &str| r[key].as_str().filter(|t| !t.is_empty()).unwrap_or(own).to_string();
        gvk(&or("group", group), &or("version", version), r.str_at(&["kind"]))
    };
    let main = listed.iter().filter(|r| !r.str_at(&["name"]).contains('/'));
    let resources: Vec<Value> = main
        .map(|r| {
            let name = r.str_at(&["name"]);
            let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut value = json!({"resource": name, "responseKind": gvk_of(r), "scope": scope,
                "singularResource": r.str_at(&["singularName"]), "verbs": r["verbs"]});
            for key in ["shortNames", "categories"] {
                if !r[key].is_null() {
                    value[key] = r[key].clone();
                }
            }
            let subs =
                listed.iter().filter_map(|s| Some((s, s.str_at(&["name"]).strip_prefix(name)?.strip_prefix('/')?)));
            let subs: Vec<Value> = subs
                .map(|(s, sub)| json!({"subresource": sub, "responseKind": gvk_of(s), "verbs": s["verbs"]}))
                .collect();
            if !subs.is_empty() {
                value["subresources"] = json!(subs);
            }
            value
        })
        .collect();
    let freshness = if served.is_current { "Current" } else { "Stale" };
    json!({"version": version, "freshness": freshness, "resources": resources})
}

fn aggregated(kinds: &[&'static Kind], groups: &[&str], others: &[((String, String), Served)]) -> Bytes {
    let mut groups = groups.to_vec();
    for ((group, _), _) in others {
        if !groups.contains(&group.as_str()) {
            groups.push(group);
        }
    }
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let theirs = others.iter().filter(|((g, _), _)| g == group);
            let theirs = theirs.map(|((g, version), served)| aggregated_other(g, version, served));
            let versions: Vec<Value> = versions(kinds, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = kinds
                        .iter()
                        .filter(|k| k.group == *group && k.version == version)
                        .map(|k| aggregated_resource(k))
                        .collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .chain(theirs)
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = (*group).into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
        .to_string()
        .into()
}

fn versions<'a>(kinds: &[&'static Kind], group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&'a str> = kinds.iter().filter(|k| k.group == group).map(|k| k.version).collect();
    versions.dedup();
    versions
}

fn group_value(kinds: &[&'static Kind], others: &[(String, String)], group: &str) -> Value {
    let of = |v: &&str| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    let mut versions = versions(kinds, group);
    versions.extend(others.iter().filter(|(g, _)| g == group).map(|(_, version)| version.as_str()));
    json!({"name": group, "versions": versions.iter().map(of).collect::<Vec<_>>(),
           "preferredVersion": versions.first().map(of)})
}

impl Documents {
    fn make(catalog: &Catalog, aggregator: &Aggregator) -> Self {
        let generation = (catalog.generation(), aggregator.generation());
        let kinds = catalog.kinds();
        let mut groups: Vec<&'static str> = Vec::new();
        for kind in &kinds {
            if !kind.group.is_empty() && !groups.contains(&kind.group) {
                groups.push(kind.group);
            }
        }
        let served = aggregator.served();
        let aggregated_groups = aggregated(&kinds, &groups, &served);
        let others = served.into_iter().map(|(group_version, _)| group_version).collect();
        Documents {
            generation,
            aggregated_core: aggregated(&kinds, &[""], &[]),
            aggregated_groups,
            kinds,
            groups,
            others,
        }
    }
}

impl Discovery {
    /// Documents of what the catalog and further API servers serve.
    pub fn new(catalog: Arc<Catalog>, aggregator: Arc<Aggregator>) -> Self {
        Discovery { catalog, aggregator, made: Mutex::default() }
    }

    fn documents(&self) -> Arc<Documents> {
        let mut made = self.made.lock();
        if let Some(present) = &*made
            && present.generation == (self.catalog.generation(), self.aggregator.generation())
        {
            return present.clone();
        }
        let new = Arc::new(Documents::make(&self.catalog, &self.aggregator));
        *made = Some(new.clone());
        new
    }

    fn aggregated_response(bytes: &Bytes) -> Response<Body> {
        let mut response = response::json_bytes(200, bytes.clone());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
        response
    }

    /// `/api` in the aggregated form (KEP-3352).
    pub fn aggregated_core(&self) -> Response<Body> {
        Self::aggregated_response(&self.documents().aggregated_core)
    }

    /// `/apis` in the aggregated form (KEP-3352).
    pub fn aggregated_groups(&self) -> Response<Body> {
        Self::aggregated_response(&self.documents().aggregated_groups)
    }

    /// `/api`; the address is where clients reach the server.
    pub fn core_versions(&self, (address, port): (IpAddr, u16)) -> Value {
        json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs":
            [{"clientCIDR": "0.0.0.0/0", "serverAddress": apimachinery::authority(address, port)}]})
    }

    /// `/apis`.
    pub fn groups(&self) -> Value {
        let documents = self.documents();
        let mut groups: Vec<&str> = documents.groups.clone();
        for (group, _) in &documents.others {
            if !groups.contains(&group.as_str()) {
                groups.push(group);
            }
        }
        let groups: Vec<Value> = groups.iter().map(|g| group_value(&documents.kinds, &documents.others, g)).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// `/apis/GROUP`; none for a group that isn't served.
    pub fn group(&self, group: &str) -> Option<Response<Body>> {
        let documents = self.documents();
        let known = documents.groups.contains(&group) || documents.others.iter().any(|(g, _)| g == group);
        known.then(|| {
            let mut value = group_value(&documents.kinds, &documents.others, group);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            response::json(200, &value)
        })
    }

    /// The resources of a version of a group; none for one that isn't served.
    pub fn resources(&self, group: &str, version: &str) -> Option<Response<Body>> {
        let mut resources = Vec::new();
        for kind in self.documents().kinds.iter().filter(|k| k.group == group && k.version == version) {
            let mut value = json!({"name": kind.plural(), "singularName": kind.singular(),
                "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs(kind)});
            if !kind.short_names.is_empty() {
                value["shortNames"] = json!(kind.short_names);
            }
            if !kind.categories.is_empty() {
                value["categories"] = json!(kind.categories);
            }
            resources.push(value);
            for &s in kind.subresources() {
                let (group, version, of) = body_of(kind, s);
                let mut value = json!({"name": format!("{}/{}", kind.plural(), s.name()), "singularName": "",
                    "namespaced": kind.namespaced, "kind": of, "verbs": s.verbs()});
                if group != kind.group {
                    value["group"] = group.into();
                    value["version"] = version.into();
                }
                resources.push(value);
            }
        }
        if resources.is_empty() {
            return None;
        }
        let group_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
                          "resources": resources});
        Some(response::json(200, &list))
    }
}
