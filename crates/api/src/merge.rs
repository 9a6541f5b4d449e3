//! Merge keys of lists, as upstream's `patchMergeKey` and `patchStrategy` tags say.

use apimachinery::patch::{ListMerge, MergeStrategy};

/// Strategies of the built-in kinds. Field names mean the same everywhere, with the exceptions below.
pub struct BuiltinStrategy;

impl MergeStrategy for BuiltinStrategy {
    fn list(&self, path: &[String]) -> ListMerge {
        let field = path.last().map(String::as_str).unwrap_or("");
        let parent = path.len().checked_sub(2).map(|i| path[i].as_str()).unwrap_or("");
        match field {
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "env"
            | "imagePullSecrets"
            | "resourceClaims"
            | "resourceClaimStatuses"
            | "schedulingGates"
            | "secrets"
            | "webhooks"
            | "matchConditions"
            | "drivers" => ListMerge::ByKey("name"),
            "volumeMounts" => ListMerge::ByKey("mountPath"),
            "volumeDevices" => ListMerge::ByKey("devicePath"),
            "hostAliases" => ListMerge::ByKey("ip"),
            "podIPs" => ListMerge::ByKey("ip"),
            "topologySpreadConstraints" => ListMerge::ByKey("topologyKey"),
            "ownerReferences" => ListMerge::ByKey("uid"),
            "conditions" => ListMerge::ByKey("type"),
            "addresses" if parent == "status" => ListMerge::ByKey("type"),
            "ports" if matches!(parent, "containers" | "initContainers" | "ephemeralContainers") => {
                ListMerge::ByKey("containerPort")
            }
            "ports" if parent == "spec" => ListMerge::ByKey("port"),
            "finalizers" if parent == "metadata" => ListMerge::Set,
            "podCIDRs" => ListMerge::Set,
            _ => ListMerge::Replace,
        }
    }
}
