//! Evicts pods whose devices are tainted (`NoExecute`, KEP-5055; upstream's `pkg/controller/devicetainteviction`): by their driver, in a
//! ResourceSlice, or by an administrator's DeviceTaintRule.

use std::time::Duration;

use apimachinery::clock;
use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRule, ResourceClaim, ResourceClaimConsumerReference,
    ResourceSlice,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::controller::{Controller, Reconcile, all_keys};
use crate::toolkit::{Context, Result, ignore, pods};

pub fn start(context: Context) {
    let claims = context.informers.of::<ResourceClaim>();
    let slices = context.informers.of::<ResourceSlice>();
    let rules = context.informers.of::<DeviceTaintRule>();
    let all = context.informers.of::<Pod>();
    let mut controller = Controller::of(&context, &claims);
    // Of slices only those matter that have tainted devices, or had.
    let known = claims.clone();
    controller.watch(&slices, move |change| {
        let is_tainted = |slice: &ResourceSlice| {
            slice.spec.devices.iter().flatten().any(|device| device.taints.as_ref().is_some_and(|t| !t.is_empty()))
        };
        let matters = match change {
            Change::Applied { new, .. } => is_tainted(new),
            Change::Deleted(_) => false,
        };
        if matters { all_keys(&known) } else { Vec::new() }
    });
    let known = claims.clone();
    controller.watch(&rules, move |_| all_keys(&known));
    controller.needs(&all);
    controller.run("device-taint-eviction", 2, DeviceTaintEvictionController { context, claims, slices, rules, all });
}

struct DeviceTaintEvictionController {
    context: Context,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    rules: Informer<DeviceTaintRule>,
    all: Informer<Pod>,
}

/// When the users of a claim have to go because of a taint of one of its devices; never, if they tolerate it.
fn eviction_time(result: &DeviceRequestAllocationResult, taint: &DeviceTaint, now: Timestamp) -> Option<Timestamp> {
    if taint.effect != "NoExecute" {
        return None;
    }
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    let tolerations = result.tolerations.iter().flatten();
    let seconds: Vec<Option<i64>> = tolerations
        .filter(|toleration| placement::tolerates_device(toleration, taint))
        .map(|toleration| toleration.toleration_seconds)
        .collect();
    if seconds.contains(&None) {
        return None;
    }
    let wait = seconds.into_iter().flatten().map(|seconds| seconds.max(0)).min().unwrap_or(0);
    Some(clock::moved(since, SignedDuration::from_secs(wait)))
}

/// When the users of a claim have to go, if they have to.
fn plan(
    claim: &ResourceClaim,
    taints: impl Fn(&DeviceRequestAllocationResult) -> Vec<DeviceTaint>,
    now: Timestamp,
) -> Option<Timestamp> {
    let allocation = claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref()?;
    let of_result = |result: &DeviceRequestAllocationResult| {
        taints(result).iter().filter_map(|taint| eviction_time(result, taint, now)).min()
    };
    allocation.results.iter().flatten().filter_map(of_result).min()
}

impl Reconcile for DeviceTaintEvictionController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let now = clock::now();
        let (slices, rules) = (self.slices.list(), self.rules.list());
        let taints = |result: &DeviceRequestAllocationResult| {
            let id = (result.driver.as_str(), result.pool.as_str(), result.device.as_str());
            let of_pool = slices.iter().filter(|s| (s.spec.driver.as_str(), s.spec.pool.name.as_str()) == (id.0, id.1));
            let newest = of_pool.clone().map(|slice| slice.spec.pool.generation).max();
            let devices = of_pool.filter(|slice| Some(slice.spec.pool.generation) == newest);
            let devices = devices.flat_map(|slice| slice.spec.devices.iter().flatten()).filter(|d| d.name == id.2);
            let own = devices.flat_map(|device| device.taints.iter().flatten().cloned());
            let of_rules = rules.iter().filter(|rule| placement::rule_taints(rule, id));
            own.chain(of_rules.map(|rule| rule.spec.taint.clone())).collect()
        };
        let Some(when) = plan(&claim, taints, now) else { return Ok(None) };
        if when > now {
            return Ok(Some(when.duration_since(now).unsigned_abs()));
        }
        for user in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            self.evict(key, user).await?;
        }
        Ok(None)
    }
}

impl DeviceTaintEvictionController {
    async fn evict(&self, claim: &Key, user: &ResourceClaimConsumerReference) -> Result {
        let Some(pod) = self.all.get(&Key::new(&claim.namespace, &user.name)) else { return Ok(()) };
        let is_it = user.resource == "pods" && pod.metadata.uid.as_deref() == Some(&user.uid);
        if !is_it || pods::is_deleting(&pod) || pod.is_over() {
            return Ok(());
        }
        self.context.events.normal(pod.as_ref(), "DeviceTaintManagerEviction", "Marking for deletion");
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &claim.namespace);
        let patch = Patch::Strategic(json!({"metadata": {"uid": user.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager",
            "message": "Device Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": clock::now_rfc3339()}]}}));
        ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404, 409])?;
        let preconditions = Some(Preconditions { uid: Some(user.uid.clone()), resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        ignore(api.delete(&pod.key().name, &parameters).await, &[404, 409])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_tainted_devices_go_when_they_tolerate_it_no_longer() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let taint = json!({"key": "broken", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let when = |taint: serde_json::Value, tolerations: serde_json::Value| {
            let claim = json!({"metadata": {"name": "c"}, "spec": {}, "status": {"allocation": {"devices": {"results": [
                {"request": "r", "driver": "d", "pool": "p", "device": "x", "tolerations": tolerations}]}}}});
            let taint: DeviceTaint = serde_json::from_value(taint).unwrap();
            let time = plan(&serde_json::from_value(claim).unwrap(), |_| vec![taint.clone()], now);
            time.map(|time| time.to_string()).unwrap_or_default()
        };
        assert_eq!(when(taint.clone(), json!([])), "2026-01-01T00:00:00Z");
        assert_eq!(when(json!({"key": "broken", "effect": "NoSchedule"}), json!([])), "");
        assert_eq!(when(taint.clone(), json!([{"key": "broken", "operator": "Exists"}])), "");
        let some = json!([{"key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 900}]);
        assert_eq!(when(taint.clone(), some), "2026-01-01T00:15:00Z");
        assert_eq!(when(taint, json!([{"key": "other", "operator": "Exists"}])), "2026-01-01T00:00:00Z");
        assert_eq!(when(json!({"key": "broken", "effect": "NoExecute"}), json!([])), now.to_string());
    }
}
