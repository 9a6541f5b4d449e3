//! The answer: one screen in plain words, or JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::codes::Severity;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{int, is_true, items, name, namespace, pairs, since, text, time};
use crate::order::Cause;
use crate::rules;
use crate::snapshot::{Coverage, NOT_LISTED, ObjectRef, Snapshot};

/// So many causes are told in full; of more, one line each.
const IN_FULL: usize = 5;
/// So many causes are told at all.
const TOLD: usize = 40;
/// So many consequences of one cause are told.
const CONSEQUENCES: usize = 8;

/// An answer.
#[derive(Debug)]
pub struct Report {
    /// What was asked about; nothing for the whole cluster.
    pub target: Option<ObjectRef>,
    /// What is wrong.
    pub causes: Vec<Cause>,
    /// What is worth knowing.
    pub hints: Vec<Finding>,
    /// What wasn't seen.
    pub unseen: Vec<String>,
    /// What was wanted, and what is.
    pub state: Vec<(String, String)>,
}

/// Marks for terminals.
#[derive(Debug, Clone, Copy)]
pub struct Colours {
    /// Whether there are any.
    pub on: bool,
}

impl Colours {
    /// A text in the colour of a severity.
    pub fn severity(self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Error => "31;1",
            Severity::Warning => "33;1",
            Severity::Hint => "36",
        };
        self.paint(code, text)
    }

    /// A text that is told less loudly.
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// Text without control characters: what objects say must not move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// What wasn't seen, in sentences: a reason is told once, with all kinds that it is the reason for.
pub fn unseen(s: &Snapshot) -> Vec<String> {
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (kind, coverage) in s.coverage() {
        if let Coverage::Unseen(why) = coverage {
            let plural = kind.resource().plural;
            let reason =
                why.strip_prefix(&format!("{NOT_LISTED} {plural} ")).map(|place| format!("{NOT_LISTED} … {place}"));
            reasons.entry(reason.unwrap_or_else(|| format!("…: {why}"))).or_default().push(plural);
        }
    }
    reasons.into_iter().map(|(reason, plurals)| reason.replacen('…', &plurals.join(", "), 1)).collect()
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.causes.is_empty()
    }

    /// In words.
    pub fn text(&self, colours: Colours) -> String {
        let mut out = String::new();
        let subject = self.target.as_ref().map_or_else(|| "the cluster".to_string(), ToString::to_string);
        if self.causes.is_empty() {
            let _ = writeln!(out, "{subject}: nothing is wrong");
        }
        for (index, cause) in self.causes.iter().take(TOLD).enumerate() {
            self.cause(&mut out, cause, index, colours);
        }
        if self.causes.len() > TOLD {
            let _ = writeln!(
                out,
                "… and {} more; -n NAMESPACE or KIND/NAME narrows the question",
                self.causes.len() - TOLD
            );
        }
        if self.causes.is_empty() {
            self.wanted(&mut out);
        }
        self.hints(&mut out, colours);
        if !self.unseen.is_empty() {
            let _ = writeln!(out, "\nnot seen, so not judged:");
            for line in &self.unseen {
                let _ = writeln!(out, "  {line}");
            }
        }
        printable_but_colours(&out, colours)
    }

    fn cause(&self, out: &mut String, cause: &Cause, index: usize, colours: Colours) {
        let finding = &cause.finding;
        let severity = colours.severity(finding.code.severity, finding.code.severity.word());
        let code = colours.faint(&format!("[{}]", finding.code.id));
        if index > 0 && index <= IN_FULL {
            let _ = writeln!(out);
        }
        let _ = writeln!(out, "{severity}: {}: {} {code}", finding.object, finding.says);
        if index == 0 {
            self.wanted(out);
        }
        if index >= IN_FULL {
            return;
        }
        for line in &finding.details {
            let _ = writeln!(out, "  {line}");
        }
        if let Some(follows) = &finding.follows {
            let _ = writeln!(out, "  so {follows}");
        }
        for consequence in cause.consequences.iter().take(CONSEQUENCES) {
            let code = colours.faint(&format!("[{}]", consequence.code.id));
            let _ = writeln!(out, "  → {}: {} {code}", consequence.object, consequence.says);
        }
        if cause.consequences.len() > CONSEQUENCES {
            let _ = writeln!(out, "  → … and {} more", cause.consequences.len() - CONSEQUENCES);
        }
        for (at, command) in finding.next.iter().enumerate() {
            let _ = writeln!(out, "  {} {command}", if at == 0 { "next:" } else { "  or:" });
        }
    }

    fn wanted(&self, out: &mut String) {
        for (key, value) in &self.state {
            let _ = writeln!(out, "  {key:<7} {value}");
        }
    }

    fn hints(&self, out: &mut String, colours: Colours) {
        if self.hints.is_empty() {
            return;
        }
        let _ = writeln!(out);
        for hint in &self.hints {
            let word = colours.severity(Severity::Hint, "hint");
            let _ = writeln!(
                out,
                "{word}: {}: {} {}",
                hint.object,
                hint.says,
                colours.faint(&format!("[{}]", hint.code.id))
            );
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let causes: Vec<Value> = self
            .causes
            .iter()
            .map(|cause| {
                let mut value = finding_json(&cause.finding);
                value["consequences"] = cause.consequences.iter().map(finding_json).collect();
                value
            })
            .collect();
        let state: serde_json::Map<String, Value> = self
            .state
            .iter()
            .map(|(key, value)| (key.trim_end_matches(':').to_string(), value.as_str().into()))
            .collect();
        json!({
            "target": self.target.as_ref().map(reference_json),
            "healthy": self.is_healthy(),
            "state": state,
            "causes": causes,
            "hints": self.hints.iter().map(finding_json).collect::<Vec<_>>(),
            "unseen": self.unseen,
        })
    }
}

/// Colours are ours; everything else that moves a cursor isn't printed.
fn printable_but_colours(text: &str, colours: Colours) -> String {
    if !colours.on {
        return printable(text);
    }
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\x1b' { ' ' } else { c }).collect()
}

fn reference_json(object: &ObjectRef) -> Value {
    json!({"kind": object.kind.resource().name, "namespace": object.namespace, "name": object.name})
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "code": finding.code.id,
        "severity": finding.code.severity.word(),
        "object": reference_json(&finding.object),
        "says": finding.says,
        "details": finding.details,
        "follows": finding.follows,
        "next": finding.next,
    })
}

/// What was wanted of an object, and what is.
pub fn state(s: &Snapshot, target: &ObjectRef) -> Vec<(String, String)> {
    let Some(object) = s.find(target) else { return Vec::new() };
    let age = since(time(object, "/metadata/creationTimestamp"), s.now);
    let found = match target.kind {
        Kind::Pod => Some(pod_state(object, &age)),
        Kind::Service => Some(service_state(s, object)),
        kind => workload_state(kind, object).or_else(|| other_state(kind, object, &age)),
    };
    found.map_or(Vec::new(), |(wanted, is)| vec![("wanted:".into(), wanted), ("is:".into(), is)])
}

fn pod_state(pod: &Value, age: &str) -> (String, String) {
    let containers = rules::containers(pod);
    let ready = containers.iter().filter(|c| is_true(c.status, "/ready") && !c.is_init).count();
    let all = containers.iter().filter(|c| !c.is_init).count();
    let images: Vec<&str> = containers.iter().map(|c| text(c.spec, "/image")).collect();
    let node = text(pod, "/spec/nodeName");
    let place = if node.is_empty() { "on no node".into() } else { format!("on node {node}") };
    let phase = text(pod, "/status/phase");
    (
        format!("{all} containers ({})", images.join(", ")),
        format!("{phase} for {age}, {ready} of {all} containers ready, {place}"),
    )
}

fn service_state(s: &Snapshot, service: &Value) -> (String, String) {
    let slices = s.within(Kind::EndpointSlice, namespace(service));
    let own = slices
        .filter(|slice| pairs(slice, "/metadata/labels").get("kubernetes.io/service-name") == Some(&name(service)));
    let endpoints: Vec<&Value> = own.flat_map(|slice| items(slice, "/endpoints")).collect();
    let ready = endpoints.iter().filter(|e| is_true(e, "/conditions/ready")).count();
    let selector: Vec<String> = pairs(service, "/spec/selector").iter().map(|(k, v)| format!("{k}={v}")).collect();
    (format!("pods with {}", selector.join(",")), format!("{} endpoints, {ready} ready", endpoints.len()))
}

fn workload_state(kind: Kind, object: &Value) -> Option<(String, String)> {
    let number = |path: &str| int(object, path).unwrap_or(0);
    let replicas = format!("{} pods", int(object, "/spec/replicas").unwrap_or(1));
    let made = number("/status/replicas");
    Some(match kind {
        Kind::Deployment => {
            let (updated, available) = (number("/status/updatedReplicas"), number("/status/availableReplicas"));
            (replicas, format!("{made} made, {updated} of the new template, {available} available"))
        }
        Kind::StatefulSet | Kind::ReplicaSet => {
            (replicas, format!("{made} made, {} ready", number("/status/readyReplicas")))
        }
        Kind::DaemonSet => (
            format!("a pod on each of {} nodes", number("/status/desiredNumberScheduled")),
            format!("{} made, {} ready", number("/status/currentNumberScheduled"), number("/status/numberReady")),
        ),
        Kind::Job => {
            let (active, succeeded) = (number("/status/active"), number("/status/succeeded"));
            let completions = int(object, "/spec/completions").unwrap_or(1);
            (
                format!("{completions} completions"),
                format!("{active} active, {succeeded} succeeded, {} failed", number("/status/failed")),
            )
        }
        Kind::CronJob => {
            let last = text(object, "/status/lastScheduleTime");
            let last = if last.is_empty() { "never started".into() } else { format!("last started {last}") };
            (format!("a job at {:?}", text(object, "/spec/schedule")), last)
        }
        _ => return None,
    })
}

fn other_state(kind: Kind, object: &Value, age: &str) -> Option<(String, String)> {
    let number = |path: &str| int(object, path).unwrap_or(0);
    Some(match kind {
        Kind::PersistentVolumeClaim => {
            let (size, class) =
                (text(object, "/spec/resources/requests/storage"), text(object, "/spec/storageClassName"));
            let (phase, volume) = (text(object, "/status/phase"), text(object, "/spec/volumeName"));
            (format!("{size} of class {class:?}"), format!("{phase} for {age}, volume {volume:?}"))
        }
        Kind::Node => {
            let ready = crate::object::condition(object, "Ready").map_or("Unknown", |c| text(c, "/status"));
            ("ready".into(), format!("Ready {ready}, for {age} in the cluster"))
        }
        Kind::HorizontalPodAutoscaler => (
            format!("{} to {} pods", int(object, "/spec/minReplicas").unwrap_or(1), number("/spec/maxReplicas")),
            format!("{} pods, {} wanted", number("/status/currentReplicas"), number("/status/desiredReplicas")),
        ),
        _ => return None,
    })
}
