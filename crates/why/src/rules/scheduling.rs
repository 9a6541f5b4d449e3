//! Pods without a node: which node fails on what, in numbers, and what would have to change.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, Node, NodeSelector, Taint, Toleration};
use serde_json::Value;

use super::amounts::{self, Amounts};
use super::pod;
use super::probes::PATIENCE_SECONDS;
use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, items, name, namespace, pairs, seconds_since, short, text, time};
use crate::snapshot::{ObjectRef, Snapshot};

/// So many nodes are listed one by one.
const LISTED_NODES: usize = 8;

/// Tells of pods that get no node.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    let waiting: Vec<&Value> = pod::pods(s).filter(|pod| text(pod, "/status/phase") == "Pending").collect();
    let nodes = Nodes::read(s);
    for pod in waiting {
        if pod::is_bound(pod) {
            let node = text(pod, "/spec/nodeName");
            if s.lacks(Kind::Node, "", node) {
                let says = format!("it is to run on node {node:?}, which doesn't exist");
                out.push(
                    Finding::new(&codes::SCHED_NODE_MISSING, ObjectRef::of(Kind::Pod, pod), says)
                        .follows("no kubelet starts it")
                        .next("kubectl get nodes"),
                );
            }
        } else {
            out.extend(unscheduled(s, pod, &nodes));
        }
    }
}

/// Ports of a machine, each with its protocol.
type Ports = BTreeSet<(String, i64)>;

/// A node as the scheduler sees it.
struct Candidate<'a> {
    object: &'a Value,
    node: Node,
    free: Amounts,
    allocatable: Amounts,
    ports: Ports,
}

struct Nodes<'a> {
    all: Vec<Candidate<'a>>,
}

impl<'a> Nodes<'a> {
    fn read(s: &'a Snapshot) -> Self {
        let mut used: BTreeMap<&str, (Amounts, Ports)> = BTreeMap::new();
        for pod in s.all(Kind::Pod).filter(|pod| amounts::counts(pod)) {
            let of = used.entry(text(pod, "/spec/nodeName")).or_default();
            amounts::add(&mut of.0, &amounts::requests(pod));
            of.1.extend(host_ports(pod));
        }
        let all = s.all(Kind::Node).filter_map(|object| {
            let node = serde_json::from_value(object.clone()).ok()?;
            let allocatable = amounts::allocatable(object);
            let (taken, ports) = used.remove(name(object)).unwrap_or_default();
            Some(Candidate { object, node, free: amounts::subtract(&allocatable, &taken), allocatable, ports })
        });
        Nodes { all: all.collect() }
    }
}

fn host_ports(pod: &Value) -> Ports {
    let containers = pod::containers(pod);
    let ports = containers.iter().flat_map(|c| items(c.spec, "/ports"));
    ports
        .filter_map(|port| {
            let number = object::int(port, "/hostPort").filter(|port| *port > 0)?;
            let protocol = text(port, "/protocol");
            Some((if protocol.is_empty() { "TCP" } else { protocol }.to_string(), number))
        })
        .collect()
}

/// Why a node can't take a pod.
#[derive(Debug, Clone)]
struct Obstacle {
    code: &'static Code,
    /// What is wrong with the node, for a line that starts with its name.
    why: String,
    /// What would have to change.
    remedy: String,
}

fn unscheduled(s: &Snapshot, pod: &Value, nodes: &Nodes<'_>) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Pod, pod);
    let condition = object::condition(pod, "PodScheduled");
    let message = condition.map_or("", |c| text(c, "/message"));
    let age = seconds_since(time(pod, "/metadata/creationTimestamp"), s.now);
    let show = format!("kubectl -n {} describe pod {}", namespace(pod), name(pod));
    let gates: Vec<&str> = items(pod, "/spec/schedulingGates").iter().map(|gate| text(gate, "/name")).collect();
    if !gates.is_empty() {
        let says = format!("it isn't scheduled before somebody removes its scheduling gate {:?}", gates.join(", "));
        return Some(Finding::new(&codes::SCHEDULING_GATED, object, says).follows("it has no node").next(show));
    }
    if condition.is_none_or(|c| text(c, "/status") != "False") {
        let scheduler = text(pod, "/spec/schedulerName");
        if age < PATIENCE_SECONDS {
            return None;
        }
        let other = !["", "default-scheduler"].contains(&scheduler);
        let says = format!(
            "no scheduler has looked at it for {age} s: it asks for {:?}",
            if other { scheduler } else { "default-scheduler" }
        );
        let hint = if other { "is a scheduler of that name running?" } else { "the scheduler doesn't run" };
        return Some(
            Finding::new(&codes::SCHEDULER_MISSING, object, says)
                .detail(hint)
                .follows("it has no node")
                .next("kubectl -n kube-system get pods"),
        );
    }
    if let Some(claim) = claim_in_the_way(s, pod) {
        // The claim's own finding says what is wrong; this pod waits for it.
        return Some(claim);
    }
    if !s.knows(Kind::Node, "") {
        let finding = Finding::new(&codes::SCHED_OTHER, object, "no node takes it").detail(short(message, 300));
        return Some(finding.detail("you may not list nodes: which one fails on what can't be told").next(show));
    }
    if nodes.all.is_empty() {
        let finding = Finding::new(&codes::SCHED_NO_NODES, object, "the cluster has no nodes");
        return Some(finding.follows("no pod can run").next("kubectl get nodes"));
    }
    let obstacles: Vec<(&str, Vec<Obstacle>)> =
        nodes.all.iter().map(|node| (name(node.object), obstacles(s, pod, node, message))).collect();
    Some(summary(pod, &obstacles, message).next(show))
}

fn claim_in_the_way(s: &Snapshot, pod: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Pod, pod);
    for claim in claims(pod) {
        let reference = ObjectRef::new(Kind::PersistentVolumeClaim, namespace(pod), &claim);
        if s.lacks(Kind::PersistentVolumeClaim, namespace(pod), &claim) {
            let near = object::nearest(&claim, s.within(Kind::PersistentVolumeClaim, namespace(pod)).map(name));
            let says = format!("its claim {claim:?} doesn't exist");
            return Some(
                Finding::new(&codes::CLAIM_MISSING, object, says)
                    .detail(near.map_or(String::new(), |near| format!("there is {near:?}: is that the one?")))
                    .follows("it gets no node")
                    .next(format!("kubectl -n {} get pvc", namespace(pod))),
            );
        }
        let phase = s.find(&reference).map_or("", |claim| text(claim, "/status/phase"));
        let own = super::claims::problem(s, s.find(&reference)?);
        if phase != "Bound" && own.is_some() {
            let says = format!("it waits for its claim {claim:?}, which is {phase}");
            return Some(
                Finding::new(&codes::CLAIM_PENDING, object, says).because(reference).follows("it gets no node"),
            );
        }
    }
    None
}

/// The claims of a pod, those of ephemeral volumes among them.
pub fn claims(pod: &Value) -> Vec<String> {
    let volumes = items(pod, "/spec/volumes").iter();
    volumes
        .filter_map(|volume| match text(volume, "/persistentVolumeClaim/claimName") {
            "" if volume.pointer("/ephemeral").is_some() => Some(format!("{}-{}", name(pod), text(volume, "/name"))),
            "" => None,
            claim => Some(claim.to_string()),
        })
        .collect()
}

fn obstacles(s: &Snapshot, pod: &Value, node: &Candidate<'_>, message: &str) -> Vec<Obstacle> {
    let mut all = Vec::new();
    all.extend(taints(pod, node));
    all.extend(selectors(pod, node));
    all.extend(volumes(s, pod, node));
    all.extend(resources(pod, node));
    let taken: Vec<String> =
        host_ports(pod).intersection(&node.ports).map(|(protocol, port)| format!("{port}/{protocol}")).collect();
    if !taken.is_empty() {
        let why = format!("has given port {} of the machine to another pod", taken.join(", "));
        all.push(Obstacle { code: &codes::SCHED_PORT, why, remedy: "another hostPort, or none".into() });
    }
    if all.is_empty() {
        all.extend(said(message));
    }
    all
}

fn taints(pod: &Value, node: &Candidate<'_>) -> Vec<Obstacle> {
    let tolerations: Vec<Toleration> =
        pod.pointer("/spec/tolerations").and_then(|t| serde_json::from_value(t.clone()).ok()).unwrap_or_default();
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let barring = taints.filter(|t| t.effect != "PreferNoSchedule" && !placement::tolerates(&tolerations, t));
    barring.map(taint_obstacle).collect()
}

fn taint_obstacle(taint: &Taint) -> Obstacle {
    let value = taint.value.as_deref().filter(|v| !v.is_empty()).map_or(String::new(), |v| format!("={v}"));
    let text = format!("{}{value}:{}", taint.key, taint.effect);
    match taint.key.as_str() {
        "node.kubernetes.io/unschedulable" => {
            Obstacle { code: &codes::SCHED_CORDONED, why: "is cordoned".into(), remedy: "kubectl uncordon NODE".into() }
        }
        key if key.starts_with("node.kubernetes.io/") => Obstacle {
            code: &codes::SCHED_TAINT,
            why: format!("has the taint {text}, which the cluster sets while something is wrong with it"),
            remedy: "mend the node".into(),
        },
        _ => Obstacle {
            code: &codes::SCHED_TAINT,
            why: format!("has the taint {text}, which the pod doesn't tolerate"),
            remedy: format!("a toleration of {text}, or kubectl taint node NODE {}:{}-", taint.key, taint.effect),
        },
    }
}

fn selectors(pod: &Value, node: &Candidate<'_>) -> Option<Obstacle> {
    let labels = pairs(node.object, "/metadata/labels");
    let wanted = pairs(pod, "/spec/nodeSelector");
    if let Some((key, value)) = wanted.iter().find(|(key, value)| labels.get(*key) != Some(value)) {
        let why = match labels.get(key) {
            Some(has) => format!("has the label {key}={has}; the pod's nodeSelector wants {key}={value}"),
            None => format!("hasn't got the label {key}={value} that the pod's nodeSelector wants"),
        };
        return Some(Obstacle {
            code: &codes::SCHED_SELECTOR,
            why,
            remedy: format!("kubectl label node NODE {key}={value}"),
        });
    }
    let affinity: Option<Affinity> = pod.pointer("/spec/affinity").and_then(|a| serde_json::from_value(a.clone()).ok());
    if placement::node_affinity_matches(None, affinity.as_ref(), &node.node) {
        return None;
    }
    let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = items(pod, path)
        .iter()
        .flat_map(|term| items(term, "/matchExpressions").iter().chain(items(term, "/matchFields")));
    let terms: Vec<String> = terms.map(expression).collect();
    let why = format!("doesn't match the pod's node affinity ({})", short(&terms.join("; "), 160));
    Some(Obstacle { code: &codes::SCHED_SELECTOR, why, remedy: "another node affinity, or a label on a node".into() })
}

fn expression(expression: &Value) -> String {
    let values: Vec<&str> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
    format!("{} {} {}", text(expression, "/key"), text(expression, "/operator"), values.join(", ")).trim().to_string()
}

fn volumes(s: &Snapshot, pod: &Value, node: &Candidate<'_>) -> Option<Obstacle> {
    claims(pod).iter().find_map(|claim| {
        let claim_object = s.get(Kind::PersistentVolumeClaim, namespace(pod), claim)?;
        let volume = s.get(Kind::PersistentVolume, "", text(claim_object, "/spec/volumeName"))?;
        let required = volume.pointer("/spec/nodeAffinity/required")?;
        let selector: NodeSelector = serde_json::from_value(required.clone()).ok()?;
        if placement::node_selector_matches(&selector, &node.node) {
            return None;
        }
        let terms = items(required, "/nodeSelectorTerms").iter().flat_map(|t| items(t, "/matchExpressions"));
        let place = terms.map(expression).collect::<Vec<_>>().join("; ");
        let why = format!("can't reach volume {} of claim {claim:?}, which is where {place}", name(volume));
        Some(Obstacle {
            code: &codes::SCHED_VOLUME,
            why,
            remedy: format!("room for the pod where its volume is ({place})"),
        })
    })
}

fn resources(pod: &Value, node: &Candidate<'_>) -> Vec<Obstacle> {
    let mut all = Vec::new();
    for (resource, wanted) in amounts::requests(pod) {
        let zero = apimachinery::Quantity::ZERO;
        let (free, whole) =
            (*node.free.get(&resource).unwrap_or(&zero), *node.allocatable.get(&resource).unwrap_or(&zero));
        if wanted <= free || wanted == zero {
            continue;
        }
        let show = |amount| amounts::show(&resource, amount);
        if resource == "pods" {
            let why = format!("has as many pods as it may ({})", show(whole));
            all.push(Obstacle { code: &codes::SCHED_PODS, why, remedy: "another node".into() });
            continue;
        }
        let remedy = if whole == zero {
            format!("a node that has {resource}")
        } else if wanted > whole {
            format!("requests of {resource} of at most {}, or a larger node", show(whole))
        } else {
            format!("requests of {resource} of at most {}, or fewer pods there", show(free))
        };
        let why =
            format!("has {} of {resource} left of {}; the pod requests {}", show(free), show(whole), show(wanted));
        all.push(Obstacle { code: &codes::SCHED_RESOURCES, why, remedy });
    }
    all
}

/// What the scheduler itself says, for what isn't computed here.
fn said(message: &str) -> Option<Obstacle> {
    let known: [(&[&str], &Code, &str, &str); 4] = [
        (
            &["anti-affinity"],
            &codes::SCHED_ANTI_AFFINITY,
            "has a pod that this one must not be beside (anti-affinity)",
            "another node, fewer replicas, or preferredDuringScheduling in place of required",
        ),
        (
            &["pod affinity"],
            &codes::SCHED_AFFINITY,
            "has no pod that this one must be beside (affinity)",
            "a pod that matches the affinity, or preferredDuringScheduling in place of required",
        ),
        (
            &["topology spread"],
            &codes::SCHED_SPREAD,
            "would have too many of these pods (topologySpreadConstraints)",
            "another node, a larger maxSkew, or whenUnsatisfiable: ScheduleAnyway",
        ),
        (
            &["volume node affinity", "persistentvolume"],
            &codes::SCHED_VOLUME,
            "can't reach a volume",
            "a node that can",
        ),
    ];
    let found = known.iter().find(|(words, ..)| words.iter().any(|word| message.to_lowercase().contains(word)))?;
    Some(Obstacle { code: found.1, why: found.2.into(), remedy: found.3.into() })
}

fn summary(pod: &Value, nodes: &[(&str, Vec<Obstacle>)], message: &str) -> Finding {
    let object = ObjectRef::of(Kind::Pod, pod);
    // Of what bars single nodes, what is left where the least is in the way is what to change.
    let fewest = nodes.iter().filter(|(_, o)| !o.is_empty()).map(|(_, o)| o.len()).min().unwrap_or(0);
    let nearest: Vec<&Obstacle> = nodes.iter().filter(|(_, o)| o.len() == fewest).flat_map(|(_, o)| o).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for obstacle in &nearest {
        let count = counts.entry(obstacle.code.id).or_default();
        *count = count.saturating_add(1);
    }
    let most = nearest.iter().max_by_key(|o| counts.get(o.code.id).copied().unwrap_or(0));
    let total = nodes.len();
    let Some(first) = most else {
        let finding = Finding::new(&codes::SCHED_OTHER, object, format!("none of {total} nodes takes it"));
        return finding.detail(format!("the scheduler says: {}", short(message, 300))).follows("it has no node");
    };
    let of_nodes =
        if total == 1 { "the only node".into() } else { format!("none of {total} nodes takes it; the nearest one") };
    let says = format!("{of_nodes} {}", first.why);
    let mut finding = Finding::new(first.code, object, says);
    for (node, obstacles) in nodes.iter().take(LISTED_NODES).filter(|_| total > 1 || fewest > 1) {
        let why: Vec<&str> = obstacles.iter().map(|o| o.why.as_str()).collect();
        let why = if why.is_empty() { "could take it now; the scheduler tries again".into() } else { why.join("; ") };
        finding = finding.detail(format!("node {node} {why}"));
    }
    if total > LISTED_NODES {
        finding = finding.detail(format!("… and {} nodes more", total - LISTED_NODES));
    }
    let remedies: BTreeSet<&str> = nearest.iter().map(|o| o.remedy.as_str()).collect();
    let remedies: Vec<&str> = remedies.into_iter().take(3).collect();
    finding.detail(format!("what would have to change: {}", remedies.join("; or "))).follows("it has no node")
}
