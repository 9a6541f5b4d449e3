//! What containers and pods request and may use: limits of cgroups, OOM scores, resizes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::huge_pages;
use runtime::spec::Limits;

use super::is_sidecar;

/// Whether a resource is an extended one: neither Kubernetes' own nor a quota's name (upstream's `IsExtendedResourceName`).
pub fn is_extended(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with("requests.")
        && apimachinery::names::qualified_name(&format!("requests.{resource}")).is_ok()
}

/// Whether a container's policy asks for a restart when what differs between two limits changes.
pub fn resize_restarts(container: &Container, before: Option<&Limits>, after: &Limits) -> bool {
    let Some(before) = before else { return false };
    container.resize_policy.iter().flatten().any(|policy| {
        let changed = match policy.resource_name.as_str() {
            "cpu" => (before.cpu_shares, before.cpu_milli) != (after.cpu_shares, after.cpu_milli),
            "memory" => before.memory_bytes != after.memory_bytes,
            _ => false,
        };
        changed && policy.restart_policy == "RestartContainer"
    })
}

/// The weight of a request, in thousandths of a core, within the kernel's bounds, as upstream has it.
pub fn shares(milli: i64) -> u64 {
    let shares = u64::try_from(milli).unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(2, 262_144)
}

/// The most thousandths of a core that anything is limited to: far more than machines have, and what is computed from it (a quota in
/// microseconds) doesn't overflow.
const MAX_CPU_MILLI: i64 = 1_000_000_000;

/// What a container may use of the machine.
pub fn limits(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let amount = |map: &Option<BTreeMap<String, _>>, name: &str| -> apimachinery::Quantity {
        let quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            map.as_ref().and_then(|m| m.get(name));
        quantity.and_then(|q| q.0.parse().ok()).unwrap_or_default()
    };
    let milli = |map: &Option<BTreeMap<String, _>>, name: &str| amount(map, name).milli();
    let request = milli(&resources.requests, "cpu");
    Limits {
        cpu_shares: shares(request),
        cpu_milli: milli(&resources.limits, "cpu").clamp(0, MAX_CPU_MILLI),
        memory_bytes: amount(&resources.limits, "memory").value().max(0),
        ..Limits::default()
    }
}

/// What a pod may use as a whole: what it says itself, else what its containers may together if each says so.
pub fn pod_limits(pod: &Pod) -> Limits {
    let pod = serde_json::to_value(pod).unwrap_or_default();
    let amounts = |part: &str| api::quota::pod_amounts(&pod, part);
    let spec = &pod["spec"];
    let all = || ["containers", "initContainers"].into_iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    let says = |name: &str| {
        !spec["resources"]["limits"][name].is_null() || all().all(|c| !c["resources"]["limits"][name].is_null())
    };
    let (requests, limits) = (amounts("requests"), amounts("limits"));
    let limit = |name: &str| limits.get(name).filter(|_| says(name)).copied().unwrap_or_default();
    let request = requests.get("cpu").copied().unwrap_or_default().milli();
    let bytes = |name: &str| limits.get(name).map_or(0, |limit| limit.value().max(0) as u64);
    Limits {
        cpu_shares: shares(request),
        cpu_milli: limit("cpu").milli().clamp(0, MAX_CPU_MILLI),
        memory_bytes: limit("memory").value().max(0),
        pids: 0,
        // A pod that asks for none gets none.
        huge_pages: huge_pages::sizes().into_iter().map(|size| (size, bytes(&huge_pages::resource(size)))).collect(),
    }
}

/// The score that upstream gives by QoS class. What a node can't do without is spared, and a sidecar is spared as long as the main
/// containers are.
/// `total` is the machine's memory in bytes.
pub fn oom_score(pod: &Pod, container: &Container, total: u64) -> i64 {
    let total = i128::from(total.max(1));
    let Some(spec) = &pod.spec else { return 1000 };
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("BestEffort") => 1000,
        _ => {
            let score = |container: &Container| {
                let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
                let asked = requests.and_then(|r| r.get("memory"));
                let asked = asked.and_then(|q| q.0.parse::<apimachinery::Quantity>().ok()).map_or(0, |q| q.value());
                i64::try_from(1000 - 1000 * i128::from(asked) / total).unwrap_or(3).clamp(3, 999)
            };
            let own = score(container);
            let sidecar = spec.init_containers.iter().flatten().any(|c| c.name == container.name && is_sidecar(c));
            let least = spec.containers.iter().map(score).min().filter(|_| sidecar);
            own.min(least.unwrap_or(own))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::spec::started;

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "p"}, "status": {"qosClass": "Burstable"},
            "spec": {"containers": containers, "initContainers": init}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn sidecars_are_spared_as_long_as_main_containers() {
        let asks = |name: &str, memory: &str| json!({"name": name, "resources": {"requests": {"memory": memory}}});
        let mut proxy = asks("proxy", "1");
        proxy["restartPolicy"] = "Always".into();
        let pod = pod(json!([asks("a", "500"), asks("b", "100")]), json!([proxy, asks("plain", "1")]));
        let score = |name: &str| {
            let spec = pod.spec.as_ref().unwrap();
            oom_score(&pod, started(spec).find(|c| c.name == name).unwrap(), 1000)
        };
        assert_eq!(["a", "b", "proxy", "plain"].map(score), [500, 900, 500, 999]);
    }

    proptest! {
        /// Whatever amounts a pod names, what is computed from them stays within the kernel's bounds.
        #[test]
        fn extremes_of_amounts_are_borne(
            cpu in "(-)?[0-9]{1,18}(|m|k|M|G|T|P|E)", memory in "(-)?[0-9]{1,18}(|Ki|Mi|Gi|Ti|Pi|Ei)", total in 1u64..1 << 60
        ) {
            let resources = json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
            let pod = pod(json!([{"name": "c", "resources": resources}]), json!([]));
            let container = &pod.spec.as_ref().unwrap().containers[0];
            for limits in [limits(container), pod_limits(&pod)] {
                prop_assert!((2..=262_144).contains(&limits.cpu_shares));
                prop_assert!((0..=MAX_CPU_MILLI).contains(&limits.cpu_milli) && limits.memory_bytes >= 0);
            }
            prop_assert!((3..=999).contains(&oom_score(&pod, container, total)));
        }
    }
}
