//! Nodes, with what their pods ask for.

use apimachinery::quantity::Quantity;
use serde_json::Value;

use super::{Text, age, items, plain, text, time};
use crate::client::Call;
use crate::context::Context;
use crate::error::Result;

pub async fn describe(cx: &Context, out: &mut Text, node: &Value) -> Result<()> {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    out.field(0, "Name", text(&metadata["name"]));
    out.field(0, "Roles", &roles(&metadata["labels"]));
    out.labels("Labels", &metadata["labels"]);
    out.annotations("Annotations", &metadata["annotations"]);
    out.field(0, "CreationTimestamp", &time(&metadata["creationTimestamp"]));
    let taints = items(&spec["taints"]).iter().map(|t| {
        let value = text(&t["value"]);
        let value = if value.is_empty() { String::new() } else { format!("={value}") };
        format!("{}{value}:{}", text(&t["key"]), text(&t["effect"]))
    });
    let mut taints: Vec<String> = taints.collect();
    taints.sort();
    out.field(0, "Taints", &if taints.is_empty() { "<none>".into() } else { taints.join("\n\t") });
    out.field(0, "Unschedulable", if spec["unschedulable"] == true { "true" } else { "false" });
    lease(cx, out, text(&metadata["name"])).await;
    if !items(&status["conditions"]).is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        out.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
        for c in items(&status["conditions"]) {
            let row = format!(
                "{} \t{} \t{} \t{} \t{} \t{}",
                text(&c["type"]),
                text(&c["status"]),
                time(&c["lastHeartbeatTime"]),
                time(&c["lastTransitionTime"]),
                text(&c["reason"]),
                text(&c["message"])
            );
            out.line(1, &row);
        }
    }
    out.line(0, "Addresses:");
    for address in items(&status["addresses"]) {
        out.field(1, text(&address["type"]), text(&address["address"]));
    }
    for (name, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        if let Some(map) = status[field].as_object().filter(|m| !m.is_empty()) {
            out.line(0, &format!("{name}:"));
            for (resource, amount) in map {
                out.field(1, resource, &plain(amount));
            }
        }
    }
    system(out, status);
    out.maybe(0, "PodCIDR", &spec["podCIDR"]);
    if !items(&spec["podCIDRs"]).is_empty() {
        out.field(0, "PodCIDRs", &items(&spec["podCIDRs"]).iter().map(text).collect::<Vec<_>>().join(","));
    }
    out.maybe(0, "ProviderID", &spec["providerID"]);
    let filter = format!("spec.nodeName={},status.phase!=Failed,status.phase!=Succeeded", text(&metadata["name"]));
    match cx.json(Call::new("GET", "/api/v1/pods").query("fieldSelector", filter).query("limit", "500")).await {
        Ok(found) => pods(out, node, items(&found["items"])),
        Err(error) if error.reason() == "Forbidden" => out.field(0, "Pods", "not authorized"),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn system(out: &mut Text, status: &Value) {
    out.line(0, "System Info:");
    for (name, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        out.field(1, name, text(&status["nodeInfo"][field]));
    }
}

fn roles(labels: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" && value != "" => roles.push(text(value)),
            _ => {}
        }
    }
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

async fn lease(cx: &Context, out: &mut Text, name: &str) {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    match cx.get(&path).await {
        Ok(lease) => {
            out.line(0, "Lease:");
            out.field(1, "HolderIdentity", lease["spec"]["holderIdentity"].as_str().unwrap_or("<unset>"));
            let at = |field: &str| {
                if lease["spec"][field].is_null() { "<unset>".to_string() } else { time(&lease["spec"][field]) }
            };
            out.field(1, "AcquireTime", &at("acquireTime"));
            out.field(1, "RenewTime", &at("renewTime"));
        }
        Err(error) => out.field(0, "Lease", &format!("Failed to get lease: {}", error.text())),
    }
}

/// What a pod asks for: its containers together, or the largest of those that run before.
fn asks(pod: &Value, field: &str, resource: &str) -> i128 {
    let of = |container: &Value| amount(&container["resources"][field][resource]);
    let spec = &pod["spec"];
    if !spec["resources"][field][resource].is_null() {
        return amount(&spec["resources"][field][resource]);
    }
    let mut sidecars = 0_i128;
    let mut before = 0_i128;
    for init in items(&spec["initContainers"]) {
        if init["restartPolicy"] == "Always" {
            sidecars = sidecars.saturating_add(of(init));
            before = before.max(sidecars);
        } else {
            before = before.max(sidecars.saturating_add(of(init)));
        }
    }
    let together = items(&spec["containers"]).iter().map(of).fold(sidecars, i128::saturating_add);
    let overhead = if together > 0 || field == "requests" { amount(&spec["overhead"][resource]) } else { 0 };
    together.max(before).saturating_add(overhead)
}

/// In thousandths.
fn amount(value: &Value) -> i128 {
    Quantity::from_json(value).map_or(0, |q| i128::from(q.milli()))
}

fn shown(milli: i128, resource: &str) -> String {
    let milli = i64::try_from(milli).unwrap_or(i64::MAX);
    Quantity::from_milli(milli).canonical(resource != "cpu")
}

fn share(milli: i128, of: i128) -> i128 {
    if of == 0 { 0 } else { milli.saturating_mul(100).checked_div(of).unwrap_or(0) }
}

fn pods(out: &mut Text, node: &Value, pods: &[Value]) {
    let status = &node["status"];
    let whole = if status["allocatable"].is_object() { &status["allocatable"] } else { &status["capacity"] };
    out.field(0, "Non-terminated Pods", &format!("({} in total)", pods.len()));
    out.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    out.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let cell = |pod: &Value, field: &str, resource: &str| {
        let asked = asks(pod, field, resource);
        format!("{} ({}%)", shown(asked, resource), share(asked, amount(&whole[resource])))
    };
    for pod in pods {
        let metadata = &pod["metadata"];
        out.line(
            1,
            &format!(
                "{}\t{}\t\t{}\t{}\t{}\t{}\t{}",
                text(&metadata["namespace"]),
                text(&metadata["name"]),
                cell(pod, "requests", "cpu"),
                cell(pod, "limits", "cpu"),
                cell(pod, "requests", "memory"),
                cell(pod, "limits", "memory"),
                age(&metadata["creationTimestamp"])
            ),
        );
    }
    out.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    out.line(1, "Resource\tRequests\tLimits");
    out.line(1, "--------\t--------\t------");
    let sum =
        |field: &str, resource: &str| pods.iter().map(|p| asks(p, field, resource)).fold(0_i128, i128::saturating_add);
    let standard = ["cpu", "memory", "ephemeral-storage"];
    let huge = whole.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).filter(|k| k.starts_with("hugepages-"));
    for resource in standard.into_iter().chain(huge) {
        let (requests, limits) = (sum("requests", resource), sum("limits", resource));
        let all = amount(&whole[resource]);
        out.line(
            1,
            &format!(
                "{resource}\t{} ({}%)\t{} ({}%)",
                shown(requests, resource),
                share(requests, all),
                shown(limits, resource),
                share(limits, all)
            ),
        );
    }
    for (resource, _) in whole.as_object().into_iter().flatten() {
        if !standard.contains(&resource.as_str()) && resource != "pods" && !resource.starts_with("hugepages-") {
            out.line(
                1,
                &format!(
                    "{resource}\t{}\t{}",
                    shown(sum("requests", resource), resource),
                    shown(sum("limits", resource), resource)
                ),
            );
        }
    }
}
