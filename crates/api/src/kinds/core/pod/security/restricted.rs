//! What hardened pods must say of themselves.

use std::collections::BTreeSet;

use apimachinery::ObjectExt as _;
use serde_json::Value;

use super::baseline::{forbidden_seccomp, proc_mount, seccomp};
use super::{Names, Pod, Standard, Violation, plural, quoted, violation};

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The checks in the order of upstream's names for them.
pub fn check(standard: Standard, pod: &Pod<'_>) -> Vec<Violation> {
    // A pod for Windows can't say some of it; no node of this cluster runs it.
    let windows = pod.is_windows() && standard.since(25);
    let own_users = pod.has_own_users() && standard.since(35);
    let found = [
        if standard.since(8) && !windows { privilege_escalation(pod) } else { None },
        if standard.since(22) && !windows { capabilities(pod) } else { None },
        if standard.since(35) { proc_mount(pod) } else { None },
        volumes(pod),
        if own_users { None } else { run_as_non_root(pod) },
        if standard.since(23) && !own_users { run_as_user(pod) } else { None },
        if standard.since(19) && !windows { seccomp_is_set(pod) } else { None },
    ];
    found.into_iter().flatten().collect()
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.containers_that(|c| *c.at(&["securityContext", "allowPrivilegeEscalation"]) != false).text()?;
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    violation("allowPrivilegeEscalation != false", detail)
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let drops_all = |c: &Value| c.strings_at(&["securityContext", "capabilities", "drop"]).contains(&"ALL");
    let forbidden = |c: &Value| -> BTreeSet<String> {
        let added = c.strings_at(&["securityContext", "capabilities", "add"]);
        added.into_iter().filter(|name| *name != "NET_BIND_SERVICE").map(String::from).collect()
    };
    let mut details = Vec::new();
    if let Some(who) = pod.containers_that(|c| !drops_all(c)).text() {
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if let Some(who) = pod.containers_that(|c| !forbidden(c).is_empty()).text() {
        let all: BTreeSet<String> = pod.containers().flat_map(forbidden).collect();
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(&all)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let sources = |volume: &Value| -> Vec<String> {
        let fields = volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
        fields.map(|(key, _)| key.clone()).collect()
    };
    let is_allowed = |volume: &Value| sources(volume).iter().any(|source| VOLUMES.contains(&source.as_str()));
    let bad: Vec<&Value> = pod.spec.array_at(&["volumes"]).iter().filter(|v| !is_allowed(v)).collect();
    let kinds: BTreeSet<String> =
        bad.iter().map(|v| sources(v).into_iter().next().unwrap_or_else(|| "unknown".into())).collect();
    let who = Names::of("volume", bad.iter().map(|v| v.str_at(&["name"])));
    let word = plural("restricted volume type", kinds.len());
    violation("restricted volume types", format!("{} {} {word} {}", who.text()?, who.uses(), quoted(&kinds)))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    let said = |context: &Value| context["runAsNonRoot"].as_bool();
    let setters = pod.setters(|context| said(context) == Some(false));
    let detail = if setters.is_empty() {
        let by_pod = said(&pod.spec["securityContext"]) == Some(true);
        let who = pod.containers_that(|c| !by_pod && said(&c["securityContext"]).is_none()).text()?;
        format!("pod or {who} must set securityContext.runAsNonRoot=true")
    } else {
        format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "))
    };
    violation("runAsNonRoot != true", detail)
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let setters = pod.setters(|context| context["runAsUser"] == 0);
    if setters.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")))
}

fn seccomp_is_set(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(forbidden) = seccomp(pod) {
        return Some(forbidden);
    }
    let is_set = |context: &Value| context["seccompProfile"].is_object() && forbidden_seccomp(context).is_none();
    let by_pod = is_set(&pod.spec["securityContext"]);
    let who = pod.containers_that(|c| !by_pod && !is_set(&c["securityContext"])).text()?;
    let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {who} {what}"))
}
