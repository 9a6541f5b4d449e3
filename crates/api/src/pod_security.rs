//! The Pod Security Standards: what a pod of a level must not ask for, in upstream's words.

use apimachinery::ObjectExt as _;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// The level of a label's value; an unknown one counts as the strictest.
    pub fn read(text: &str) -> Self {
        match text {
            "" | "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            _ => Level::Restricted,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// Capabilities that every pod may add at the baseline.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "NET_RAW",
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
const RESTRICTED_VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

struct Spec<'a>(&'a Value);

impl<'a> Spec<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let spec = self.0;
        lists.into_iter().flat_map(move |list| spec.array_at(&[list]))
    }

    /// `container "a"` or `containers "a", "b"`, of those that a check doesn't like.
    fn offenders(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        let names: Vec<String> =
            self.containers().filter(|c| bad(c)).map(|c| format!("{:?}", c.str_at(&["name"]))).collect();
        match names.as_slice() {
            [] => None,
            [one] => Some(format!("container {one}")),
            many => Some(format!("containers {}", many.join(", "))),
        }
    }
}

/// What in a pod's spec goes beyond `level`.
pub fn violations(level: Level, spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if level >= Level::Baseline {
        baseline(&Spec(spec), &mut found);
    }
    if level >= Level::Restricted {
        restricted(&Spec(spec), &mut found);
    }
    found
}

fn context<'a>(container: &'a Value, path: &[&str]) -> &'a Value {
    container.at(&[&["securityContext"], path].concat())
}

fn baseline(spec: &Spec<'_>, found: &mut Vec<String>) {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|f| spec.0[*f] == true)
        .map(|f| format!("{f}=true"))
        .collect();
    if !shared.is_empty() {
        found.push(format!("host namespaces ({})", shared.join(", ")));
    }
    if let Some(who) = spec.offenders(|c| *context(c, &["privileged"]) == true) {
        found.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    let added = |c: &Value| -> Vec<String> {
        let list = c.strings_at(&["securityContext", "capabilities", "add"]);
        list.into_iter().filter(|a| !DEFAULT_CAPABILITIES.contains(a)).map(|a| format!("{a:?}")).collect()
    };
    if let Some(who) = spec.offenders(|c| !added(c).is_empty()) {
        let mut all: Vec<String> = spec.containers().flat_map(added).collect();
        all.sort();
        all.dedup();
        let text = format!("{who} must not include {} in securityContext.capabilities.add", all.join(", "));
        found.push(format!("non-default capabilities ({text})"));
    }
    let mounted: Vec<String> = spec
        .0
        .array_at(&["volumes"])
        .iter()
        .filter(|v| v["hostPath"].is_object())
        .map(|v| format!("{:?}", v.str_at(&["name"])))
        .collect();
    if !mounted.is_empty() {
        let word = if mounted.len() == 1 { "volume" } else { "volumes" };
        found.push(format!("hostPath volumes ({word} {})", mounted.join(", ")));
    }
    let ports = |c: &Value| -> Vec<i64> {
        c.array_at(&["ports"]).iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).collect()
    };
    if let Some(who) = spec.offenders(|c| !ports(c).is_empty()) {
        let all: Vec<String> = spec.containers().flat_map(ports).map(|p| p.to_string()).collect();
        let word = if all.len() == 1 { "hostPort" } else { "hostPorts" };
        let verb = if who.starts_with("containers") { "use" } else { "uses" };
        found.push(format!("hostPort ({who} {verb} {word} {})", all.join(", ")));
    }
    if let Some(who) = spec.offenders(|c| !matches!(context(c, &["procMount"]).as_str(), None | Some("Default"))) {
        found.push(format!("procMount ({who} must not set securityContext.procMount to \"Unmasked\")"));
    }
    let unconfined = |c: &Value| *context(c, &["seccompProfile", "type"]) == "Unconfined";
    let by_pod = unconfined(spec.0).then(|| "pod".to_string());
    let who: Vec<String> = by_pod.into_iter().chain(spec.offenders(unconfined)).collect();
    if !who.is_empty() {
        let text = format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", who.join(" and "));
        found.push(format!("seccompProfile ({text})"));
    }
    let sysctls: Vec<&str> = spec
        .0
        .array_at(&["securityContext", "sysctls"])
        .iter()
        .map(|s| s.str_at(&["name"]))
        .filter(|s| !SAFE_SYSCTLS.contains(s))
        .collect();
    if !sysctls.is_empty() {
        found.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
    }
}

fn restricted(spec: &Spec<'_>, found: &mut Vec<String>) {
    let kind_of = |v: &Value| -> Option<String> {
        let kind = v.as_object()?.keys().find(|k| *k != "name")?.clone();
        (!RESTRICTED_VOLUMES.contains(&kind.as_str())).then_some(kind)
    };
    let bad: Vec<String> = spec
        .0
        .array_at(&["volumes"])
        .iter()
        .filter_map(|v| Some(format!("volume {:?} uses restricted volume type {:?}", v.str_at(&["name"]), kind_of(v)?)))
        .collect();
    if !bad.is_empty() {
        found.push(format!("restricted volume types ({})", bad.join(", ")));
    }
    if let Some(who) = spec.offenders(|c| *context(c, &["allowPrivilegeEscalation"]) != false) {
        let text = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
        found.push(format!("allowPrivilegeEscalation != false ({text})"));
    }
    let drops_all = |c: &Value| c.strings_at(&["securityContext", "capabilities", "drop"]).contains(&"ALL");
    let mut problems = Vec::new();
    if let Some(who) = spec.offenders(|c| !drops_all(c)) {
        problems.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    let adds =
        |c: &Value| c.strings_at(&["securityContext", "capabilities", "add"]).iter().any(|a| *a != "NET_BIND_SERVICE");
    if let Some(who) = spec.offenders(adds) {
        problems.push(format!(
            "{who} must not include other than \"NET_BIND_SERVICE\" in securityContext.capabilities.add"
        ));
    }
    if !problems.is_empty() {
        found.push(format!("unrestricted capabilities ({})", problems.join("; ")));
    }
    let by_pod = context(spec.0, &["runAsNonRoot"]).as_bool();
    let root = |c: &Value| context(c, &["runAsNonRoot"]).as_bool().or(by_pod) != Some(true);
    if let Some(who) = spec.offenders(root) {
        found.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let zero = |c: &Value| *context(c, &["runAsUser"]) == 0;
    let who: Vec<String> = zero(spec.0).then(|| "pod".to_string()).into_iter().chain(spec.offenders(zero)).collect();
    if !who.is_empty() {
        found.push(format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")));
    }
    let profile = |v: &Value| context(v, &["seccompProfile", "type"]).as_str().map(String::from);
    let of_pod = profile(spec.0);
    let unset = |c: &Value| {
        !matches!(profile(c).or(of_pod.clone()).as_deref(), Some("RuntimeDefault" | "Localhost" | "Unconfined"))
    };
    if let Some(who) = spec.offenders(unset) {
        let text = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        found.push(format!("seccompProfile (pod or {who} {text})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn baseline_refuses_what_reaches_the_host() {
        let spec = json!({"hostNetwork": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}},
                           {"name": "b", "ports": [{"hostPort": 80}]}]});
        assert_eq!(
            violations(Level::Baseline, &spec),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"a\" must not set securityContext.privileged=true)",
                "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"b\" uses hostPort 80)",
            ]
        );
        assert!(violations(Level::Privileged, &spec).is_empty());
    }

    #[test]
    fn restricted_demands_what_it_wants_said() {
        let bare = json!({"containers": [{"name": "a"}]});
        assert_eq!(violations(Level::Baseline, &bare), Vec::<String>::new());
        assert_eq!(
            violations(Level::Restricted, &bare),
            [
                "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert!(violations(Level::Restricted, &good).is_empty());
    }
}
