//! Pods and their templates.

use serde_json::Value;

use super::{Text, age, items, number, plain, selector, text, time, title};

pub fn describe(out: &mut Text, pod: &Value) {
    let (spec, status, metadata) = (&pod["spec"], &pod["status"], &pod["metadata"]);
    out.field(0, "Name", text(&metadata["name"]));
    out.field(0, "Namespace", text(&metadata["namespace"]));
    out.maybe(0, "Priority", &spec["priority"]);
    out.maybe(0, "Priority Class Name", &spec["priorityClassName"]);
    out.maybe(0, "Runtime Class Name", &spec["runtimeClassName"]);
    out.maybe(0, "Service Account", &spec["serviceAccountName"]);
    match text(&spec["nodeName"]) {
        "" => out.field(0, "Node", "<none>"),
        node => out.field(0, "Node", &format!("{node}/{}", text(&status["hostIP"]))),
    }
    if !status["startTime"].is_null() {
        out.field(0, "Start Time", &time(&status["startTime"]));
    }
    out.labels("Labels", &metadata["labels"]);
    out.annotations("Annotations", &metadata["annotations"]);
    let phase = text(&status["phase"]);
    if !metadata["deletionTimestamp"].is_null() && !["Failed", "Succeeded"].contains(&phase) {
        out.field(0, "Status", &format!("Terminating (lasts {})", age(&metadata["deletionTimestamp"])));
        out.field(0, "Termination Grace Period", &format!("{}s", number(&metadata["deletionGracePeriodSeconds"])));
    } else {
        out.field(0, "Status", phase);
    }
    out.maybe(0, "Reason", &status["reason"]);
    out.maybe(0, "Message", &status["message"]);
    out.maybe(0, "SeccompProfile", &spec["securityContext"]["seccompProfile"]["type"]);
    out.maybe(0, "LocalhostProfile", &spec["securityContext"]["seccompProfile"]["localhostProfile"]);
    out.field(0, "IP", text(&status["podIP"]));
    addresses(out, status);
    out.controlled_by(pod);
    out.maybe(0, "NominatedNodeName", &status["nominatedNodeName"]);
    if spec["resources"].is_object() {
        out.line(0, "Resources:");
        resources(out, &spec["resources"], 1);
    }
    for (label, list, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if list == "containers" || !items(&spec[list]).is_empty() {
            containers(out, label, &spec[list], &status[statuses], "", Some(pod));
        }
    }
    conditions(out, spec, status);
    super::volumes::of_pod(out, &spec["volumes"], "");
    out.field(0, "QoS Class", text(&status["qosClass"]));
    out.labels("Node-Selectors", &spec["nodeSelector"]);
    tolerations(out, "Tolerations", &spec["tolerations"]);
    spread(out, &spec["topologySpreadConstraints"], "");
}

fn addresses(out: &mut Text, status: &Value) {
    if items(&status["podIPs"]).is_empty() {
        out.field(0, "IPs", "<none>");
        return;
    }
    out.line(0, "IPs:");
    for address in items(&status["podIPs"]) {
        out.field(1, "IP", text(&address["ip"]));
    }
}

fn conditions(out: &mut Text, spec: &Value, status: &Value) {
    let all = items(&status["conditions"]);
    if !items(&spec["readinessGates"]).is_empty() {
        out.line(0, "Readiness Gates:\n  Type\tStatus");
        for gate in items(&spec["readinessGates"]) {
            let found = all.iter().find(|c| c["type"] == gate["conditionType"]);
            let state = found.map_or("<none>", |c| text(&c["status"]));
            out.line(1, &format!("{} \t{state} ", text(&gate["conditionType"])));
        }
    }
    if !all.is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus");
        for c in all {
            out.line(1, &format!("{} \t{} ", text(&c["type"]), text(&c["status"])));
        }
    }
}

/// A pod template of a workload.
pub fn template(out: &mut Text, template: &Value) {
    let spec = &template["spec"];
    out.line(0, "Pod Template:");
    out.labels("  Labels", &template["metadata"]["labels"]);
    if template["metadata"]["annotations"].as_object().is_some_and(|a| !a.is_empty()) {
        out.annotations("  Annotations", &template["metadata"]["annotations"]);
    }
    out.maybe(1, "Service Account", &spec["serviceAccountName"]);
    if !items(&spec["initContainers"]).is_empty() {
        containers(out, "Init Containers", &spec["initContainers"], &Value::Null, "  ", None);
    }
    containers(out, "Containers", &spec["containers"], &Value::Null, "  ", None);
    super::volumes::of_pod(out, &spec["volumes"], "  ");
    spread(out, &spec["topologySpreadConstraints"], "  ");
    out.maybe(1, "Priority Class Name", &spec["priorityClassName"]);
    out.labels("  Node-Selectors", &spec["nodeSelector"]);
    tolerations(out, "  Tolerations", &spec["tolerations"]);
}

fn containers(out: &mut Text, label: &str, all: &Value, statuses: &Value, space: &str, pod: Option<&Value>) {
    let none = if items(all).is_empty() { " <none>" } else { "" };
    out.line(0, &format!("{space}{label}:{none}"));
    for container in items(all) {
        let status = items(statuses).iter().find(|s| s["name"] == container["name"]);
        basics(out, container, status, if space.is_empty() { "" } else { " " });
        command(out, container);
        if let Some(status) = status {
            state(out, "State", &status["state"]);
            if status["lastState"]["terminated"].is_object() {
                state(out, "Last State", &status["lastState"]);
            }
            out.field(2, "Ready", title(status["ready"] == true));
            out.field(2, "Restart Count", &number(&status["restartCount"]).to_string());
        }
        resources(out, &container["resources"], 2);
        for (name, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if container[field].is_object() {
                out.field(2, name, &probe(&container[field]));
            }
        }
        environment(out, container, pod);
        mounts(out, container);
    }
}

fn basics(out: &mut Text, container: &Value, status: Option<&Value>, indent: &str) {
    out.line(1, &format!("{indent}{}:", text(&container["name"])));
    if let Some(status) = status {
        out.field(2, "Container ID", text(&status["containerID"]));
    }
    out.field(2, "Image", text(&container["image"]));
    if let Some(status) = status {
        out.field(2, "Image ID", text(&status["imageID"]));
    }
    for (one, several, field) in [("Port", "Ports", "containerPort"), ("Host Port", "Host Ports", "hostPort")] {
        let ports = items(&container["ports"]).iter().map(|p| {
            let name = text(&p["name"]);
            let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
            format!("{}/{}{name}", number(&p[field]), text(&p["protocol"]))
        });
        let ports = ports.collect::<Vec<_>>().join(", ");
        let name = if ports.contains(',') { several } else { one };
        out.field(2, name, if ports.is_empty() { "<none>" } else { &ports });
    }
    out.maybe(2, "SeccompProfile", &container["securityContext"]["seccompProfile"]["type"]);
    out.maybe(3, "LocalhostProfile", &container["securityContext"]["seccompProfile"]["localhostProfile"]);
}

fn command(out: &mut Text, container: &Value) {
    for (name, field) in [("Command", "command"), ("Args", "args")] {
        if !items(&container[field]).is_empty() {
            out.line(2, &format!("{name}:"));
            for word in items(&container[field]) {
                for part in text(word).split('\n') {
                    out.line(3, part);
                }
            }
        }
    }
}

fn state(out: &mut Text, name: &str, state: &Value) {
    if state["running"].is_object() {
        out.field(2, name, "Running");
        out.field(3, "Started", &time(&state["running"]["startedAt"]));
    } else if state["terminated"].is_object() {
        let ended = &state["terminated"];
        out.field(2, name, "Terminated");
        out.maybe(3, "Reason", &ended["reason"]);
        out.maybe(3, "Message", &ended["message"]);
        out.field(3, "Exit Code", &number(&ended["exitCode"]).to_string());
        if number(&ended["signal"]) > 0 {
            out.field(3, "Signal", &number(&ended["signal"]).to_string());
        }
        out.field(3, "Started", &time(&ended["startedAt"]));
        out.field(3, "Finished", &time(&ended["finishedAt"]));
    } else {
        out.field(2, name, "Waiting");
        out.maybe(3, "Reason", &state["waiting"]["reason"]);
    }
}

pub fn resources(out: &mut Text, resources: &Value, level: usize) {
    for (name, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(map) = resources[field].as_object().filter(|m| !m.is_empty()) {
            out.line(level, &format!("{name}:"));
            for (resource, amount) in map {
                out.field(level.saturating_add(1), resource, &plain(amount));
            }
        }
    }
}

fn probe(probe: &Value) -> String {
    let n = |field: &str| number(&probe[field]);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        n("initialDelaySeconds"),
        n("timeoutSeconds"),
        n("periodSeconds"),
        n("successThreshold"),
        n("failureThreshold")
    )
    .replace("#success", "successThreshold")
    .replace("#failure", "failureThreshold");
    if probe["exec"].is_object() {
        return format!(
            "exec [{}] {attributes}",
            items(&probe["exec"]["command"]).iter().map(text).collect::<Vec<_>>().join(" ")
        );
    }
    let get = &probe["httpGet"];
    if get.is_object() {
        let path = text(&get["path"]);
        let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
        return format!(
            "http-get {}://{}:{}{slash}{path} {attributes}",
            text(&get["scheme"]).to_lowercase(),
            text(&get["host"]),
            plain(&get["port"])
        );
    }
    if probe["tcpSocket"].is_object() {
        return format!(
            "tcp-socket {}:{} {attributes}",
            text(&probe["tcpSocket"]["host"]),
            plain(&probe["tcpSocket"]["port"])
        );
    }
    if probe["grpc"].is_object() {
        return format!(
            "grpc <pod>:{} {} {attributes}",
            plain(&probe["grpc"]["port"]),
            text(&probe["grpc"]["service"])
        );
    }
    format!("unknown {attributes}")
}

fn environment(out: &mut Text, container: &Value, pod: Option<&Value>) {
    if !items(&container["envFrom"]).is_empty() {
        out.line(2, "Environment Variables from:");
        for source in items(&container["envFrom"]) {
            let (kind, of) = if source["secretRef"].is_object() {
                ("Secret", &source["secretRef"])
            } else {
                ("ConfigMap", &source["configMapRef"])
            };
            let prefix = text(&source["prefix"]);
            let with = if prefix.is_empty() { String::new() } else { format!(" with prefix '{prefix}'") };
            out.line(3, &format!("{}\t{kind}{with}\tOptional: {}", text(&of["name"]), of["optional"] == true));
        }
    }
    out.line(2, if items(&container["env"]).is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in items(&container["env"]) {
        let name = text(&variable["name"]);
        let from = &variable["valueFrom"];
        if !from.is_object() {
            out.line(3, &format!("{name}:\t{}", text(&variable["value"]).replace('\n', "\n      \t")));
        } else if from["fieldRef"].is_object() {
            let path = text(&from["fieldRef"]["fieldPath"]);
            let value = pod.map_or(String::new(), |pod| field_of(pod, path));
            out.line(3, &format!("{name}:\t{value} ({}:{path})", text(&from["fieldRef"]["apiVersion"])));
        } else if from["resourceFieldRef"].is_object() {
            let resource = text(&from["resourceFieldRef"]["resource"]);
            let value = container["resources"]
                .pointer(&format!("/{}", resource.replacen('.', "/", 1)))
                .map_or("0".into(), whole);
            let value =
                if value == "0" && resource.starts_with("limits.") { "node allocatable".to_string() } else { value };
            out.line(3, &format!("{name}:\t{value} ({resource})"));
        } else if from["secretKeyRef"].is_object() {
            let key = &from["secretKeyRef"];
            out.line(
                3,
                &format!(
                    "{name}:\t<set to the key '{}' in secret '{}'>\tOptional: {}",
                    text(&key["key"]),
                    text(&key["name"]),
                    key["optional"] == true
                ),
            );
        } else if from["configMapKeyRef"].is_object() {
            let key = &from["configMapKeyRef"];
            out.line(
                3,
                &format!(
                    "{name}:\t<set to the key '{}' of config map '{}'>\tOptional: {}",
                    text(&key["key"]),
                    text(&key["name"]),
                    key["optional"] == true
                ),
            );
        }
    }
}

/// An amount in whole units, rounded up, as variables have it.
fn whole(value: &Value) -> String {
    apimachinery::Quantity::from_json(value).map_or_else(|| plain(value), |q| q.value().to_string())
}

/// A field of a pod that a variable is set to.
fn field_of(pod: &Value, path: &str) -> String {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return plain(pod.pointer(&format!("/{}", map.replace('.', "/"))).map_or(&Value::Null, |m| &m[key]));
    }
    plain(pod.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null))
}

fn mounts(out: &mut Text, container: &Value) {
    let mut all = items(&container["volumeMounts"]).to_vec();
    all.sort_by(|a, b| text(&a["mountPath"]).cmp(text(&b["mountPath"])));
    out.line(2, if all.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    for mount in &all {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let path = text(&mount["subPath"]);
        let path = if path.is_empty() { String::new() } else { format!(",path={path:?}") };
        out.line(3, &format!("{} from {} ({mode}{path})", text(&mount["mountPath"]), text(&mount["name"])));
    }
    if !items(&container["volumeDevices"]).is_empty() {
        out.line(2, if all.is_empty() { "Devices:\t<none>" } else { "Devices:" });
        for device in items(&container["volumeDevices"]) {
            out.line(3, &format!("{} from {}", text(&device["devicePath"]), text(&device["name"])));
        }
    }
}

fn tolerations(out: &mut Text, title: &str, all: &Value) {
    let mut sorted = items(all).to_vec();
    sorted.sort_by(|a, b| text(&a["key"]).cmp(text(&b["key"])));
    let lines = sorted.iter().map(|t| {
        let (key, value, effect) = (text(&t["key"]), text(&t["value"]), text(&t["effect"]));
        let mut line = key.to_string();
        if !value.is_empty() {
            line += &format!("={value}");
        }
        if !effect.is_empty() {
            line += &format!(":{effect}");
        }
        if t["operator"] == "Exists" && value.is_empty() {
            line += if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" };
        }
        if let Some(seconds) = t["tolerationSeconds"].as_i64() {
            line += &format!(" for {seconds}s");
        }
        line
    });
    let lines: Vec<String> = lines.collect();
    out.field(0, title, &if lines.is_empty() { "<none>".into() } else { lines.join("\n\t") });
}

fn spread(out: &mut Text, all: &Value, space: &str) {
    for (i, c) in items(all).iter().enumerate() {
        let line = format!(
            "{}:{} when max skew {} is exceeded for selector {}",
            text(&c["topologyKey"]),
            text(&c["whenUnsatisfiable"]),
            number(&c["maxSkew"]),
            selector(&c["labelSelector"])
        );
        let head = if i == 0 { format!("{space}Topology Spread Constraints:\t") } else { "\t".into() };
        out.line(0, &format!("{head}{line}"));
    }
}
