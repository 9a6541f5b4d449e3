//! Pods, services, nodes and the other kinds of the core group.

use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, Printer, Shape, age, int, name, number, or_none, pairs, text, wide};

pub fn printer(plural: &str) -> Option<Printer> {
    let (columns, row): Shape = match plural {
        "pods" => (POD, pod),
        "services" => (SERVICE, service),
        "nodes" => (NODE, node),
        "namespaces" => (const { &[NAME, text("Status"), AGE] }, |o, now| {
            vec![name(o), o.str_at(&["status", "phase"]).into(), age(o, now)]
        }),
        "configmaps" => (const { &[NAME, number("Data"), AGE] }, |o, now| {
            let count = |k: &str| o[k].as_object().map_or(0, serde_json::Map::len);
            vec![name(o), json!(count("data") + count("binaryData")), age(o, now)]
        }),
        "secrets" => (const { &[NAME, text("Type"), number("Data"), AGE] }, |o, now| {
            let data = o["data"].as_object().map_or(0, serde_json::Map::len);
            vec![name(o), o.str_at(&["type"]).into(), json!(data), age(o, now)]
        }),
        "serviceaccounts" => (const { &[NAME, number("Secrets"), AGE] }, |o, now| {
            vec![name(o), json!(o.array_at(&["secrets"]).len()), age(o, now)]
        }),
        "endpoints" => (const { &[NAME, text("Endpoints"), AGE] }, |o, now| vec![name(o), endpoints(o), age(o, now)]),
        "events" => (EVENT, event),
        "replicationcontrollers" => (REPLICATION_CONTROLLER, |o, now| {
            let (names, images) = super::containers(&o["spec"]["template"]);
            vec![
                name(o),
                json!(int(o, &["spec", "replicas"])),
                json!(int(o, &["status", "replicas"])),
                json!(int(o, &["status", "readyReplicas"])),
                age(o, now),
                names,
                images,
                pairs(&o["spec"]["selector"]),
            ]
        }),
        "resourcequotas" => (const { &[NAME, text("Request"), text("Limit"), AGE] }, |o, now| {
            let part = |limits: bool| {
                let hard = o["status"]["hard"].as_object().into_iter().flatten();
                let list: Vec<String> = hard
                    .filter(|(k, _)| k.starts_with("limits.") == limits)
                    .map(|(k, v)| format!("{k}: {}/{}", o.str_at(&["status", "used", k]), v.as_str().unwrap_or("")))
                    .collect();
                list.join(", ")
            };
            vec![name(o), part(false).into(), part(true).into(), age(o, now)]
        }),
        "limitranges" => (const { &[NAME, Column { name: "Created At", kind: "date", wide: false }] }, |o, _| {
            vec![name(o), o.at(&["metadata", "creationTimestamp"]).clone()]
        }),
        _ => return None,
    };
    Some(Printer { columns, row })
}

const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const POD: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

fn pod(o: &Value, now: Timestamp) -> Vec<Value> {
    let state = pod_state(o, now);
    let gates = o.array_at(&["spec", "readinessGates"]);
    let conditions = o.array_at(&["status", "conditions"]);
    let met = gates
        .iter()
        .filter(|g| conditions.iter().any(|c| c["type"] == g["conditionType"] && c["status"] == "True"))
        .count();
    let gates = if gates.is_empty() { or_none("") } else { format!("{met}/{}", gates.len()).into() };
    vec![
        name(o),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        state.restarts.into(),
        age(o, now),
        or_none(o.str_at(&["status", "podIP"])),
        or_none(o.str_at(&["spec", "nodeName"])),
        or_none(o.str_at(&["status", "nominatedNodeName"])),
        gates,
    ]
}

struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: String,
}

/// What the STATUS column says, by upstream's rules: the first thing that keeps the pod from running.
fn pod_state(o: &Value, now: Timestamp) -> PodState {
    let phase = o.str_at(&["status", "phase"]);
    let mut reason = o.str_at(&["status", "reason"]).to_string();
    if reason.is_empty() {
        reason = phase.to_string();
    }
    let conditions = o.array_at(&["status", "conditions"]);
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let specs = o.array_at(&["spec", "initContainers"]);
    let sidecar = |n: &str| specs.iter().any(|s| s["name"] == n && s["restartPolicy"] == "Always");
    let mut total = o.array_at(&["spec", "containers"]).len();
    let sidecars = specs.iter().filter(|s| s["restartPolicy"] == "Always").count();
    let mut ready = 0;
    let mut restarts = 0;
    let mut last_restart = "";
    let mut initializing = false;
    let note = |s: &Value, restarts: &mut i64| -> String {
        *restarts += int(s, &["restartCount"]);
        s.str_at(&["lastState", "terminated", "finishedAt"]).to_string()
    };
    let mut last = String::new();
    for (i, s) in o.array_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        last = last.max(note(s, &mut restarts));
        let is_sidecar = sidecar(s.str_at(&["name"]));
        if is_sidecar && s["ready"] == true {
            ready += 1;
        }
        if initializing {
            continue;
        }
        let terminated = &s["state"]["terminated"];
        if terminated.is_object() && int(terminated, &["exitCode"]) == 0 {
            continue;
        }
        if is_sidecar && s["started"] == true {
            continue;
        }
        let waiting = s.str_at(&["state", "waiting", "reason"]);
        reason = if terminated.is_object() {
            format!("Init:{}", exit_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        initializing = true;
    }
    if !initializing {
        restarts = o
            .array_at(&["status", "initContainerStatuses"])
            .iter()
            .filter(|s| sidecar(s.str_at(&["name"])))
            .map(|s| int(s, &["restartCount"]))
            .sum();
        let mut running = false;
        for s in o.array_at(&["status", "containerStatuses"]).iter().rev() {
            last = last.max(note(s, &mut restarts));
            let waiting = s.str_at(&["state", "waiting", "reason"]);
            let terminated = &s["state"]["terminated"];
            if !waiting.is_empty() {
                reason = waiting.into();
            } else if terminated.is_object() {
                reason = exit_reason(terminated);
            } else if s["ready"] == true && s["state"]["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            reason = if is_ready { "Running".into() } else { "NotReady".into() };
        }
    }
    total += sidecars;
    if o.is_deleting() {
        if o.str_at(&["status", "reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    if restarts > 0 && !last.is_empty() {
        last_restart = &last;
    }
    let restarts = if last_restart.is_empty() {
        restarts.to_string()
    } else {
        format!("{restarts} ({} ago)", clock::age(last_restart, now))
    };
    PodState { reason, ready, total, restarts }
}

fn exit_reason(terminated: &Value) -> String {
    let reason = terminated.str_at(&["reason"]);
    if !reason.is_empty() {
        return reason.into();
    }
    match int(terminated, &["signal"]) {
        0 => format!("ExitCode:{}", int(terminated, &["exitCode"])),
        signal => format!("Signal:{signal}"),
    }
}

const SERVICE: &[Column] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];

fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let kind = spec.str_at(&["type"]);
    let balancer: Vec<&str> = o
        .array_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| if i.str_at(&["ip"]).is_empty() { i.str_at(&["hostname"]) } else { i.str_at(&["ip"]) })
        .collect();
    let mut external: Vec<&str> = spec.strings_at(&["externalIPs"]);
    let external = match kind {
        "ExternalName" => spec.str_at(&["externalName"]).to_string(),
        "LoadBalancer" => {
            external.extend(balancer);
            if external.is_empty() { "<pending>".into() } else { external.join(",") }
        }
        _ => external.join(","),
    };
    let ports: Vec<String> = spec
        .array_at(&["ports"])
        .iter()
        .map(|p| match int(p, &["nodePort"]) {
            0 => format!("{}/{}", int(p, &["port"]), p.str_at(&["protocol"])),
            node => format!("{}:{node}/{}", int(p, &["port"]), p.str_at(&["protocol"])),
        })
        .collect();
    vec![
        name(o),
        kind.into(),
        or_none(spec.str_at(&["clusterIP"])),
        or_none(&external),
        or_none(&ports.join(",")),
        age(o, now),
        pairs(&spec["selector"]),
    ]
}

const NODE: &[Column] = &[
    NAME,
    text("Status"),
    text("Roles"),
    AGE,
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = o.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c.str_at(&["status"])) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".into(),
        None => "Unknown".into(),
    };
    if o["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = o
        .labels()
        .into_iter()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" => Some(v),
            _ => None,
        })
        .collect();
    let address = |kind: &str| {
        let found = o.array_at(&["status", "addresses"]).iter().find(|a| a["type"] == kind);
        or_none(found.map(|a| a.str_at(&["address"])).unwrap_or(""))
    };
    let info = |field: &str| -> Value {
        let text = o.str_at(&["status", "nodeInfo", field]);
        if text.is_empty() { "<unknown>".into() } else { text.into() }
    };
    vec![
        name(o),
        status.into(),
        or_none(&roles.join(",")),
        age(o, now),
        o.str_at(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn endpoints(o: &Value) -> Value {
    const SHOWN: usize = 3;
    let mut list = Vec::new();
    for subset in o.array_at(&["subsets"]) {
        for address in subset.array_at(&["addresses"]) {
            let ip = address.str_at(&["ip"]);
            let ports = subset.array_at(&["ports"]);
            if ports.is_empty() {
                list.push(ip.to_string());
            }
            list.extend(ports.iter().map(|p| format!("{ip}:{}", int(p, &["port"]))));
        }
    }
    if list.len() > SHOWN {
        return format!("{} + {} more...", list[..SHOWN].join(","), list.len() - SHOWN).into();
    }
    or_none(&list.join(","))
}

const EVENT: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { name: "Name", kind: "string", wide: true },
];

fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    // One row for both groups' events.
    let mut core = None;
    if let (Some(kind), "events.k8s.io/v1") = (crate::find("events.k8s.io", "v1", "events"), o.str_at(&["apiVersion"]))
    {
        let mut event = o.clone();
        crate::versions::convert(kind, &mut event, "v1");
        core = Some(event);
    }
    let o = core.as_ref().unwrap_or(o);
    let first = [o.str_at(&["firstTimestamp"]), o.str_at(&["eventTime"]), o.meta("creationTimestamp")];
    let first = first.into_iter().find(|t| !t.is_empty()).unwrap_or("");
    let last = [o.str_at(&["series", "lastObservedTime"]), o.str_at(&["lastTimestamp"]), first];
    let last = last.into_iter().find(|t| !t.is_empty()).unwrap_or("");
    let object = &o["involvedObject"];
    let target = format!("{}/{}", object.str_at(&["kind"]).to_ascii_lowercase(), object.str_at(&["name"]));
    let source = [o.str_at(&["source", "component"]), o.str_at(&["reportingComponent"])];
    let source = source.into_iter().find(|s| !s.is_empty()).unwrap_or("").to_string();
    let host = o.str_at(&["source", "host"]);
    let source = if host.is_empty() { source } else { format!("{source}, {host}") };
    let count = o.i64_at(&["series", "count"]).or_else(|| o.i64_at(&["count"])).unwrap_or(1);
    vec![
        clock::age(last, now).into(),
        o.str_at(&["type"]).into(),
        o.str_at(&["reason"]).into(),
        target.into(),
        object.str_at(&["fieldPath"]).into(),
        source.into(),
        o.str_at(&["message"]).trim().into(),
        clock::age(first, now).into(),
        json!(count),
        name(o),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pod: Value) -> String {
        let s = pod_state(&pod, Timestamp::now());
        format!("{}/{} {} {}", s.ready, s.total, s.reason, s.restarts)
    }

    #[test]
    fn pod_status_names_the_first_obstacle() {
        let one = json!({"containers": [{"name": "a"}]});
        let with = |status: Value| json!({"spec": one, "status": status});
        assert_eq!(status(with(json!({"phase": "Pending"}))), "0/1 Pending 0");
        assert_eq!(
            status(with(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]}))),
            "1/1 Running 0"
        );
        assert_eq!(
            status(with(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}))),
            "0/1 CrashLoopBackOff 2"
        );
        assert_eq!(
            status(with(json!({"phase": "Failed", "containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}))),
            "0/1 ExitCode:3 0"
        );
        let init = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "restartCount": 0, "state": {"running": {}}}]}});
        assert_eq!(status(init), "0/1 Init:1/2 0");
    }
}
