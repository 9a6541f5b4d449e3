//! Why doesn't it run? Rules over a snapshot of a cluster, in the order of causes.
//!
//! [`read`] takes a snapshot of any cluster, as who asks; what may not be read is noted, and nothing is guessed of it. The rules in [`rules`] are
//! pure functions that tell findings, each with a code whose page is in `docs/why/`. [`order`] puts what is wrong first and what follows from it under
//! it, and [`report`] says it. The crate changes nothing in a cluster, and knows no other service of this program: it works with any Kubernetes.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

pub mod codes;
pub mod finding;
pub mod kinds;
pub mod machine;
pub mod object;
pub mod order;
pub mod read;
pub mod report;
pub mod rules;
pub mod snapshot;
mod status;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use codes::Severity;
use kinds::Kind;
use machine::Machine;
use read::{Connection, Scope};
use report::{Colours, Report};
use snapshot::{ObjectRef, Snapshot};
use target::Question;

/// How a cluster is found.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Kubeconfig file [default: KUBECONFIG, ~/.kube/config, /etc/timonel/kubeconfig.yaml]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
    /// Output format: text or json
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    /// Data folder of this machine, if it is one of the cluster's
    #[arg(long, default_value = "/var/lib/timonel", env = "TIMONEL_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// Flags of `timonel why`.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// KIND/NAME, KIND, NAME, or a code as in W-EXIT-OOM; nothing for the whole cluster. Kinds: pod, deployment, statefulset, daemonset, replicaset,
    /// job, cronjob, pvc, pv, service, ingress, gateway, httproute, networkpolicy, hpa, pdb, quota, node, namespace
    pub what: Vec<String>,
    /// Namespace [default: that of the context]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Another pod (NAME or NAMESPACE/NAME): may this one reach it, by the network policies?
    #[arg(long, value_name = "POD", requires = "what")]
    pub to: Option<String>,
    /// Port of the other pod, as in 80 or 53/UDP
    #[arg(long, default_value = "80", requires = "to")]
    pub port: String,
    /// Tell what is worth knowing, too
    #[arg(long)]
    pub hints: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

/// What went well and what was wrong, as exit codes.
const HEALTHY: u8 = 0;
const WRONG: u8 = 1;
const UNSEEN: u8 = 2;

/// Runs `timonel why`; returns the exit code. `machine` is asked for the facts of this machine.
pub async fn why(args: WhyArgs, machine: impl FnOnce() -> Option<Machine>) -> u8 {
    finish(answer(args, machine).await)
}

/// Runs `timonel status`; returns the exit code.
pub async fn status(args: ClusterArgs, machine: impl FnOnce() -> Option<Machine>) -> u8 {
    finish(status::run(args, machine).await)
}

fn finish(outcome: anyhow::Result<bool>) -> u8 {
    match outcome {
        Ok(true) => HEALTHY,
        Ok(false) => WRONG,
        Err(error) => {
            eprintln!("error: {}", report::printable(&format!("{error:#}")));
            UNSEEN
        }
    }
}

fn colours() -> Colours {
    Colours { on: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
}

async fn answer(args: WhyArgs, machine: impl FnOnce() -> Option<Machine>) -> anyhow::Result<bool> {
    let question = Question::read(&args.what)?;
    if let Question::Code(code) = question {
        print!("{}", code.page);
        return Ok(true);
    }
    let connection = Connection::open(args.cluster.kubeconfig.as_deref(), args.cluster.context.clone()).await?;
    let space = args.namespace.clone().unwrap_or_else(|| connection.namespace.clone());
    let scope = match (&question, &args.namespace) {
        (Question::All, None) => Scope::Cluster,
        (Question::Object(Kind::Namespace, name), _) => Scope::Namespace(name.clone()),
        (Question::Object(Kind::Node, _) | Question::Kind(_), _) if !question.is_in_a_namespace() => Scope::Cluster,
        _ => Scope::Namespace(space.clone()),
    };
    let mut snapshot = read::snapshot(&connection, &scope).await?;
    // Who may not look at the whole cluster is answered about his namespace.
    let narrowed = scope == Scope::Cluster && question == Question::All && !snapshot.knows(Kind::Pod, "");
    if narrowed {
        eprintln!("you may not list pods in the whole cluster: this is about namespace {space}");
        snapshot = read::snapshot(&connection, &Scope::Namespace(space.clone())).await?;
    }
    snapshot.machine = machine();
    if args.namespace.is_some() && snapshot.lacks(Kind::Namespace, "", &space) {
        let near = object::nearest(&space, snapshot.all(Kind::Namespace).map(object::name));
        bail!(
            "there is no namespace {space:?}{}",
            near.map_or(String::new(), |near| format!("; did you mean `{near}`?"))
        );
    }
    let mut targets = target::find(&snapshot, &question, &space)?;
    if question == Question::All && (args.namespace.is_some() || narrowed) {
        targets.push(ObjectRef::new(Kind::Namespace, "", &space));
    }
    let around: BTreeSet<ObjectRef> = {
        let graph = order::Graph::of(&snapshot);
        targets.iter().flat_map(|target| order::scope(&snapshot, &graph, target)).collect()
    };
    let wanted = |log: &snapshot::LogOf| {
        targets.is_empty() || around.contains(&ObjectRef::new(Kind::Pod, &log.namespace, &log.pod))
    };
    read::logs(&connection, &mut snapshot, wanted).await;
    let mut report = judge(&snapshot, &targets, args.hints);
    if let Some(to) = &args.to {
        reach(&snapshot, &targets, to, &args.port, &mut report)?;
    }
    print(&report, &args.cluster.output)?;
    if report.is_healthy() && !snapshot.knows(Kind::Pod, &space) {
        bail!("you may not list pods in namespace {space}, so whether something is wrong can't be said");
    }
    Ok(report.is_healthy())
}

fn print(report: &Report, output: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let text = if output == "json" { format!("{:#}\n", report.json()) } else { report.text(colours()) };
    // Whoever reads it may have seen enough.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("the answer can't be written")
        }
        _ => Ok(()),
    }
}

/// Whether one pod may reach another.
fn reach(s: &Snapshot, targets: &[ObjectRef], to: &str, port: &str, report: &mut Report) -> anyhow::Result<()> {
    let [from] = targets else { bail!("--to needs one pod: `timonel why pod/NAME --to NAME --port 80`") };
    let Some(pod) = s.find(from).filter(|_| from.kind == Kind::Pod) else {
        bail!("--to needs a pod, and {from} is none")
    };
    let (space, name) =
        to.trim_start_matches("pod/").split_once('/').unwrap_or((&from.namespace, to.trim_start_matches("pod/")));
    let Some(other) = s.get(Kind::Pod, space, name) else { bail!("there is no pod {name:?} in namespace {space}") };
    let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
    let number: i64 = number
        .parse()
        .ok()
        .filter(|n| (1..=65535).contains(n))
        .with_context(|| format!("--port {port:?} is no port, as 80 or 53/UDP"))?;
    match rules::cut(s, pod, other, &protocol.to_uppercase(), number) {
        Some(finding) => report.causes.insert(0, order::Cause { finding, consequences: Vec::new() }),
        None => report.state.push((
            "reach:".into(),
            format!("the network policies let {from} reach Pod {space}/{name} on port {port}"),
        )),
    }
    Ok(())
}

/// Judges a snapshot: all of it, or what some objects have to do with.
pub fn judge(s: &Snapshot, targets: &[ObjectRef], with_hints: bool) -> Report {
    let graph = order::Graph::of(s);
    let findings = rules::all(s);
    let scope: BTreeSet<ObjectRef> = targets.iter().flat_map(|target| order::scope(s, &graph, target)).collect();
    let concerns = |finding: &finding::Finding| {
        targets.is_empty()
            || scope.contains(&finding.object)
            || (finding.object.kind == Kind::ApiService
                && targets.iter().any(|t| t.kind == Kind::Namespace && s.find(t).is_some_and(object::is_deleted)))
    };
    let hints: Vec<_> = findings
        .iter()
        .filter(|f| f.code.severity == Severity::Hint && (targets.contains(&f.object) || (with_hints && concerns(f))))
        .cloned()
        .collect();
    // What explains a finding of the question belongs to it, wherever it is.
    let explaining: BTreeSet<ObjectRef> =
        findings.iter().filter(|f| concerns(f)).flat_map(|f| f.because.iter().cloned()).collect();
    let explaining: BTreeSet<ObjectRef> = graph.below(explaining);
    let told: Vec<_> = findings.into_iter().filter(|f| concerns(f) || explaining.contains(&f.object)).collect();
    let target = match targets {
        [one] => Some(one.clone()),
        _ => None,
    };
    let mut causes = order::causes(&graph, told);
    // Everything runs on some node: asked about nodes, what isn't because of them isn't the answer.
    if !targets.is_empty() && targets.iter().all(|target| target.kind == Kind::Node) {
        causes.retain(|cause| targets.contains(&cause.finding.object));
    }
    Report {
        state: target.as_ref().map_or(Vec::new(), |target| report::state(s, target)),
        causes,
        hints,
        unseen: report::unseen(s),
        target,
    }
}
