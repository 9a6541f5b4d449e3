//! `apply --prune`: what was applied with the same labels, and is in no file any more.

use serde_json::{Value, json};

use super::super::common::{DryRun, LAST_APPLIED};
use crate::client::Call;
use crate::context::Context;
use crate::error::Result;
use crate::print::line;
use crate::select::{self, Selection};

/// Upstream's list, by group and plural.
const TYPES: &[(&str, &str)] = &[
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("", "secrets"),
    ("", "services"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
    ("networking.k8s.io", "ingresses"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
];

pub async fn prune(cx: &Context, selection: &Selection, applied: &[Value]) -> Result<()> {
    let resources = cx.resources().await?;
    let mut types = Vec::new();
    let allowed = cx.args.many("prune-allowlist");
    if allowed.is_empty() {
        types.extend(TYPES.iter().filter_map(|(group, plural)| resources.named(group, plural).ok()));
    }
    for word in allowed {
        let parts: Vec<&str> = word.split('/').collect();
        let [group, version, kind] = parts.as_slice() else {
            return crate::error::fail(format!(
                "invalid GroupVersionKind format: {word}, please follow <group/version/kind>"
            ));
        };
        let version = if *group == "core" { version.to_string() } else { format!("{group}/{version}") };
        types.push(resources.of_kind(&version, kind)?);
    }
    let uids: Vec<&Value> = applied.iter().map(|object| &object["metadata"]["uid"]).collect();
    let mut namespaces: Vec<String> =
        selection.targets.iter().map(|t| t.namespace.clone()).filter(|n| !n.is_empty()).collect();
    namespaces.push(cx.namespace()?);
    namespaces.sort();
    namespaces.dedup();
    let dry = DryRun::of(cx)?;
    for resource in types {
        let places = if resource.namespaced { namespaces.clone() } else { vec![String::new()] };
        for namespace in places {
            let of = Selection {
                selector: selection.selector.clone(),
                namespace: namespace.clone(),
                ..Selection::default()
            };
            let found = select::list(cx, &resource, &of, crate::client::JSON).await?;
            for object in found["items"].as_array().into_iter().flatten() {
                let metadata = &object["metadata"];
                if metadata["annotations"][LAST_APPLIED].is_null() || uids.contains(&&metadata["uid"]) {
                    continue;
                }
                let name = metadata["name"].as_str().unwrap_or("");
                if dry != DryRun::Client {
                    let mut options =
                        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
                    if dry == DryRun::Server {
                        options["dryRun"] = json!(["All"]);
                    }
                    cx.send(Call::new("DELETE", &resource.path(&namespace, name)).body(&options)).await?;
                }
                let suffix = if dry == DryRun::No { "" } else { " (dry run)" };
                line(&format!("{}/{name} pruned{suffix}", resource.qualified()))?;
            }
        }
    }
    Ok(())
}
