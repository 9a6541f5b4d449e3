//! Nodes: lost, under pressure, cordoned, full, or with another clock.

use serde_json::Value;

use super::amounts;
use crate::codes::{self, Code};
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::object::{self, is_true, items, name, seconds_since, short, since, text, time};
use crate::snapshot::{ObjectRef, Snapshot, event_time};

/// So far a node's clock may be from this one's.
const CLOCK_SECONDS: i64 = 30;
/// A kubelet may be so many minor versions behind the API server (upstream's version skew policy).
const SKEW: u32 = 3;

/// Tells of nodes, and of certificates that they wait for.
pub fn check(s: &Snapshot, out: &mut Vec<Finding>) {
    for node in s.all(Kind::Node) {
        out.extend(readiness(s, node));
        pressures(s, node, out);
        out.extend(clock(s, node));
        out.extend(version(s, node));
        if is_true(node, "/spec/unschedulable") {
            let says = "it is cordoned: no new pods come to it";
            let next = format!("kubectl uncordon {}", name(node));
            out.push(Finding::new(&codes::NODE_CORDONED, ObjectRef::of(Kind::Node, node), says).next(next));
        }
        out.extend(full(s, node));
    }
    for request in s.all(Kind::CertificateSigningRequest) {
        let settled = items(request, "/status/conditions")
            .iter()
            .any(|c| ["Approved", "Denied", "Failed"].contains(&text(c, "/type")));
        let age = seconds_since(time(request, "/metadata/creationTimestamp"), s.now);
        if settled || age < 60 || !text(request, "/spec/signerName").starts_with("kubernetes.io/kube") {
            continue;
        }
        let says = format!("{} waits for a certificate that nobody has approved", text(request, "/spec/username"));
        out.push(
            Finding::new(&codes::NODE_CERTIFICATE, ObjectRef::of(Kind::CertificateSigningRequest, request), says)
                .follows("the node can't join, or its logs and exec don't work")
                .next(format!("kubectl certificate approve {}", name(request))),
        );
    }
}

fn readiness(s: &Snapshot, node: &Value) -> Option<Finding> {
    let object = ObjectRef::of(Kind::Node, node);
    let condition = object::condition(node, "Ready");
    let status = condition.map_or("Unknown", |c| text(c, "/status"));
    let age = since(condition.and_then(|c| time(c, "/lastTransitionTime")), s.now);
    let show = format!("kubectl describe node {}", name(node));
    let address = items(node, "/status/addresses")
        .iter()
        .find(|a| text(a, "/type") == "InternalIP")
        .map_or("", |a| text(a, "/address"));
    match status {
        "True" => None,
        "Unknown" => {
            let heard =
                s.get(Kind::Lease, "kube-node-lease", name(node)).and_then(|lease| time(lease, "/spec/renewTime"));
            let heard = heard.map_or(String::new(), |t| format!("it was heard of last {} ago", since(Some(t), s.now)));
            Some(
                Finding::new(&codes::NODE_LOST, object, format!("it hasn't been heard of for {age}: it is off, cut off, or too busy to answer"))
                    .detail(heard)
                    .detail(format!("its address is {address}"))
                    .follows("its pods count as not ready, and are made again elsewhere after five minutes if their controller may")
                    .next(format!("ping {address}"))
                    .next("systemctl status timonel  (on that machine)"),
            )
        }
        _ => {
            let message = condition.map_or("", |c| text(c, "/message"));
            let says = format!("its kubelet says that it isn't ready: {}", short(message, 250));
            Some(
                Finding::new(&codes::NODE_NOT_READY, object, says)
                    .detail(format!("for {age}"))
                    .follows("no new pods come to it")
                    .next(show),
            )
        }
    }
}

fn pressures(s: &Snapshot, node: &Value, out: &mut Vec<Finding>) {
    let kinds: [(&str, &Code, &str, &str); 4] = [
        (
            "DiskPressure",
            &codes::NODE_DISK,
            "its disk is nearly full",
            "df -h; du -xsh /var/lib/timonel/* /var/log  (on that machine)",
        ),
        (
            "MemoryPressure",
            &codes::NODE_MEMORY,
            "it has hardly any memory left",
            "kubectl top pods -A --sort-by=memory",
        ),
        (
            "PIDPressure",
            &codes::NODE_PIDS,
            "it has hardly any process numbers left",
            "ps -eLf | wc -l  (on that machine)",
        ),
        (
            "NetworkUnavailable",
            &codes::NODE_NETWORK,
            "its pod network isn't set up",
            "kubectl -n kube-system get pods -o wide",
        ),
    ];
    for (kind, code, says, next) in kinds {
        let Some(condition) = object::condition(node, kind).filter(|c| text(c, "/status") == "True") else { continue };
        let evicted = s
            .all(Kind::Pod)
            .filter(|p| text(p, "/spec/nodeName") == name(node) && text(p, "/status/reason") == "Evicted")
            .count();
        let told = s.event(Kind::Node, node, &["FreeDiskSpaceFailed", "ImageGCFailed", "EvictionThresholdMet"]);
        let told = told.map_or(String::new(), |event| short(text(event, "/message"), 200));
        out.push(
            Finding::new(code, ObjectRef::of(Kind::Node, node), says)
                .detail(short(text(condition, "/message"), 200))
                .detail(told)
                .detail(if evicted > 0 { format!("{evicted} pods were evicted from it") } else { String::new() })
                .follows("it takes no new pods, and evicts those that use most")
                .next(next)
                .next(format!("kubectl describe node {}", name(node))),
        );
    }
}

/// The time that a node writes into its lease is of its own clock.
fn clock(s: &Snapshot, node: &Value) -> Option<Finding> {
    let lease = s.get(Kind::Lease, "kube-node-lease", name(node))?;
    let renewed = time(lease, "/spec/renewTime")?;
    let ahead = renewed.duration_since(s.now).as_secs();
    if ahead < CLOCK_SECONDS {
        return None;
    }
    let says = format!("its clock is {ahead} s ahead of this machine's");
    Some(
        Finding::new(&codes::NODE_CLOCK, ObjectRef::of(Kind::Node, node), says)
            .follows("certificates and tokens count as expired or not yet valid")
            .next("timedatectl status  (on both machines)"),
    )
}

fn minor(version: &str) -> Option<u32> {
    let digits: String = version.split('.').nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn version(s: &Snapshot, node: &Value) -> Option<Finding> {
    let own = text(node, "/status/nodeInfo/kubeletVersion");
    let (server, kubelet) = (minor(&s.version)?, minor(own)?);
    if kubelet <= server && server.saturating_sub(kubelet) <= SKEW {
        return None;
    }
    let says = format!("its kubelet is {own} and the API server {}: more apart than is supported", s.version);
    Some(Finding::new(&codes::NODE_VERSION, ObjectRef::of(Kind::Node, node), says).next("kubectl get nodes -o wide"))
}

fn full(s: &Snapshot, node: &Value) -> Option<Finding> {
    const FULL: f64 = 0.95;
    if !s.knows(Kind::Pod, "") {
        return None;
    }
    let mut used = amounts::Amounts::new();
    for pod in s.all(Kind::Pod).filter(|pod| text(pod, "/spec/nodeName") == name(node) && amounts::counts(pod)) {
        amounts::add(&mut used, &amounts::requests(pod));
    }
    let allocatable = amounts::allocatable(node);
    let (resource, all, taken) = ["cpu", "memory", "pods"].iter().find_map(|resource| {
        let (all, taken) = (*allocatable.get(*resource)?, *used.get(*resource)?);
        (taken.as_f64() > all.as_f64() * FULL).then_some((*resource, all, taken))
    })?;
    let says =
        format!("its pods request {} of {} {resource}", amounts::show(resource, taken), amounts::show(resource, all));
    let finding = Finding::new(&codes::NODE_FULL, ObjectRef::of(Kind::Node, node), says);
    Some(finding.follows("hardly another pod fits on it").next(format!("kubectl describe node {}", name(node))))
}

/// Warning events about nodes and the rest of the cluster, the latest first, for `status`.
pub fn last_warnings(s: &Snapshot, count: usize) -> Vec<(String, String)> {
    let mut all: Vec<(&ObjectRef, &Value)> =
        s.all_events().filter(|(_, event)| text(event, "/type") == "Warning").collect();
    all.sort_by_key(|(_, event)| std::cmp::Reverse(event_time(event)));
    let line = |(about, event): (&ObjectRef, &Value)| {
        let times = object::int(event, "/count").or_else(|| object::int(event, "/series/count")).unwrap_or(1);
        let times = if times > 1 { format!(" (×{times})") } else { String::new() };
        (
            since(event_time(event), s.now),
            format!("{about}: {}: {}{times}", text(event, "/reason"), short(text(event, "/message"), 140)),
        )
    };
    all.into_iter().take(count).map(line).collect()
}
