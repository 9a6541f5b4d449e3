//! What rules about pods share: their containers, and whose they are.

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::{self, int, is_true, items, name, namespace, text};
use crate::snapshot::{ObjectRef, Snapshot};

/// A container of a pod: what was asked for, and what became of it.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    /// Its name.
    pub name: &'a str,
    /// In the pod's spec.
    pub spec: &'a Value,
    /// In the pod's status; null before the kubelet has said anything.
    pub status: &'a Value,
    /// Whether it runs before the others, and must end.
    pub is_init: bool,
    /// Whether it runs before the others, and beside them.
    pub is_sidecar: bool,
}

impl Container<'_> {
    /// As it is called in a sentence.
    pub fn words(&self) -> String {
        match (self.is_init, self.is_sidecar) {
            (_, true) => format!("sidecar {:?}", self.name),
            (true, false) => format!("init container {:?}", self.name),
            _ => format!("container {:?}", self.name),
        }
    }

    /// Why it waits: a reason and a message.
    pub fn waiting(&self) -> Option<(&str, &str)> {
        self.status.pointer("/state/waiting")?;
        Some((text(self.status, "/state/waiting/reason"), text(self.status, "/state/waiting/message")))
    }

    /// How it ended last: this run, else the one before.
    pub fn ended(&self) -> Option<&Value> {
        let this = self.status.pointer("/state/terminated");
        this.or_else(|| self.status.pointer("/lastState/terminated")).filter(|ended| !ended.is_null())
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.status.pointer("/state/running").is_some_and(|running| !running.is_null())
    }

    /// How often it was started again.
    pub fn restarts(&self) -> i64 {
        int(self.status, "/restartCount").unwrap_or(0)
    }
}

static NOTHING: Value = Value::Null;

/// The containers of a pod in the order in which they start.
pub fn containers(pod: &Value) -> Vec<Container<'_>> {
    let of = |specs: &str, statuses: &str, before: bool| {
        let statuses = items(pod, statuses);
        let specs = items(pod, specs).iter();
        specs
            .map(|spec| {
                let status = statuses.iter().find(|s| text(s, "/name") == text(spec, "/name")).unwrap_or(&NOTHING);
                let is_sidecar = before && text(spec, "/restartPolicy") == "Always";
                Container { name: text(spec, "/name"), spec, status, is_init: before && !is_sidecar, is_sidecar }
            })
            .collect::<Vec<_>>()
    };
    let mut all = of("/spec/initContainers", "/status/initContainerStatuses", true);
    all.extend(of("/spec/containers", "/status/containerStatuses", false));
    all
}

/// Pods that should run, or have failed and matter.
pub fn pods(s: &Snapshot) -> impl Iterator<Item = &Value> {
    let wanted = |pod: &&Value| !object::is_deleted(pod) && text(pod, "/status/phase") != "Succeeded";
    s.all(Kind::Pod).filter(wanted).filter(move |pod| text(pod, "/status/phase") != "Failed" || !is_past(s, pod))
}

/// Whether a pod that has failed is past: its job has succeeded since, or a later one took the job's place.
fn is_past(s: &Snapshot, pod: &Value) -> bool {
    let job = match object::controller(pod) {
        Some(("batch", "Job", job)) => s.get(Kind::Job, namespace(pod), job),
        _ => None,
    };
    job.is_some_and(|job| object::has_condition(job, "Complete", "True") || is_replaced(s, job))
}

/// Whether a job is one of a cron job that has started a later one.
pub fn is_replaced(s: &Snapshot, job: &Value) -> bool {
    let Some(("batch", "CronJob", cron)) = object::controller(job) else { return false };
    let of_cron =
        |other: &&Value| matches!(object::controller(other), Some(("batch", "CronJob", name)) if name == cron);
    let made = |job: &Value| object::time(job, "/metadata/creationTimestamp");
    s.within(Kind::Job, namespace(job)).filter(of_cron).any(|other| made(other) > made(job))
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    object::has_condition(pod, "Ready", "True")
}

/// The object whose template made a pod, so the one to change.
pub fn owner(s: &Snapshot, pod: &Value) -> ObjectRef {
    let mut at = pod;
    let mut found = ObjectRef::of(Kind::Pod, pod);
    // Pod, ReplicaSet, Deployment; Pod, Job, CronJob.
    for _ in 0..3 {
        let Some((group, kind, owner)) = object::controller(at) else { break };
        let Some(kind) = Kind::of(group, kind).filter(|kind| *kind != Kind::Node) else { break };
        found = ObjectRef::new(kind, namespace(pod), owner);
        match s.find(&found) {
            Some(object) => at = object,
            None => break,
        }
    }
    found
}

/// The command that changes what made a pod.
pub fn edit(s: &Snapshot, pod: &Value) -> String {
    let owner = owner(s, pod);
    match owner.kind {
        Kind::Pod => format!(
            "kubectl -n {} get pod {} -o yaml  (change it, delete the pod, apply it again)",
            namespace(pod),
            name(pod)
        ),
        _ => format!("kubectl -n {} edit {} {}", owner.namespace, owner.kind.word(), owner.name),
    }
}

/// The command that shows a pod's log.
pub fn log_command(pod: &Value, container: &Container<'_>, previous: bool) -> String {
    let previous = if previous { " --previous" } else { "" };
    let several = containers(pod).len() > 1;
    let which = if several { format!(" -c {}", container.name) } else { String::new() };
    format!("kubectl -n {} logs {}{which}{previous}", namespace(pod), name(pod))
}

/// The last lines of a log, indented under a heading.
pub fn last_lines(heading: &str, log: &str, lines: usize) -> Vec<String> {
    let all: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = all.len().saturating_sub(lines);
    let shown = all.get(from..).unwrap_or_default().iter().map(|line| format!("| {}", object::short(line, 160)));
    std::iter::once(heading.to_string()).chain(shown).collect()
}

/// The last lines of what a container wrote before it ended.
pub fn last_words(s: &Snapshot, pod: &Value, container: &Container<'_>) -> Vec<String> {
    let running = container.runs();
    let (own, before) = (s.log(pod, container.name, false), s.log(pod, container.name, true));
    match (own, before) {
        (Some(log), _) if !running => last_lines("last lines of its log:", log, 5),
        (_, Some(log)) => last_lines("last lines of the run before:", log, 5),
        (Some(log), None) => last_lines("last lines of its log:", log, 5),
        (None, None) => {
            let message = container.ended().map_or("", |ended| text(ended, "/message"));
            if message.trim().is_empty() { Vec::new() } else { last_lines("its last message:", message, 5) }
        }
    }
}

/// Whether a pod's container may be left out of rules about starts: the pod hasn't got a node.
pub fn is_bound(pod: &Value) -> bool {
    !text(pod, "/spec/nodeName").is_empty()
}

/// Whether a reference says that what it names need not be there.
pub fn is_optional(reference: &Value) -> bool {
    is_true(reference, "/optional")
}
