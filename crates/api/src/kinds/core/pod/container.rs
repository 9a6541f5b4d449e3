//! Containers of a pod.

use apimachinery::{Cause, names};
use serde_json::json;

use super::resources::resources;
use crate::validate::field::{Causes, Field};

/// Which list of a pod's spec a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Main,
    Init,
    Ephemeral,
}

/// What a pod has that its containers refer to.
pub struct Surroundings<'a> {
    pub volumes: &'a [&'a str],
    /// A pod itself, and no template: systems that fill templates in later may leave something open.
    pub is_pod: bool,
    pub os: &'a str,
    pub host_network: bool,
    /// The pod's `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
}

pub fn check(c: &Field<'_>, role: Role, around: &Surroundings<'_>, causes: &mut Causes) {
    if c.at("name").require("", causes) {
        c.at("name").is(names::dns1123_label, causes);
    }
    let image = c.at("image");
    if image.require("", causes) && around.is_pod && image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace", causes);
    }
    c.at("imagePullPolicy").must_be(&["Always", "IfNotPresent", "Never"], causes);
    c.at("terminationMessagePolicy").must_be(&["FallbackToLogsOnError", "File"], causes);
    if role == Role::Ephemeral {
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if c.at(field).is_set() {
                c.at(field).forbid("cannot be set for an Ephemeral Container", causes);
            }
        }
        if !c.at("resources").is_empty() {
            c.at("resources").forbid("cannot be set for an Ephemeral Container", causes);
        }
    }
    ports(&c.at("ports"), around.host_network, causes);
    env(c, causes);
    mounts(c, around.volumes, causes);
    resources(c.at("resources").value, &c.at("resources").path, causes);
    security(&c.at("securityContext"), causes);
    if role == Role::Ephemeral {
        return;
    }
    let restart = c.at("restartPolicy");
    if role == Role::Init {
        restart.one_of(&["Always", "Never", "OnFailure"], causes);
        if restart.text() != "Always" {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if c.at(field).is_set() {
                    c.at(field).forbid("may not be set for init containers without restartPolicy=Always", causes);
                }
            }
            return;
        }
    } else {
        restart.one_of(&["Always", "Never", "OnFailure"], causes);
    }
    lifecycle(&c.at("lifecycle"), around, causes);
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if c.at(kind).is_set() {
            probe(kind, &c.at(kind), causes);
        }
    }
}

/// Hooks, and the signal that stops the container.
fn lifecycle(lifecycle: &Field<'_>, around: &Surroundings<'_>, causes: &mut Causes) {
    let signal = lifecycle.at("stopSignal");
    if signal.is_set() && around.os.is_empty() {
        signal.forbid("may not be set for containers with empty `spec.os.name`", causes);
    }
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.at(hook);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], causes);
            let sleep = hook.at("sleep");
            if let (Some(grace), Some(seconds)) = (around.grace, sleep.at("seconds").value.as_i64())
                && !(0..=grace).contains(&seconds)
            {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                causes.push(Cause::invalid(&sleep.path, &json!(seconds), &why));
            }
        }
    }
}

fn ports(ports: &Field<'_>, host_network: bool, causes: &mut Causes) {
    let mut seen = std::collections::HashSet::new();
    for port in ports.items() {
        let (number, host, name) = (port.at("containerPort"), port.at("hostPort"), port.at("name"));
        if number.value.as_i64().unwrap_or(0) == 0 {
            causes.push(Cause::required(&number.path, ""));
        } else {
            number.port(causes);
        }
        let has_host = host.is_set() && *host.value != 0;
        if has_host {
            host.port(causes);
            if host_network && host.value != number.value {
                number.invalid("must match `hostPort` when `hostNetwork` is true", causes);
            }
        }
        // Upstream lets any text through here; what is no address leads nowhere.
        let address = port.at("hostIP");
        if !address.is_empty() {
            address.address(causes);
        }
        port.at("protocol").must_be(&["SCTP", "TCP", "UDP"], causes);
        name.is(names::port_name, causes);
        if !name.is_empty() && !seen.insert(name.text()) {
            causes.push(Cause::duplicate(&name.path, name.value));
        }
    }
}

/// Upstream's relaxed rule: printable ASCII without `=`.
fn env_name(name: &str) -> Result<(), String> {
    match name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        true => Ok(()),
        false => {
            Err("a valid environment variable name must consist only of printable ASCII characters other than '='"
                .into())
        }
    }
}

fn env(c: &Field<'_>, causes: &mut Causes) {
    for var in c.at("env").items() {
        if var.at("name").require("", causes) {
            var.at("name").is(env_name, causes);
        }
        let from = var.at("valueFrom");
        if !from.is_set() {
            continue;
        }
        if !var.at("value").is_empty() {
            causes.push(Cause::invalid(from.path, &json!(""), "may not be specified when `value` is not empty"));
            continue;
        }
        const SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
        let set: Vec<&str> = SOURCES.iter().copied().filter(|s| from.at(s).is_set()).collect();
        match set.as_slice() {
            [] => from.invalid("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef`, or `fileKeyRef`", causes),
            [source] => env_source(source, &from.at(source), causes),
            _ => from.invalid("may not have more than one field specified at a time", causes),
        }
    }
    for source in c.at("envFrom").items() {
        source.at("prefix").is(env_name, causes);
        match (source.at("configMapRef").is_set(), source.at("secretRef").is_set()) {
            (false, false) => source.invalid("must specify one of: `configMapRef` or `secretRef`", causes),
            (true, true) => source.invalid("may not have more than one field specified at a time", causes),
            (true, false) => {
                source.at("configMapRef").at("name").require("", causes);
            }
            (false, true) => {
                source.at("secretRef").at("name").require("", causes);
            }
        }
    }
}

/// What `fieldRef` of an environment variable may name.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn env_source(kind: &str, source: &Field<'_>, causes: &mut Causes) {
    match kind {
        "fieldRef" => {
            let path = source.at("fieldPath");
            if !path.require("", causes) {
                return;
            }
            let of_map = ["metadata.labels['", "metadata.annotations['"].iter().any(|m| path.text().starts_with(m));
            if !of_map && !ENV_FIELDS.contains(&path.text()) {
                causes.push(Cause::not_supported(&path.path, path.value, ENV_FIELDS));
            }
        }
        "resourceFieldRef" => {
            source.at("resource").require("", causes);
        }
        _ => {
            source.at("key").require("", causes);
            if kind != "fileKeyRef" {
                source.at("name").require("", causes);
            }
        }
    }
}

fn mounts(c: &Field<'_>, volumes: &[&str], causes: &mut Causes) {
    let mut targets = Vec::new();
    for mount in c.at("volumeMounts").items() {
        let (name, target, sub) = (mount.at("name"), mount.at("mountPath"), mount.at("subPath"));
        if name.require("", causes) && !volumes.contains(&name.text()) {
            causes.push(Cause::not_found(&name.path, name.value));
        }
        if target.require("", causes) && targets.contains(&target.text()) {
            target.invalid("must be unique", causes);
        }
        targets.push(target.text());
        for path in [&sub, &mount.at("subPathExpr")] {
            if path.text().starts_with('/') {
                path.invalid("must be a relative path", causes);
            } else if path.text().split('/').any(|s| s == "..") {
                path.invalid("must not contain '..'", causes);
            }
        }
        if !sub.is_empty() && !mount.at("subPathExpr").is_empty() {
            mount.at("subPathExpr").invalid("subPathExpr and subPath are mutually exclusive", causes);
        }
        mount.at("mountPropagation").one_of(&["Bidirectional", "HostToContainer", "None"], causes);
        let privileged = c.at("securityContext").at("privileged").value == true;
        if mount.at("mountPropagation").text() == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            mount.at("mountPropagation").forbid(why, causes);
        }
        mount.at("recursiveReadOnly").one_of(&["Disabled", "Enabled", "IfPossible"], causes);
        let recursive = !matches!(mount.at("recursiveReadOnly").text(), "" | "Disabled");
        if recursive && mount.at("readOnly").value != true {
            mount.at("recursiveReadOnly").forbid("may only be specified when readOnly is true", causes);
        }
    }
    let mut devices = Vec::new();
    for device in c.at("volumeDevices").items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        if name.require("", causes) && !volumes.contains(&name.text()) {
            causes.push(Cause::not_found(&name.path, name.value));
        }
        if path.require("", causes) && (devices.contains(&path.text()) || targets.contains(&path.text())) {
            path.invalid("must be unique", causes);
        }
        devices.push(path.text());
    }
}

/// The fields that pods and containers share in their security contexts.
pub fn common_security(context: &Field<'_>, causes: &mut Causes) {
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        context.at(id).range(0, i64::from(i32::MAX), causes);
    }
    for kind in ["seccompProfile", "appArmorProfile"] {
        let profile = context.at(kind);
        if !profile.is_set() {
            continue;
        }
        profile.at("type").must_be(&["Localhost", "RuntimeDefault", "Unconfined"], causes);
        let local = profile.at("localhostProfile");
        match (profile.at("type").text(), local.is_empty()) {
            ("Localhost", true) => causes.push(Cause::required(local.path, "must be set when type is Localhost")),
            ("Localhost", false) if local.text().starts_with('/') || local.text().split('/').any(|s| s == "..") => {
                local.invalid("must be a relative path, and must not contain '..'", causes);
            }
            ("Localhost", false) => {}
            (_, false) => local.invalid("can only be set when type is Localhost", causes),
            _ => {}
        }
    }
}

fn security(context: &Field<'_>, causes: &mut Causes) {
    common_security(context, causes);
    context.at("procMount").one_of(&["Default", "Unmasked"], causes);
    if context.at("allowPrivilegeEscalation").value == false {
        if context.at("privileged").value == true {
            context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true", causes);
        }
        let added = context.at("capabilities").at("add");
        // Upstream knows this spelling alone.
        if added.items().any(|cap| cap.text() == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            context.invalid(why, causes);
        }
    }
}

fn handler(of: &Field<'_>, kinds: &[&'static str], causes: &mut Causes) {
    let Some(kind) = of.one_member(kinds, "handler type", causes) else { return };
    let action = of.at(kind);
    match kind {
        "exec" => {
            action.at("command").require("", causes);
        }
        "httpGet" => {
            action.at("path").require("", causes);
            action.at("port").port_or_name(causes);
            action.at("scheme").must_be(&["HTTP", "HTTPS"], causes);
            for header in action.at("httpHeaders").items() {
                let name = header.at("name");
                let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
                if name.text().is_empty() || !name.text().bytes().all(fits) {
                    name.invalid("a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')", causes);
                }
            }
        }
        "tcpSocket" => action.at("port").port_or_name(causes),
        "grpc" => {
            action.at("port").port(causes);
            action.at("mode").one_of(&["Plaintext", "TLS"], causes);
        }
        _ => {}
    }
}

fn probe(kind: &str, probe: &Field<'_>, causes: &mut Causes) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], causes);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        probe.at(field).not_negative(causes);
    }
    let grace = probe.at("terminationGracePeriodSeconds");
    if kind == "readinessProbe" {
        if grace.is_set() {
            grace.invalid("must not be set for readinessProbes", causes);
        }
        return;
    }
    grace.positive(causes);
    if probe.at("successThreshold").value.as_i64().is_some_and(|n| n != 1) {
        probe.at("successThreshold").invalid("must be 1", causes);
    }
}
