//! What the status of a `Pod` may say (upstream's `ValidatePodStatusUpdate`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::Value;

use super::static_pods;
use crate::validate::field::{Causes, Field};
use crate::validate::{IMMUTABLE, status};

pub fn validate(pod: &Value, old: &Value, causes: &mut Causes) {
    static_pods::keep_mirror(pod, old, causes);
    let status = status::of(pod);
    for condition in status.at("conditions").items() {
        condition.at("observedGeneration").not_negative(causes);
        let kind = condition.at("type");
        if kind.require("", causes) {
            kind.is(names::qualified_name, causes);
        }
    }
    if pod["status"]["nominatedNodeName"] != old["status"]["nominatedNodeName"] {
        status.at("nominatedNodeName").is(names::dns1123_subdomain, causes);
    }
    // It follows from what the containers ask for when the pod is made.
    let (class, before) = (status.at("qosClass"), old.str_at(&["status", "qosClass"]));
    if !before.is_empty() && class.text() != before {
        class.invalid(IMMUTABLE, causes);
    }
    ended_containers(pod, old, causes);
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        if addresses_are_wrong(old, one, all).is_none() {
            causes.extend(addresses_are_wrong(pod, one, all));
        }
    }
}

/// A container that has ended for good stays so. (Those with rules of their own for restarts may come back, and init containers run
/// again with a new sandbox.)
fn ended_containers(pod: &Value, old: &Value, causes: &mut Causes) {
    let policy = pod.str_at(&["spec", "restartPolicy"]);
    if !matches!(policy, "Never" | "OnFailure") {
        return;
    }
    let now = pod.array_at(&["status", "containerStatuses"]);
    for (i, before) in old.array_at(&["status", "containerStatuses"]).iter().enumerate() {
        let ended = before.at(&["state", "terminated"]);
        let of = |list: &[&str], key: &str| pod.array_at(list).iter().find(|c| c[key] == before["name"]).cloned();
        let own = of(&["spec", "containers"], "name")
            .is_some_and(|c| !c["restartPolicy"].is_null() || !c.array_at(&["restartPolicyRules"]).is_empty());
        if ended.is_null() || own || (policy == "OnFailure" && ended["exitCode"] != 0) {
            continue;
        }
        let back = now.iter().any(|c| c["name"] == before["name"] && c.at(&["state", "terminated"]).is_null());
        if back {
            let path = format!("status.containerStatuses[{i}].state");
            causes.push(Cause::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
}

/// A list of addresses has one of each family at the most, and the first is the one that older clients read.
fn addresses_are_wrong(pod: &Value, one: &str, all: &str) -> Option<Cause> {
    let status = Field::new(&pod["status"], "status");
    let mut families = BTreeSet::new();
    for address in status.at(all).items().map(|address| address.at("ip")) {
        let Ok(ip) = address.text().parse::<IpAddr>() else {
            let mut causes = Vec::new();
            address.address(&mut causes);
            return causes.pop();
        };
        if !families.insert(ip.is_ipv4()) {
            let why = "may specify no more than one IP for each IP family";
            return Some(Cause::invalid(status.at(all).path, status.at(all).value, why));
        }
    }
    let first = status.at(all).items().next().map(|address| address.at("ip").text().to_string());
    let said = status.at(one);
    let differs = first.is_some_and(|first| !said.is_empty() && first != said.text());
    differs.then(|| Cause::invalid(format!("status.{all}[0].ip"), said.value, &format!("must be equal to `{one}`")))
}
