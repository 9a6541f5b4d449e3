//! Which resources the server has: it is asked once.

use std::sync::Arc;

use serde_json::Value;

use crate::client::Call;
use crate::context::Context;
use crate::error::Result;
use crate::resources::{Resource, Resources};

impl Context {
    /// What the server serves.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn resources(&self) -> Result<&Resources> {
        self.resources.get_or_try_init(|| load(self)).await
    }
}

async fn load(cx: &Context) -> Result<Resources> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let mut all = Vec::new();
    for path in ["/api", "/apis"] {
        let list = cx.json(Call::new("GET", path).accept(accept)).await?;
        if list["kind"] == "APIGroupDiscoveryList" {
            aggregated(&list, &mut all);
        } else {
            plain(cx, &list, &mut all).await?;
        }
    }
    Ok(Resources(all))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").into()
}

fn aggregated(list: &Value, all: &mut Vec<Arc<Resource>>) {
    for group in list["items"].as_array().into_iter().flatten() {
        // Of a resource the first version that has it is the preferred one.
        let mut seen = std::collections::HashSet::new();
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let kind = text(&resource["responseKind"]["kind"]);
                let singular = text(&resource["singularResource"]);
                all.push(Arc::new(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    plural: text(&resource["resource"]),
                    singular: if singular.is_empty() { kind.to_ascii_lowercase() } else { singular },
                    kind,
                    namespaced: resource["scope"] == "Namespaced",
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    verbs: texts(&resource["verbs"]),
                    preferred: seen.insert(text(&resource["resource"])),
                }));
            }
        }
    }
}

/// Servers without aggregated discovery (before 1.26) are asked group by group.
async fn plain(cx: &Context, list: &Value, all: &mut Vec<Arc<Resource>>) -> Result<()> {
    let mut versions: Vec<(String, String, bool)> = Vec::new();
    for (place, version) in texts(&list["versions"]).into_iter().enumerate() {
        versions.push((String::new(), version, place == 0));
    }
    for group in list["groups"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let preferred = group["preferredVersion"]["version"] == version["version"];
            versions.push((text(&group["name"]), text(&version["version"]), preferred));
        }
    }
    for (group, version, preferred) in versions {
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        // A group whose server is away must not hide the others.
        let Ok(found) = cx.get(&path).await else { continue };
        for resource in found["resources"].as_array().into_iter().flatten() {
            let plural = text(&resource["name"]);
            if plural.contains('/') {
                continue;
            }
            let kind = text(&resource["kind"]);
            let singular = text(&resource["singularName"]);
            all.push(Arc::new(Resource {
                group: group.clone(),
                version: version.clone(),
                plural,
                singular: if singular.is_empty() { kind.to_ascii_lowercase() } else { singular },
                kind,
                namespaced: resource["namespaced"] == true,
                short_names: texts(&resource["shortNames"]),
                categories: texts(&resource["categories"]),
                verbs: texts(&resource["verbs"]),
                preferred,
            }));
        }
    }
    Ok(())
}
