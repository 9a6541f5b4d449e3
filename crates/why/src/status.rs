//! `timonel status`: the cluster at a glance.

use std::fmt::Write as _;

use apimachinery::Quantity;
use serde_json::{Value, json};

use crate::codes::Severity;
use crate::kinds::Kind;
use crate::machine::Machine;
use crate::object::{self, items, name, namespace, since, text, time};
use crate::read::{self, Connection, Scope};
use crate::report::{self, Colours};
use crate::snapshot::Snapshot;
use crate::{ClusterArgs, colours, order, rules};

/// So many of each kind are listed.
const LISTED: usize = 15;
const EVENTS: usize = 5;

/// What the cluster looks like: sections of lines, and what is wrong.
struct Status {
    sections: Vec<(&'static str, Vec<String>)>,
    wrong: Vec<(Severity, String)>,
    unseen: Vec<String>,
}

pub async fn run(args: ClusterArgs, machine: impl FnOnce() -> Option<Machine>) -> anyhow::Result<bool> {
    let connection = Connection::open(args.kubeconfig.as_deref(), args.context.clone()).await?;
    let mut snapshot = read::snapshot(&connection, &Scope::Cluster).await?;
    snapshot.machine = machine();
    let metrics = connection.metrics().await;
    let status = Status::of(&snapshot, &connection.server, metrics.as_deref());
    if args.output == "json" {
        println!("{:#}", status.json());
    } else {
        print!("{}", status.text(colours()));
    }
    Ok(status.wrong.is_empty())
}

impl Status {
    fn of(s: &Snapshot, server: &str, metrics: Option<&str>) -> Self {
        let graph = order::Graph::of(s);
        let causes = order::causes(&graph, rules::all(s));
        let wrong = causes
            .iter()
            .map(|cause| {
                let more = match cause.consequences.len() {
                    0 => String::new(),
                    more => format!(" (and {more} more because of it)"),
                };
                let finding = &cause.finding;
                (finding.code.severity, format!("{}: {}{more} [{}]", finding.object, finding.says, finding.code.id))
            })
            .collect();
        let events =
            rules::last_warnings(s, EVENTS).into_iter().map(|(age, line)| format!("{age} ago  {line}")).collect();
        let sections = vec![
            ("server", vec![format!("{server} {} (as {})", s.version, s.user)]),
            ("nodes", nodes(s)),
            ("pods", pods(s)),
            ("volumes", volumes(s)),
            ("certificates", certificates(s)),
            ("backups", backups(s)),
            ("database", database(s, metrics).into_iter().collect()),
            ("last warnings", events),
        ];
        Status { sections, wrong, unseen: report::unseen(s) }
    }

    fn text(&self, colours: Colours) -> String {
        let mut out = String::new();
        for (section, lines) in self.sections.iter().filter(|(_, lines)| !lines.is_empty()) {
            for (index, line) in lines.iter().enumerate() {
                let _ = writeln!(out, "{:<14} {}", if index == 0 { section } else { "" }, report::printable(line));
            }
        }
        let _ = writeln!(out);
        if self.wrong.is_empty() {
            let _ = writeln!(out, "nothing is wrong");
        }
        for (severity, line) in self.wrong.iter().take(LISTED) {
            let _ = writeln!(out, "{}: {}", colours.severity(*severity, severity.word()), report::printable(line));
        }
        if self.wrong.len() > LISTED {
            let _ = writeln!(out, "… and {} more", self.wrong.len() - LISTED);
        }
        if !self.wrong.is_empty() {
            let _ = writeln!(out, "next: timonel why");
        }
        for line in &self.unseen {
            let _ = writeln!(out, "not seen: {}", report::printable(line));
        }
        out
    }

    fn json(&self) -> Value {
        let sections: serde_json::Map<String, Value> =
            self.sections.iter().map(|(name, lines)| (name.replace(' ', "_"), json!(lines))).collect();
        let wrong: Vec<Value> =
            self.wrong.iter().map(|(severity, line)| json!({"severity": severity.word(), "says": line})).collect();
        json!({"healthy": self.wrong.is_empty(), "sections": sections, "wrong": wrong, "unseen": self.unseen})
    }
}

fn nodes(s: &Snapshot) -> Vec<String> {
    let all: Vec<&Value> = s.all(Kind::Node).collect();
    let ready = all.iter().filter(|node| object::has_condition(node, "Ready", "True")).count();
    let mut lines = vec![format!("{ready} of {} ready", all.len())];
    for node in all.iter().take(LISTED) {
        let state = if object::has_condition(node, "Ready", "True") { "ready" } else { "not ready" };
        let cordoned = if object::is_true(node, "/spec/unschedulable") { ", cordoned" } else { "" };
        let age = since(time(node, "/metadata/creationTimestamp"), s.now);
        let version = text(node, "/status/nodeInfo/kubeletVersion");
        lines.push(format!(
            "{} {state}{cordoned}, {version}, {}, for {age}",
            name(node),
            text(node, "/status/nodeInfo/osImage")
        ));
    }
    lines
}

fn pods(s: &Snapshot) -> Vec<String> {
    let all: Vec<&Value> = s.all(Kind::Pod).collect();
    let done = |pod: &&&Value| text(pod, "/status/phase") == "Succeeded";
    let finished = all.iter().filter(done).count();
    let unwell: Vec<&&Value> = all.iter().filter(|pod| !done(pod) && !rules::is_ready(pod)).collect();
    let mut lines = vec![format!("{} in all, {finished} finished, {} not ready", all.len(), unwell.len())];
    for pod in unwell.into_iter().take(LISTED) {
        let containers = rules::containers(pod);
        let reason = containers.iter().find_map(|c| c.waiting().map(|(reason, _)| reason.to_string()));
        let phase = text(pod, "/status/phase");
        let restarts: i64 = containers.iter().map(rules::Container::restarts).sum();
        let reason = reason.unwrap_or_else(|| phase.into());
        let age = since(time(pod, "/metadata/creationTimestamp"), s.now);
        lines.push(format!("{}/{} {reason}, {restarts} restarts, for {age}", namespace(pod), name(pod)));
    }
    lines
}

fn volumes(s: &Snapshot) -> Vec<String> {
    let claims: Vec<&Value> = s.all(Kind::PersistentVolumeClaim).collect();
    if claims.is_empty() {
        return Vec::new();
    }
    let bound: Vec<&&Value> = claims.iter().filter(|claim| text(claim, "/status/phase") == "Bound").collect();
    let bytes: i64 = bound
        .iter()
        .filter_map(|c| object::amount(c, "/status/capacity/storage"))
        .map(Quantity::value)
        .fold(0, i64::saturating_add);
    let mut lines = vec![format!("{} of {} claims bound, {} MiB", bound.len(), claims.len(), bytes >> 20)];
    for claim in claims.iter().filter(|claim| text(claim, "/status/phase") != "Bound").take(LISTED) {
        lines.push(format!("{}/{} {}", namespace(claim), name(claim), text(claim, "/status/phase")));
    }
    lines
}

fn certificates(s: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(machine) = &s.machine {
        for certificate in machine.certificates.iter().take(LISTED) {
            let age = since(Some(certificate.issued), s.now);
            let left = apimachinery::clock::human_duration(certificate.expires.duration_since(s.now));
            lines.push(format!("{} is {age} old, {left} left", certificate.file));
        }
    }
    let waiting = s.all(Kind::CertificateSigningRequest).filter(|r| items(r, "/status/conditions").is_empty()).count();
    if waiting > 0 {
        lines.push(format!("{waiting} signing requests wait for approval"));
    }
    lines
}

fn backups(s: &Snapshot) -> Vec<String> {
    let Some(machine) = &s.machine else { return Vec::new() };
    machine
        .backups
        .iter()
        .take(1)
        .map(|(path, made)| {
            format!("{} in all, the last {} ago: {path}", machine.backups.len(), since(Some(*made), s.now))
        })
        .collect()
}

/// The size of the database: of the file where this is the server, else as the server's metrics say.
fn database(s: &Snapshot, metrics: Option<&str>) -> Option<String> {
    if let Some(bytes) = s.machine.as_ref().and_then(|machine| machine.database) {
        return Some(format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)));
    }
    let names = ["apiserver_storage_size_bytes", "apiserver_storage_db_total_size_in_bytes"];
    let line = metrics?.lines().find(|line| names.iter().any(|name| line.starts_with(name)))?;
    let bytes: f64 = line.rsplit(' ').next()?.parse().ok()?;
    Some(format!("{:.1} MiB", bytes / f64::from(1 << 20)))
}
