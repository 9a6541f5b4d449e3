//! The codes of findings: `W-AREA-WHAT`. A code stays what it is once it was released; each has a page in `docs/why/`.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something that was asked for doesn't run or doesn't answer.
    Error,
    /// It runs, and something will be missed.
    Warning,
    /// Worth knowing; told when one asks for the object itself. Nothing is wrong.
    Hint,
}

impl Severity {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Hint => "hint",
        }
    }
}

/// A code, with its page.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Its text.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What stands about it in `docs/why/`.
    pub page: &'static str,
}

impl Code {
    /// Its place in the order of causes: what is earlier explains what is later, on the same object.
    pub fn rank(&self) -> usize {
        ALL.iter().position(|code| code.id == self.id).unwrap_or(usize::MAX)
    }
}

/// The code with this text.
pub fn find(id: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.id.eq_ignore_ascii_case(id))
}

macro_rules! codes {
    ($($name:ident = $id:literal $severity:ident;)*) => {
        $(
            #[doc = $id]
            pub static $name: Code = Code {
                id: $id,
                severity: Severity::$severity,
                page: include_str!(concat!("../../../docs/why/", $id, ".md")),
            };
        )*
        /// All codes, causes first.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    // The machine that asks, where it is one of the cluster's.
    MACHINE_DISK = "W-MACHINE-DISK" Error;
    MACHINE_INOTIFY = "W-MACHINE-INOTIFY" Warning;
    MACHINE_FILES = "W-MACHINE-FILES" Warning;
    MACHINE_FORWARDING = "W-MACHINE-FORWARDING" Error;
    MACHINE_MODULES = "W-MACHINE-MODULES" Error;
    MACHINE_FIREWALL = "W-MACHINE-FIREWALL" Hint;
    MACHINE_CLOCK = "W-MACHINE-CLOCK" Warning;
    CERTIFICATE_EXPIRED = "W-CERTIFICATE-EXPIRED" Error;
    CERTIFICATE_EXPIRES = "W-CERTIFICATE-EXPIRES" Warning;
    // Nodes.
    NODE_LOST = "W-NODE-LOST" Error;
    NODE_NOT_READY = "W-NODE-NOT-READY" Error;
    NODE_DISK = "W-NODE-DISK" Error;
    NODE_MEMORY = "W-NODE-MEMORY" Error;
    NODE_PIDS = "W-NODE-PIDS" Error;
    NODE_NETWORK = "W-NODE-NETWORK" Error;
    NODE_CLOCK = "W-NODE-CLOCK" Warning;
    NODE_CERTIFICATE = "W-NODE-CERTIFICATE" Warning;
    NODE_CORDONED = "W-NODE-CORDONED" Hint;
    NODE_FULL = "W-NODE-FULL" Hint;
    NODE_VERSION = "W-NODE-VERSION" Hint;
    // What keeps objects from being made.
    API_SERVICE = "W-API-SERVICE" Error;
    WEBHOOK_NO_SERVICE = "W-WEBHOOK-NO-SERVICE" Error;
    WEBHOOK_DOWN = "W-WEBHOOK-DOWN" Error;
    WEBHOOK_DENIED = "W-WEBHOOK-DENIED" Error;
    POLICY_DENIED = "W-POLICY-DENIED" Error;
    POD_SECURITY = "W-POD-SECURITY" Error;
    QUOTA_EXCEEDED = "W-QUOTA-EXCEEDED" Error;
    QUOTA_FULL = "W-QUOTA-FULL" Hint;
    LIMIT_RANGE = "W-LIMIT-RANGE" Error;
    SERVICE_ACCOUNT_MISSING = "W-SERVICE-ACCOUNT-MISSING" Error;
    PRIORITY_CLASS_MISSING = "W-PRIORITY-CLASS-MISSING" Error;
    RUNTIME_CLASS_MISSING = "W-RUNTIME-CLASS-MISSING" Error;
    CREATE_FAILED = "W-CREATE-FAILED" Error;
    // Volumes.
    CLASS_MISSING = "W-CLAIM-CLASS-MISSING" Error;
    NO_CLASS = "W-CLAIM-NO-CLASS" Error;
    DRIVER_MISSING = "W-CLAIM-DRIVER" Error;
    NO_VOLUME = "W-CLAIM-NO-VOLUME" Error;
    PROVISIONING = "W-CLAIM-PROVISIONING" Error;
    CLAIM_LOST = "W-CLAIM-LOST" Error;
    CLAIM_MISSING = "W-CLAIM-MISSING" Error;
    CLAIM_RESIZE = "W-CLAIM-RESIZE" Warning;
    CLAIM_UNUSED = "W-CLAIM-UNUSED" Hint;
    CLAIM_PENDING = "W-CLAIM-PENDING" Error;
    VOLUME_NODE_DOWN = "W-VOLUME-NODE-DOWN" Error;
    VOLUME_NODE_GONE = "W-VOLUME-NODE-GONE" Error;
    VOLUME_FAILED = "W-VOLUME-FAILED" Warning;
    // Scheduling.
    SCHEDULING_GATED = "W-SCHED-GATED" Error;
    SCHEDULER_MISSING = "W-SCHED-SCHEDULER" Error;
    SCHED_NO_NODES = "W-SCHED-NO-NODES" Error;
    SCHED_NODE_MISSING = "W-SCHED-NODE-MISSING" Error;
    SCHED_CORDONED = "W-SCHED-CORDONED" Error;
    SCHED_TAINT = "W-SCHED-TAINT" Error;
    SCHED_SELECTOR = "W-SCHED-SELECTOR" Error;
    SCHED_VOLUME = "W-SCHED-VOLUME" Error;
    SCHED_RESOURCES = "W-SCHED-RESOURCES" Error;
    SCHED_PODS = "W-SCHED-PODS" Error;
    SCHED_PORT = "W-SCHED-PORT" Error;
    SCHED_AFFINITY = "W-SCHED-AFFINITY" Error;
    SCHED_ANTI_AFFINITY = "W-SCHED-ANTI-AFFINITY" Error;
    SCHED_SPREAD = "W-SCHED-SPREAD" Error;
    SCHED_OTHER = "W-SCHED-OTHER" Error;
    // On the node.
    POD_REJECTED = "W-POD-REJECTED" Error;
    POD_EVICTED = "W-POD-EVICTED" Error;
    POD_DEADLINE = "W-POD-DEADLINE" Error;
    SANDBOX = "W-START-SANDBOX" Error;
    CONFIG_MAP_MISSING = "W-CONFIG-MAP-MISSING" Error;
    SECRET_MISSING = "W-CONFIG-SECRET-MISSING" Error;
    KEY_MISSING = "W-CONFIG-KEY-MISSING" Error;
    CONFIG_OTHER = "W-CONFIG-OTHER" Error;
    ROOT_REFUSED = "W-START-ROOT" Error;
    HOST_PATH = "W-VOLUME-HOST-PATH" Error;
    VOLUME_ATTACH = "W-VOLUME-ATTACH" Error;
    VOLUME_MOUNT = "W-VOLUME-MOUNT" Error;
    PULL_SECRET = "W-IMAGE-PULL-SECRET" Warning;
    IMAGE_NAME = "W-IMAGE-NAME" Error;
    IMAGE_NEVER = "W-IMAGE-NEVER" Error;
    IMAGE_RATE_LIMIT = "W-IMAGE-RATE-LIMIT" Error;
    IMAGE_PLATFORM = "W-IMAGE-PLATFORM" Error;
    IMAGE_DENIED = "W-IMAGE-DENIED" Error;
    IMAGE_NOT_FOUND = "W-IMAGE-NOT-FOUND" Error;
    IMAGE_TLS = "W-IMAGE-TLS" Error;
    IMAGE_REGISTRY = "W-IMAGE-REGISTRY" Error;
    IMAGE_DISK = "W-IMAGE-DISK" Error;
    IMAGE_PULL = "W-IMAGE-PULL" Error;
    START_COMMAND = "W-START-COMMAND" Error;
    START_PERMISSION = "W-START-PERMISSION" Error;
    START_HOOK = "W-START-HOOK" Error;
    START_FAILED = "W-START-FAILED" Error;
    RBAC_DENIED = "W-RBAC-DENIED" Error;
    DNS_FAILED = "W-DNS-FAILED" Error;
    DNS_NAME = "W-DNS-NAME" Warning;
    DNS_DOWN = "W-DNS-DOWN" Error;
    DNS_HEADLESS = "W-DNS-HEADLESS" Warning;
    OOM = "W-EXIT-OOM" Error;
    PROBE_STARTUP = "W-PROBE-STARTUP" Error;
    PROBE_LIVENESS = "W-PROBE-LIVENESS" Error;
    EXIT_SIGNAL = "W-EXIT-SIGNAL" Error;
    EXIT_CODE = "W-EXIT-CODE" Error;
    EXIT_COMPLETED = "W-EXIT-COMPLETED" Error;
    RESTARTS = "W-EXIT-RESTARTS" Warning;
    INIT_RUNNING = "W-INIT-RUNNING" Warning;
    PROBE_READINESS = "W-PROBE-READINESS" Error;
    READINESS_GATE = "W-PROBE-GATE" Error;
    POD_WAITING = "W-POD-WAITING" Error;
    // Deletion.
    POD_TERMINATING = "W-DELETE-POD" Error;
    FINALIZER = "W-DELETE-FINALIZER" Error;
    CLAIM_IN_USE = "W-DELETE-CLAIM-IN-USE" Warning;
    NAMESPACE_STUCK = "W-DELETE-NAMESPACE" Error;
    // Workloads.
    DEPLOYMENT_STUCK = "W-DEPLOYMENT-STUCK" Error;
    DEPLOYMENT_UNAVAILABLE = "W-DEPLOYMENT-UNAVAILABLE" Error;
    DEPLOYMENT_PAUSED = "W-DEPLOYMENT-PAUSED" Hint;
    STATEFULSET_UNAVAILABLE = "W-STATEFULSET-UNAVAILABLE" Error;
    DAEMONSET_UNAVAILABLE = "W-DAEMONSET-UNAVAILABLE" Error;
    DAEMONSET_NOWHERE = "W-DAEMONSET-NOWHERE" Hint;
    REPLICAS_MISSING = "W-REPLICAS-MISSING" Error;
    SCALED_TO_ZERO = "W-SCALED-TO-ZERO" Hint;
    JOB_DEADLINE = "W-JOB-DEADLINE" Error;
    JOB_FAILED = "W-JOB-FAILED" Error;
    JOB_SUSPENDED = "W-JOB-SUSPENDED" Hint;
    CRON_MISSED = "W-CRONJOB-MISSED" Warning;
    CRON_FAILED = "W-CRONJOB-FAILED" Warning;
    CRON_SUSPENDED = "W-CRONJOB-SUSPENDED" Hint;
    CRON_NEVER = "W-CRONJOB-NEVER" Hint;
    // Ways to pods.
    SERVICE_NO_PODS = "W-SERVICE-NO-PODS" Error;
    SERVICE_PORT = "W-SERVICE-PORT" Error;
    SERVICE_NOT_READY = "W-SERVICE-NOT-READY" Error;
    SERVICE_NO_ENDPOINTS = "W-SERVICE-NO-ENDPOINTS" Warning;
    SERVICE_LOAD_BALANCER = "W-SERVICE-LOAD-BALANCER" Warning;
    SERVICE_EXTERNAL_NAME = "W-SERVICE-EXTERNAL-NAME" Warning;
    SERVICE_PORT_UNDECLARED = "W-SERVICE-PORT-UNDECLARED" Hint;
    SERVICE_ONE_ENDPOINT = "W-SERVICE-ONE-ENDPOINT" Hint;
    INGRESS_CLASS = "W-INGRESS-CLASS" Error;
    INGRESS_SERVICE = "W-INGRESS-SERVICE" Error;
    INGRESS_PORT = "W-INGRESS-PORT" Error;
    INGRESS_SECRET = "W-INGRESS-SECRET" Warning;
    INGRESS_BACKEND = "W-INGRESS-BACKEND" Error;
    GATEWAY_CLASS = "W-GATEWAY-CLASS" Error;
    GATEWAY_LISTENER = "W-GATEWAY-LISTENER" Error;
    GATEWAY_NO_ROUTES = "W-GATEWAY-NO-ROUTES" Hint;
    ROUTE_PARENT = "W-ROUTE-PARENT" Error;
    ROUTE_BACKEND = "W-ROUTE-BACKEND" Error;
    NETPOL_CUT = "W-NETPOL-CUT" Error;
    NETPOL_NOBODY = "W-NETPOL-NOBODY" Warning;
    NETPOL_DNS = "W-NETPOL-DNS" Warning;
    NETPOL_SELECTS_NOTHING = "W-NETPOL-SELECTS-NOTHING" Hint;
    // Rights, budgets, autoscalers.
    RBAC_ROLE_MISSING = "W-RBAC-ROLE-MISSING" Warning;
    RBAC_SUBJECT_MISSING = "W-RBAC-SUBJECT-MISSING" Hint;
    BUDGET_DRAIN = "W-BUDGET-DRAIN" Error;
    BUDGET_IMPOSSIBLE = "W-BUDGET-IMPOSSIBLE" Hint;
    BUDGET_SELECTS_NOTHING = "W-BUDGET-SELECTS-NOTHING" Hint;
    HPA_TARGET = "W-HPA-TARGET" Error;
    HPA_REQUESTS = "W-HPA-REQUESTS" Error;
    HPA_METRICS = "W-HPA-METRICS" Error;
    HPA_DISABLED = "W-HPA-DISABLED" Hint;
    HPA_LIMITED = "W-HPA-LIMITED" Hint;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_code_and_says_what_it_means_and_what_to_do() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/why");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let id = file.strip_suffix(".md").unwrap();
            assert!(id == "README" || find(id).is_some(), "docs/why/{file} is the page of no code");
        }
        let list = include_str!("../../../docs/why/README.md");
        for code in ALL {
            assert!(code.page.starts_with(&format!("# {}\n", code.id)), "{}", code.id);
            for part in ["**What it means:**", "**How to see it:**", "**What to do:**"] {
                assert!(code.page.contains(part), "{} has no {part}", code.id);
            }
            assert!(list.contains(&format!("[{}]({}.md)", code.id, code.id)), "README.md doesn't list {}", code.id);
        }
    }

    #[test]
    fn every_code_is_used_by_a_rule() {
        let mut sources = String::new();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        let table = include_str!("codes.rs");
        for line in table.lines().filter(|l| l.starts_with("    ") && l.contains(" = \"W-")) {
            let name = line.trim().split(' ').next().unwrap();
            assert!(sources.contains(&format!("codes::{name}")), "no rule tells {name}");
        }
    }
}
